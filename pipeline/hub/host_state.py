"""What a crawling host says of itself, part by part: compressed JSON. Home trusts none of it.

| part | content |
|---|---|
| `counts` | what each process counted in its transactions |
| `series` | those of `pipeline/process/host_metrics.py`; many, so that they are said less often |
| `relays` | relays that are crawled, their open gaps, sweeps under way, events that they brought first |
| `drops` | the newest events that went no further, and why |
| `backfills` | how far relays are with home's jobs |

Members that a reader does not know are left out, so that hosts of two versions understand each other.
"""

import zlib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final

import orjson

from pipeline.errors import EventServiceError
from pipeline.nostr.address import InvalidAddress, parse_address

_LEVEL: Final = 6
_MAX_BYTES: Final = 32 << 20
_MAX_ROWS: Final = 50_000
_MAX_TEXT: Final = 4_096
_MAX_NUMBER: Final = 2**62


class InvalidState(EventServiceError):
    """A part that no uplink made; the text says what is wrong with it."""


class StatePart(StrEnum):
    """The parts, in the order in which home takes them."""

    COUNTS = "counts"
    SERIES = "series"
    RELAYS = "relays"
    DROPS = "drops"
    BACKFILLS = "backfills"


def encode(value: dict[str, Any]) -> bytes:
    """Return the body of a part."""
    return zlib.compress(orjson.dumps(value), _LEVEL)


def decode(body: bytes) -> dict[str, Any]:
    """Return the content of a body. Raises `InvalidState`."""
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(body, _MAX_BYTES)
        found = orjson.loads(text)
    except (zlib.error, orjson.JSONDecodeError):
        raise InvalidState("it is not compressed JSON") from None
    if reader.unconsumed_tail or type(found) is not dict:
        raise InvalidState("it is too large or not an object")
    return found


def text_of(found: dict[str, Any], name: str) -> str:
    """Return a member that is a short text. Raises `InvalidState`."""
    value = found.get(name)
    if type(value) is not str or len(value) > _MAX_TEXT:
        raise InvalidState(f"{name} is missing or not a text")
    return value


def rows_of(found: dict[str, Any], name: str, types: Sequence[type]) -> Iterator[list[Any]]:
    """Yield the rows of a member, each with columns of these types. Raises `InvalidState`.

    Numbers are from 0 up; a column of type `float` may be whole.
    """
    rows = found.get(name)
    if type(rows) is not list or len(rows) > _MAX_ROWS:
        raise InvalidState(f"{name} is missing or too long")
    for row in rows:
        if type(row) is not list or len(row) != len(types):
            raise InvalidState(f"a row of {name} has other columns")
        if not all(_is_of(value, kind) for value, kind in zip(row, types, strict=True)):
            raise InvalidState(f"a row of {name} has a column of another type or out of range")
        yield row


def labels_of(value: list[Any]) -> tuple[tuple[str, str], ...]:
    """Return labels, each a pair of name and value. Raises `InvalidState`."""
    for each in value:
        if type(each) is not list or len(each) != 2 or not all(_is_of(part, str) for part in each):
            raise InvalidState("a label is no pair of texts")
    return tuple((name, text) for name, text in value)


def address_of(value: str) -> str:
    """Return the canonical address of a relay. Raises `InvalidState`."""
    try:
        return parse_address(value).url
    except InvalidAddress:
        raise InvalidState("an address is of no relay") from None


def host_key_of(address: str) -> str:
    """Return the host of relays that a canonical address lies on."""
    return parse_address(address).host_key


def _is_of(value: object, kind: type) -> bool:
    if kind is float:
        # NaN is not JSON.
        return type(value) in {int, float} and abs(value) < _MAX_NUMBER  # type: ignore[arg-type]
    if type(value) is not kind:
        return False
    if isinstance(value, int):
        return 0 <= value < _MAX_NUMBER
    return not isinstance(value, str | list) or len(value) <= _MAX_TEXT
