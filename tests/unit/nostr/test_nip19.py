"""NIP-19: the document's examples, inverse functions, and that no damaged text is read."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given

from pipeline.nostr.nip19 import (
    InvalidEncoding,
    decode_note,
    decode_npub,
    decode_nsec,
    encode_note,
    encode_npub,
    encode_nsec,
    parse_event_id,
    parse_public_key,
)
from tests.support.seeds import told_seed
from tests.unit.nostr.strategies import keys, property_test

KEY = bytes.fromhex("7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e")
NPUB = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
SECRET = bytes.fromhex("67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa")
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
PAIRS = [(encode_npub, decode_npub), (encode_nsec, decode_nsec), (encode_note, decode_note)]


def test_the_examples_of_the_document() -> None:
    assert encode_npub(KEY) == NPUB
    assert decode_npub(NPUB) == KEY
    assert encode_nsec(SECRET) == NSEC
    assert decode_nsec(NSEC) == SECRET


@property_test
@given(keys)
def test_reading_is_the_inverse_of_writing(data: bytes) -> None:
    for encode, decode in PAIRS:
        assert decode(encode(data)) == data
        assert decode(encode(data).upper()) == data
    assert parse_public_key(encode_npub(data)) == data
    assert parse_public_key(data.hex()) == parse_public_key(f"\t{data.hex().upper()} \n") == data


@pytest.mark.parametrize(
    "text",
    [
        "",
        "npub1",
        NPUB[:-1],
        NPUB + "q",
        NPUB[:10] + NPUB[10:].upper(),
        NPUB.replace("npub1", "npub2"),
        NPUB.replace("0elfcs", "belfcs"),
        NPUB[:-1] + "b",
        NSEC,
        "é" * 63,
        NPUB[:-1] + "İ",
        "\ud800" * 63,
    ],
)
def test_what_is_no_npub(text: str) -> None:
    with pytest.raises(InvalidEncoding):
        decode_npub(text)
    with pytest.raises(InvalidEncoding):
        parse_public_key(text)


@pytest.mark.parametrize("text", ["", KEY.hex()[:-1], KEY.hex() + "0", "g" * 64, "٣" * 64, NSEC, encode_note(KEY)])
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(InvalidEncoding):
        parse_public_key(text)


def test_up_to_four_changed_characters_never_pass() -> None:
    """The checksum's promise, on random damage."""
    rng = random.Random(told_seed())
    for _ in range(2000):
        damaged = list(NPUB)
        for place in rng.sample(range(5, 63), rng.randint(1, 4)):
            damaged[place] = rng.choice([c for c in "qpzry9x8gf2tvdw0s3jn54khce6mua7l" if c != damaged[place]])
        with pytest.raises(InvalidEncoding, match="checksum"):
            decode_npub("".join(damaged))


def test_spare_bits_must_be_zero() -> None:
    """52 characters hold 260 bits; one key must have one spelling."""
    spare = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8p"  # the last character of data ends in ones
    from pipeline.nostr import nip19

    values = [nip19._VALUES[character] for character in spare[5:57]]
    remainder = nip19._polymod([*nip19._expanded("npub"), *values, *([0] * 6)]) ^ 1
    text = spare[:57] + "".join(nip19._CHARACTERS[remainder >> shift & 31] for shift in range(25, -1, -5))
    with pytest.raises(InvalidEncoding, match="spare"):
        decode_npub(text)


def test_a_refusal_never_repeats_a_secret() -> None:
    for text in (NSEC[:-1], NSEC[:-1] + "q", NSEC.replace("nsec1", "nsec2")):
        with pytest.raises(InvalidEncoding) as caught:
            decode_nsec(text)
        assert text[5:20] not in str(caught.value)


@pytest.mark.parametrize("encode", [encode for encode, _ in PAIRS])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_only_32_bytes_are_written(encode: Callable[[bytes], str], length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        encode(bytes(length))


# Made with nostr-sdk: the id alone, and with an author, a kind and a relay.
NEVENTS = (
    "nevent1qqs2h2at4w46h2at4w46h2at4w46h2at4w46h2at4w46h2at4w46h2cdayrhd",
    "nevent1qqs2h2at4w46h2at4w46h2at4w46h2at4w46h2at4w46h2at4w46h2czypl8a8zz4ydlauvl4y57tldpkuhqa0q6fsg5zee7y72zxnvx4h05"
    "uqcyqqqqqqgpzamhxue69uhhyetvv9ujuetcv9khqmr99e3k7mg7cpels",
)


@pytest.mark.parametrize(
    "text", [*NEVENTS, f"nostr:{NEVENTS[0]}", NEVENTS[1].upper(), "AB" * 32, encode_note(b"\xab" * 32)]
)
def test_an_event_is_named_in_every_way(text: str) -> None:
    assert parse_event_id(f" {text}\n") == b"\xab" * 32


@pytest.mark.parametrize(
    "text", ["", "nevent1", "nevent1qqqqqq", NEVENTS[0][:-1], NEVENTS[0] + "q", "nevent1" + "q" * 2000, NPUB]
)
def test_what_names_no_event_is_refused(text: str) -> None:
    with pytest.raises(InvalidEncoding):
        parse_event_id(text)


def test_an_nevent_damaged_anywhere_is_refused() -> None:
    for at in range(7, len(NEVENTS[1])):
        other = "q" if NEVENTS[1][at] != "q" else "p"
        with pytest.raises(InvalidEncoding):
            parse_event_id(NEVENTS[1][:at] + other + NEVENTS[1][at + 1 :])
