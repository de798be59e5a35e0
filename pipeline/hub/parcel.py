"""What one crawling host hands over at once: verified events in the order of arrival, and what they complete.

A parcel has two parts, so that one is read even where the other cannot be. The body has the events: one line
of JSON, the header, and behind it their canonical JSON, one after the other. The notes are one JSON object: cursors and
states of relays. Relays are named by address, since their numbers differ from host to host.

Home trusts neither part, as a host may have been taken over, and reads what hosts of other versions send: members of
objects and columns of rows that it does not know are ignored, rows of notes that it cannot read are left out and
counted. A body that it cannot read is kept (`InvalidParcel`), for a version that can.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate
from typing import Any, Final, TypeVar

import orjson

from pipeline.errors import EventServiceError
from pipeline.nostr.address import InvalidAddress, parse_address
from pipeline.store.relay_status import RelayState

MAX_EVENTS: Final = 200
MAX_BYTES: Final = 1 << 20
"""Events of a parcel, and their bytes; one event may have more."""
UNKNOWN_RELAY: Final = "wss://unknown.invalid"
"""Of a relay that was forgotten while its event waited, or whose address home cannot read."""
_MAX_PART: Final = 16 << 20
# Of cursors, and of statuses.
_MAX_NOTES: Final = 100_000
_VERSION: Final = 1
_MAX_INTEGER: Final = 2**62
_MAX_TEXT: Final = 65_536
_T = TypeVar("_T")


class InvalidParcel(EventServiceError):
    """A body that this version cannot read; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event as its crawler took it; `raw` is JSON, `received_at` in ms by that host's clock."""

    raw: bytes
    relay: str
    received_at: int


@dataclass(frozen=True, slots=True)
class SentCursor:
    """`relay` is complete for `query` up to `complete_until` (s), for members wanted since `generation` or before."""

    relay: str
    query: str
    complete_until: int
    generation: int


@dataclass(frozen=True, slots=True)
class SentStatus:
    """State of a relay as its crawler last wrote it; see `relay_status.RelayStatus`. `limits` is JSON."""

    relay: str
    state: str
    state_since: int
    subscriptions: int
    rate_limit_backoff: int
    failures: int
    next_dial_at: int
    last_error: str
    asked: str
    owed_since: int
    is_resweeping: int
    is_paced: int
    resolved: str
    limits: str


@dataclass(frozen=True, slots=True)
class ParcelNotes:
    """What a parcel completes, and what changed. `unread`: how many rows could not be read."""

    cursors: tuple[SentCursor, ...] = ()
    statuses: tuple[SentStatus, ...] = ()
    unread: int = 0

    def encode(self) -> bytes:
        """Return the part of a parcel; empty for none."""
        if not self.cursors and not self.statuses:
            return b""
        names = _Names()
        cursors = [(names.number(c.relay), c.query, c.complete_until, c.generation) for c in self.cursors]
        statuses = [(names.number(each.relay), *_values(each)) for each in self.statuses]
        return orjson.dumps({"relays": names.all, "cursors": cursors, "statuses": statuses})


_STATUS_FIELDS: Final = [field for field in fields(SentStatus) if field.name != "relay"]
_CURSOR_TYPES: Final = (int, str, int, int)
_STATUS_TYPES: Final = (int, *(str if field.type is str else int for field in _STATUS_FIELDS))
_STATES: Final = frozenset(RelayState)


def _values(status: SentStatus) -> list[Any]:
    return [getattr(status, field.name) for field in _STATUS_FIELDS]


