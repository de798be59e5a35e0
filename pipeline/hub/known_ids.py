"""Ids that home has saved, told to the other crawling hosts, so that copies of these events end there.

It saves the verification and the line of copies that several hosts have, and no more: whatever of it is lost, late or
told twice, home drops what it knows. Only what is saved is told. So an id that a crawling host knows is one that home
has or that it handed over itself, and cursors need no care: a relay that gives a known event is as complete for it as
for one that the host has accepted.

An id is looked for in home's database a moment after its parcel was taken, since the saver decides first.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

from pipeline.hub.connection import HubConnection
from pipeline.process.clock import Clock
from pipeline.store import events
from pipeline.store.authors import Authors
from pipeline.store.database import Database
from pipeline.store.events import NO_TIME, Accepted

FEED_FUNCTIONS: Final = ("tell_known_v1",)
FUNCTIONS: Final = ("known_v1",)
"""What the hub must have for home's side, and for a crawling host's."""
RECORD: Final = Struct(">32s32sqi")
# Told at once, and looked for in one read.
MOST_TOLD: Final = 500
# Within some seconds of a flood; what is beyond is not told.
MOST_WAITING: Final = 50_000
# The saver has decided about an event after the one; what it has not saved after the other it does not save.
SETTLED_S: Final = 0.3
EXPIRED_S: Final = 10.0
LOOK_S: Final = 0.5
# Some 10,000 ids at most, written in slices so that each transaction takes some milliseconds.
_ROWS: Final = 20
_SLICE: Final = 1_000


class TakenId(NamedTuple):
    """An event that home took from a host; `created_at` in seconds."""

    event_id: bytes
    author: bytes
    created_at: int
    kind: int


@dataclass(slots=True)
class _Waiting:
    host: str
    taken: TakenId
    look_at: float
    until: float


@dataclass(slots=True)
class KnownIdsFeed:
    """Home's side. For one thread."""

    clock: Clock
    _waiting: deque[_Waiting] = field(default_factory=deque)

    def add(self, host: str, taken: Iterable[TakenId]) -> None:
        """Note what was taken from a host."""
        now = self.clock.monotonic()
        for each in taken:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(_Waiting(host, each, now + SETTLED_S, now + EXPIRED_S))

    def turn(self, connection: HubConnection, database: Database) -> None:
        """Tell what has been saved. Raises `HubUnavailable` or `HubRefused`."""
        now = self.clock.monotonic()
        due: list[_Waiting] = []
        while self._waiting and len(due) < MOST_TOLD and self._waiting[0].look_at <= now:
            due.append(self._waiting.popleft())
        if not due:
            return
        with database.read() as tx:
            saved = events.seen(tx, ((each.taken.event_id, each.taken.created_at) for each in due))
        by_host: dict[str, list[TakenId]] = {}
        for each in due:
            if each.taken.event_id in saved:
                by_host.setdefault(each.host, []).append(each.taken)
            elif now < each.until:
                each.look_at = now + SETTLED_S
                self._waiting.append(each)
        for host, taken in by_host.items():
            connection.call("tell_known_v1", host, b"".join(RECORD.pack(*each) for each in taken))


@dataclass(slots=True)
class KnownIdsSync:
    """A crawling host's side. For one thread."""

    clock: Clock
    _authors: Authors = field(default_factory=Authors)
    _place: int = -1
    _look_at: float = 0.0
    _connection: HubConnection | None = None

    def turn(self, connection: HubConnection, database: Database) -> None:
        """Let crawlers know what is new. Raises `HubUnavailable` or `HubRefused`."""
        now = self.clock.monotonic()
        if now < self._look_at:
            return
        if connection is not self._connection:
            # What was told while there was none is received again for less than it takes to fetch it.
            self._connection, self._place = connection, -1
        before = self._place
        ((self._place, packed),) = connection.call("known_v1", before, _ROWS)
        found = [TakenId(*row) for row in RECORD.iter_unpack(packed)]
        for first in range(0, len(found), _SLICE):
            self._put(database, found[first : first + _SLICE])
        self._look_at = now if 0 <= before <= self._place - _ROWS else now + LOOK_S

    def _put(self, database: Database, found: list[TakenId]) -> None:
        now = self.clock.now_ms()
        try:
            with database.write() as tx:
                authors = self._authors.intern_all(tx, (each.author for each in found))
                rows = (
                    Accepted(0, each.event_id, each.created_at or NO_TIME, each.kind, author, b"", 0, now, 0)
                    for each, author in zip(found, authors, strict=True)
                )
                events.accept(tx, rows, now)
        except BaseException:
            self._authors.forget()
            raise
