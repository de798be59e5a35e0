"""Compressed messages (permessage-deflate, RFC 7692): what is offered to a relay, what it may answer, how to inflate.

Only `server_no_context_takeover` is agreed to: each message then stands for itself, so that one can be skipped without
being inflated, and no relay costs memory between two of its messages. What we send is never compressed, which every
agreement allows.
"""

import zlib
from collections.abc import Sequence
from typing import Final

from pipeline.errors import EventServiceError

OFFER: Final = "permessage-deflate; server_no_context_takeover"

_NAME: Final = "permessage-deflate"
_NO_TAKEOVER: Final = "server_no_context_takeover"
_FLAGS: Final = frozenset({_NO_TAKEOVER, "client_no_context_takeover"})
_WINDOWS: Final = frozenset({"server_max_window_bits", "client_max_window_bits"})
_WINDOW_BITS: Final = frozenset(map(str, range(8, 16)))
# What the sender left off (RFC 7692 section 7.2.1).
_FLUSHED: Final = b"\x00\x00\xff\xff"
_WINDOW_BYTES: Final = 1 << 15
# Blocks that say they are the last one, in one message; zlib's own output has none, and each costs a new decoder.
_MAX_LAST_BLOCKS: Final = 64


class UnusableAgreement(EventServiceError):
    """The relay answered the offer with something that was not offered."""


def is_agreed(answers: Sequence[str]) -> bool:
    """Return True if the values of `Sec-WebSocket-Extensions` take the offer up, False if there are none.

    Raises `UnusableAgreement` where they name something else, or leave the context taken over.
    """
    extensions = [each.strip() for answer in answers for each in answer.split(",") if each.strip()]
    if not extensions:
        return False
    name, *parameters = (part.strip() for part in extensions[0].split(";"))
    if len(extensions) > 1 or name.lower() != _NAME:
        raise UnusableAgreement("another extension than the one offered")
    names = [_checked(parameter) for parameter in parameters]
    if len(set(names)) < len(names):
        raise UnusableAgreement("a parameter of compression is repeated")
    if _NO_TAKEOVER not in names:
        raise UnusableAgreement("compression only with context takeover")
    return True


def _checked(parameter: str) -> str:
    """Return the name of a parameter that may be answered; raises `UnusableAgreement`."""
    name, has_value, value = (part.strip() for part in parameter.lower().partition("="))
    if (name in _FLAGS and not has_value) or (name in _WINDOWS and value.strip('"') in _WINDOW_BITS):
        return name
    raise UnusableAgreement("an unknown parameter of compression")


def inflate(message: bytes, most: int) -> bytes | None:
    """Return the message that was compressed; None if it is longer than `most` bytes, or was compressed by no rule.

    At most `most` bytes and a little are ever made.
    """
    rest = message + _FLUSHED
    inflated = b""
    for _ in range(_MAX_LAST_BLOCKS):
        decoder = zlib.decompressobj(-zlib.MAX_WBITS, zdict=inflated[-_WINDOW_BYTES:])
        try:
            inflated += decoder.decompress(rest, most + 1 - len(inflated))
        except zlib.error:
            return None
        if len(inflated) > most:
            return None
        if not decoder.eof:
            return inflated
        rest = decoder.unused_data
        if len(rest) <= len(_FLUSHED) + 1:
            # The relay closed the last block itself (RFC 7692 section 7.2.3.4).
            return inflated
    return None


def inflate_head(head: bytes, most: int) -> bytes:
    """Return at most `most` bytes of what begins with `head`; fewer, even none, where it does not go on so far."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, most)
    except zlib.error:
        return b""