class _Names:
    """Addresses by their places in a header."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, relay: str) -> int:
        return self._numbers.setdefault(relay, len(self._numbers))

    @property
    def all(self) -> list[str]:
        return list(self._numbers)


def encode_events(events: Sequence[SentEvent]) -> bytes:
    """Return the body of a parcel."""
    names = _Names()
    rows = [(names.number(each.relay), each.received_at, len(each.raw)) for each in events]
    header = {"version": _VERSION, "relays": names.all, "events": rows}
    return b"".join((orjson.dumps(header), b"\n", *(each.raw for each in events)))


def chained(before: bytes, body: bytes, notes: bytes) -> bytes:
    """Return the digest of a stream with one more parcel; `hub.chained` computes the same."""
    return sha256(before + sha256(body).digest() + sha256(notes).digest()).digest()


def decode_events(body: bytes) -> tuple[SentEvent, ...]:
    """Return the events of a body, which are not looked at. Raises `InvalidParcel`."""
    if len(body) > _MAX_PART:
        raise InvalidParcel("it is too large")
    line, _, rest = body.partition(b"\n")
    header = _object(line)
    if header is None or header.get("version") != _VERSION:
        raise InvalidParcel("its version is not known: update the home host")
    relays = _relays(header)
    rows = [_row(each, (int, int, int)) for each in _list(header.get("events"))]
    if None in rows:
        raise InvalidParcel("a row of its header has another form")
    found = [row for row in rows if row is not None]
    ends = list(accumulate((length for _, _, length in found), initial=0))
    if ends[-1] != len(rest):
        raise InvalidParcel("its events do not have the lengths that its header names")
    return tuple(
        SentEvent(rest[begin:end], _at(relays, relay) or UNKNOWN_RELAY, received_at)
        for (relay, received_at, _), begin, end in zip(found, ends, ends[1:], strict=False)
    )


def decode_notes(text: bytes) -> ParcelNotes:
    """Return the notes of a parcel, as far as this version can read them."""
    if not text:
        return ParcelNotes()
    found = _object(text) if len(text) <= _MAX_PART else None
    if found is None:
        return ParcelNotes(unread=1)
    relays = _relays(found)
    cursors, unread_cursors = _readable(found.get("cursors"), lambda row: _cursor(relays, row))
    statuses, unread_statuses = _readable(found.get("statuses"), lambda row: _status(relays, row))
    return ParcelNotes(cursors, statuses, unread_cursors + unread_statuses)


def _readable(rows: object, read: Callable[[object], _T | None]) -> tuple[tuple[_T, ...], int]:
    """Return what can be read of a list, and how many rows cannot."""
    if rows is None:
        return (), 0
    if type(rows) is not list or len(rows) > _MAX_NOTES:
        return (), 1
    found = tuple(each for row in rows if (each := read(row)) is not None)
    return found, len(rows) - len(found)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if type(found) is dict else None


def _relays(header: dict[str, Any]) -> list[str | None]:
    found = header.get("relays")
    return [_address(each) for each in found] if type(found) is list and len(found) <= _MAX_NOTES else []


def _at(relays: list[str | None], number: int) -> str | None:
    return relays[number] if number < len(relays) else None


def _address(value: object) -> str | None:
    return _canonical(value) if type(value) is str else None


@lru_cache(maxsize=16_384)
def _canonical(text: str) -> str | None:
    try:
        return parse_address(text).url
    except InvalidAddress:
        return None


def _list(value: object) -> list[Any]:
    if type(value) is not list or len(value) > _MAX_NOTES:
        raise InvalidParcel("the list of its events is missing or too long")
    return value


def _row(value: object, types: Sequence[type]) -> list[Any] | None:
    """Return the columns of a row that this version knows, if they are of these types; numbers from 0 up."""
    if type(value) is not list or len(value) < len(types):
        return None
    columns = value[: len(types)]
    return columns if all(map(_is_of, columns, types)) else None


def _is_of(value: object, kind: type) -> bool:
    if type(value) is not kind:
        return False
    return len(value) <= _MAX_TEXT if isinstance(value, str) else isinstance(value, int) and 0 <= value < _MAX_INTEGER


def _cursor(relays: list[str | None], value: object) -> SentCursor | None:
    row = _row(value, _CURSOR_TYPES)
    relay = None if row is None else _at(relays, row[0])
    return None if row is None or relay is None else SentCursor(relay, *row[1:])


def _status(relays: list[str | None], value: object) -> SentStatus | None:
    row = _row(value, _STATUS_TYPES)
    relay = None if row is None else _at(relays, row[0])
    if row is None or relay is None or row[1] not in _STATES or _object(row[-1].encode(errors="replace")) is None:
        return None
    return SentStatus(relay, *row[1:])


def relays_of(events: Iterable[SentEvent], notes: ParcelNotes) -> set[str]:
    """Return the addresses that a parcel names."""
    return {each.relay for part in (events, notes.cursors, notes.statuses) for each in part}
