"""Keys and ids as people see them: `npub1…`, `nsec1…`, `note1…`, `nevent1…` (NIP-19, bech32 of BIP-173)."""

import re
from collections.abc import Iterable
from typing import Final, NoReturn

from pipeline.errors import EventServiceError

_CHARACTERS: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES: Final = {character: value for value, character in enumerate(_CHARACTERS)}
_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH: Final = 6
_LENGTH: Final = 63  # a four-letter prefix, "1", 52 characters of data and the checksum
# A relay hint of 255 bytes, an author and a kind beside the id come to some 560.
_MAX_NEVENT_LENGTH: Final = 1_000
_HEX64: Final = re.compile("[0-9a-fA-F]{64}")


class InvalidEncoding(EventServiceError):
    """A text that is no key or id; the message never repeats it, as it may be a secret."""


def encode_npub(public_key: bytes) -> str:
    """`npub1…` for a 32-byte public key."""
    return _encode("npub", public_key)


def decode_npub(text: str) -> bytes:
    """Return the 32-byte public key of an `npub1…`. Raises `InvalidEncoding`."""
    return _decode("npub", text)


def encode_nsec(secret: bytes) -> str:
    """`nsec1…` for a 32-byte secret key."""
    return _encode("nsec", secret)


def decode_nsec(text: str) -> bytes:
    """Return the 32-byte secret key of an `nsec1…`. Raises `InvalidEncoding`."""
    return _decode("nsec", text)


def encode_note(event_id: bytes) -> str:
    """`note1…` for a 32-byte event id."""
    return _encode("note", event_id)


def decode_note(text: str) -> bytes:
    """Return the 32-byte event id of a `note1…`. Raises `InvalidEncoding`."""
    return _decode("note", text)


def parse_public_key(text: str) -> bytes:
    """Return a public key, 32 bytes, from 64 hexadecimal digits in either case or `npub1…`. Raises `InvalidEncoding`.

    Surrounding blanks are ignored. Whether the key is a point on the curve is not checked.
    """
    text = text.strip()
    if _HEX64.fullmatch(text):
        return bytes.fromhex(text)
    if text[:5].lower() != "npub1":
        raise InvalidEncoding("a public key is 64 hexadecimal digits or npub1…")
    return decode_npub(text)


def parse_event_id(text: str) -> bytes:
    """Return an event's id, 32 bytes, from 64 hexadecimal digits in either case, `note1…` or `nevent1…`.

    `nostr:` may stand before it (NIP-21). Raises `InvalidEncoding`.
    """
    text = text.strip().removeprefix("nostr:")
    if _HEX64.fullmatch(text):
        return bytes.fromhex(text)
    if text[:7].lower() == "nevent1":
        return _event_of(text)
    if text[:5].lower() != "note1":
        raise InvalidEncoding("an event's id is 64 hexadecimal digits, note1… or nevent1…")
    return decode_note(text)


def _encode(prefix: str, data: bytes) -> str:
    if len(data) != 32:
        raise ValueError("keys and ids have 32 bytes")
    bits = int.from_bytes(data) << 4  # 256 bits are 52 groups of five when four zeros follow
    values = [bits >> shift & 31 for shift in range(255, -1, -5)]
    remainder = _polymod([*_expanded(prefix), *values, *([0] * _CHECKSUM_LENGTH)]) ^ 1
    values += [remainder >> shift & 31 for shift in range(25, -1, -5)]
    return f"{prefix}1{''.join(_CHARACTERS[value] for value in values)}"


def _decode(prefix: str, text: str) -> bytes:
    if len(text) != _LENGTH or (text != text.lower() and text != text.upper()) or text[:5].lower() != f"{prefix}1":
        raise InvalidEncoding(f"it is no {prefix}1… of {_LENGTH} characters in one case")
    data, spare = _decode_words(prefix, text[5:].lower())
    assert len(data) == 32, "52 groups of five"
    return data if not spare else _refuse_spare(prefix)


def _event_of(text: str) -> bytes:
    """Return the id in an `nevent1…`: records of type, length and value, of which that of type 0 is the id."""
    if len(text) > _MAX_NEVENT_LENGTH or (text != text.lower() and text != text.upper()):
        raise InvalidEncoding(f"it is no nevent1… of at most {_MAX_NEVENT_LENGTH} characters in one case")
    data, spare = _decode_words("nevent", text.lower().removeprefix("nevent1"))
    if spare:
        _refuse_spare("nevent")
    while len(data) >= 2:
        kind, length = data[0], data[1]
        value, data = data[2 : 2 + length], data[2 + length :]
        if kind == 0 and length == len(value) == 32:
            return value
    raise InvalidEncoding("the nevent holds no id of an event")


def _decode_words(prefix: str, text: str) -> tuple[bytes, int]:
    """Return the bytes that the characters after `prefix` and its `1` stand for, and what is left of the last group."""
    try:
        values = [_VALUES[character] for character in text]
    except KeyError:
        raise InvalidEncoding(f"the {prefix} holds a character that bech32 has not") from None
    if len(values) < _CHECKSUM_LENGTH or _polymod([*_expanded(prefix), *values]) != 1:
        raise InvalidEncoding(f"the {prefix} has a wrong checksum")
    bits = 0
    for value in values[:-_CHECKSUM_LENGTH]:
        bits = bits << 5 | value
    count, left = divmod(5 * (len(values) - _CHECKSUM_LENGTH), 8)
    if left >= 5:
        raise InvalidEncoding(f"the {prefix} has bits to spare")
    return (bits >> left).to_bytes(count), bits & ((1 << left) - 1)


def _refuse_spare(prefix: str) -> NoReturn:
    raise InvalidEncoding(f"the {prefix} has bits to spare")


def _expanded(prefix: str) -> list[int]:
    return [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]


def _polymod(values: Iterable[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            if top >> bit & 1:
                checksum ^= generator
    return checksum
