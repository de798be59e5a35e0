"""What one crawling host hands over at once: verified events in the order of arrival, and what they complete.

The body is one line of JSON, the header, and behind it the events' canonical JSON, one after the other. Relays are
named by address, since their numbers differ from host to host. Home trusts no body: a host may have been taken over.
"""

from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, Final

import orjson

from pipeline.errors import EventServiceError
from pipeline.nostr.address import InvalidAddress, parse_address
from pipeline.store.relay_status import RelayState

MAX_EVENTS: Final = 200
MAX_BYTES: Final = 1 << 20
"""Events of a parcel, and their bytes; one event may have more."""
_MAX_BODY: Final = 16 << 20
# Of cursors, and of statuses.
_MAX_NOTES: Final = 100_000
_VERSION: Final = 1
_MAX_INTEGER: Final = 2**62
_MAX_TEXT: Final = 65_536


class InvalidParcel(EventServiceError):
    """A body that no uplink made; the text says what is wrong with it."""


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
class Parcel:
    """The content of a body."""

    events: tuple[SentEvent, ...] = ()
    cursors: tuple[SentCursor, ...] = ()
    statuses: tuple[SentStatus, ...] = ()

    def encode(self) -> bytes:
        """Return the body."""
        relays = {relay: number for number, relay in enumerate(dict.fromkeys(self._relays()))}
        header = {
            "version": _VERSION,
            "relays": list(relays),
            "events": [(relays[each.relay], each.received_at, len(each.raw)) for each in self.events],
            "cursors": [(relays[c.relay], c.query, c.complete_until, c.generation) for c in self.cursors],
            "statuses": [(relays[each.relay], *_values(each)) for each in self.statuses],
        }
        return b"".join((orjson.dumps(header), b"\n", *(each.raw for each in self.events)))

    def _relays(self) -> list[str]:
        return [each.relay for part in (self.events, self.cursors, self.statuses) for each in part]


_STATUS_FIELDS: Final = [field for field in fields(SentStatus) if field.name != "relay"]


def _values(status: SentStatus) -> list[Any]:
    return [getattr(status, field.name) for field in _STATUS_FIELDS]


def decode(body: bytes) -> Parcel:
    """Return the parcel of a body. Raises `InvalidParcel`.

    Addresses and the shape of all else are checked; events are not looked at.
    """
    if len(body) > _MAX_BODY:
        raise InvalidParcel("too large")
    header, rest = _parts(body)
    relays = _Relays(header.get("relays"))
    rows = [_row(each, (int, int, int)) for each in _list(header.get("events"))]
    ends = list(accumulate((length for _, _, length in rows), initial=0))
    if ends[-1] != len(rest):
        raise InvalidParcel("its events do not have the lengths that its header names")
    events = (
        SentEvent(rest[begin:end], relays.at(relay), received_at)
        for (relay, received_at, _), begin, end in zip(rows, ends, ends[1:], strict=False)
    )
    return Parcel(tuple(events), _cursors(header, relays), _statuses(header, relays))


def decode_notes(body: bytes) -> Parcel:
    """Return the parcel without its events, at a fraction of the cost. Raises `InvalidParcel`."""
    header, _ = _parts(body)
    relays = _Relays(header.get("relays"))
    return Parcel((), _cursors(header, relays), _statuses(header, relays))


def _parts(body: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header, and what follows it."""
    line, _, rest = body.partition(b"\n")
    try:
        header = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise InvalidParcel("its header is not JSON") from None
    if type(header) is not dict or header.get("version") != _VERSION:
        raise InvalidParcel("its version is not known: update the home host first")
    return header, rest


def _cursors(header: dict[str, Any], relays: "_Relays") -> tuple[SentCursor, ...]:
    rows = (_row(each, (int, str, int, int)) for each in _list(header.get("cursors")))
    return tuple(SentCursor(relays.at(relay), *columns) for relay, *columns in rows)


def _statuses(header: dict[str, Any], relays: "_Relays") -> tuple[SentStatus, ...]:
    return tuple(_status(relays, each) for each in _list(header.get("statuses")))


class _Relays:
    """The addresses that a header names."""

    def __init__(self, addresses: object) -> None:
        self._addresses = [_address(each) for each in _list(addresses)]

    def at(self, number: int) -> str:
        if number >= len(self._addresses):
            raise InvalidParcel("it names a relay by a number that none has")
        return self._addresses[number]


def _address(value: object) -> str:
    try:
        return parse_address(value).url if type(value) is str else _refuse("an address is not text")
    except InvalidAddress:
        raise InvalidParcel("an address is of no relay") from None


def _refuse(reason: str) -> str:
    raise InvalidParcel(reason)


def _list(value: object) -> list[Any]:
    if type(value) is not list or len(value) > _MAX_NOTES:
        raise InvalidParcel("a list of its header is missing or too long")
    return value


def _row(value: object, types: tuple[type, ...]) -> list[Any]:
    """Return a row of the header whose columns are of these types; numbers from 0 up."""
    if type(value) is not list or len(value) != len(types):
        raise InvalidParcel("a row of its header has other columns")
    for each, kind in zip(value, types, strict=True):
        if type(each) is not kind or not _is_in_range(each):
            raise InvalidParcel("a column of its header has another type or is out of range")
    return value


def _is_in_range(value: object) -> bool:
    return len(value) <= _MAX_TEXT if isinstance(value, str) else isinstance(value, int) and 0 <= value < _MAX_INTEGER


def _status(relays: _Relays, value: object) -> SentStatus:
    relay, state, *others = _row(value, (int, *(str if field.type is str else int for field in _STATUS_FIELDS)))
    if state not in set(RelayState):
        raise InvalidParcel("a relay's state is not known")
    try:
        orjson.loads(others[-1])
    except orjson.JSONDecodeError:
        raise InvalidParcel("a relay's limits are not JSON") from None
    return SentStatus(relays.at(relay), state, *others)
