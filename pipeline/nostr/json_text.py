"""JSON text as Nostr software writes it, read and written with bounded depth and in linear time.

orjson does nearly all of it. It refuses lone surrogates (`"\\ud800"`), which JavaScript clients sign and relays carry,
so a text that holds such an escape gets a second, slower reading.
"""

import json
import re
from itertools import accumulate
from math import isinf
from typing import Any, Final, NoReturn

import orjson

from pipeline.errors import EventServiceError

# An EVENT frame is four deep; more than this occurs only in members that are dropped. The standard library recurses in
# C, so the bound also keeps a hostile text from exhausting a small thread stack.
_MAX_DEPTH: Final = 64
_MAX_INTEGER_LENGTH: Final = 20  # characters of 2**64 - 1 and of -(2**63)

_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
# Possessive, and content with a missing end: linear on every input.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class NotJson(EventServiceError):
    """Bytes that are no JSON text in UTF-8."""


def decode(raw: bytes) -> Any:
    """Return the value of a JSON text in UTF-8. Raises `NotJson` and nothing else.

    Of equal keys in one object the last counts. A byte order mark, NaN, Infinity and nesting deeper than about a
    thousand levels are refused, and numbers beyond the range of floats. An integer outside of 64 bits becomes a float.
    Lone surrogate escapes are kept as lone surrogates.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        if _SURROGATE_ESCAPE.search(raw) is None:
            raise NotJson("it is no JSON text") from None
    return _decode_with_surrogates(raw)


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8, byte for byte as JavaScript's `JSON.stringify` writes it, lone surrogates as escapes."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8", "backslashreplace")


def _decode_with_surrogates(raw: bytes) -> Any:
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > _MAX_DEPTH:
        raise NotJson("it is nested too deeply")
    try:
        # Decoded here, because json.loads would also accept other encodings than UTF-8.
        return json.loads(raw.decode("utf-8"), parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant)
    except ValueError:
        raise NotJson("it is no JSON text") from None


def _integer(digits: str) -> int | float:
    # Long digits are not even tried: int() takes quadratic time.
    value = int(digits) if len(digits) <= _MAX_INTEGER_LENGTH else None
    return value if value is not None and -(2**63) <= value < 2**64 else _float(digits)


def _float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise NotJson("it holds a number that is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is no JSON")
