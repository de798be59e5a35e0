"""The service's queues as the database shows them, looked at from outside without taking part."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

PUBSUB = "pubsub"
RELAY = "relay"
FILE = "jsonl"
"""A second sink, where a run has one."""
# Between 0 and 1 s in practice; longer means that somebody checkpoints with force.
_BUSY_MS = 5_000

IN_FLIGHT = """
SELECT event_id FROM outbox JOIN events USING (event) WHERE sink = ? AND claims > 0 AND ready_at > ?
"""
OFFERED = """
SELECT 1 FROM outbox WHERE sink = ? AND claims > 0 AND failures = 0 AND ready_at > ? LIMIT 1
"""
DELIVERED = "SELECT sink, event_id FROM deliveries JOIN seen USING (event)"
DEPTHS = """
SELECT (SELECT count(*) FROM inbox),
       (SELECT count(*) FROM outbox WHERE sink = 'pubsub'),
       (SELECT count(*) FROM outbox WHERE sink = 'relay')
"""
DEAD = "SELECT (SELECT count(*) FROM inbox_dead), (SELECT count(*) FROM outbox_dead)"
REFUSED = "SELECT sink, outcome, count(*) FROM deliveries WHERE outcome <> 'delivered' GROUP BY 1, 2"
LATEST_READY = """
SELECT max(ready_at) FROM (
  SELECT ready_at, failures FROM inbox UNION ALL SELECT ready_at, failures FROM outbox
) WHERE (failures > 0) = ?
"""
FATE = """
SELECT (SELECT 'inbox' FROM inbox WHERE event_id = ?1),
       (SELECT 'buried: ' || reason FROM inbox_dead WHERE event_id = ?1),
       (SELECT 'seen as ' || event FROM seen WHERE event_id = ?1),
       (SELECT group_concat(sink || ' ' || outcome) FROM deliveries JOIN seen USING (event) WHERE event_id = ?1),
       (SELECT group_concat(sink || ' waiting, failures ' || failures || ', in ms ' || (ready_at - ?2))
          FROM outbox JOIN seen USING (event) WHERE event_id = ?1)
"""
# A payload that nothing refers to stays for ever; a row without one is lost.
_OWNERS = "SELECT event FROM inbox UNION SELECT event FROM inbox_dead UNION SELECT event FROM events"
ORPHANS = f"SELECT count(*) FROM payloads WHERE event NOT IN ({_OWNERS})"
WITHOUT_PAYLOAD = f"SELECT count(*) FROM ({_OWNERS}) WHERE event NOT IN (SELECT event FROM payloads)"
CLEAR_WAITS = (
    "UPDATE inbox SET ready_at = min(ready_at, ?)",
    "UPDATE outbox SET ready_at = min(ready_at, ?)",
)
CLEAR_DIALS = "UPDATE relays SET next_dial_at = 0, failures = 0"


@dataclass(frozen=True, slots=True)
class Depths:
    """Rows in each queue, waiting or leased."""

    inbox: int
    pubsub: int
    relay: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.inbox + self.pubsub + self.relay


@dataclass(frozen=True, slots=True)
class Queues:
    """The database at `path`; every look opens a connection of its own and leaves nothing open."""

    path: Path
    _looking: "threading.RLock" = field(default_factory=threading.RLock, compare=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody of this process but this thread have the database open.

        All connections of a process share what SQLite knows of the log; one that is open while the log is changed
        behind its back would let others see what is no longer there.
        """
        with self._looking:
            yield

    def _rows(self, statement: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._looking:
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
            with closing(connection):
                connection.set_busy_timeout(_BUSY_MS)
                return list(connection.execute(statement, bindings))

    def integrity(self) -> str:
        """What is wrong with the file as a whole; empty when nothing is. Takes a while."""
        found = [str(row[0]) for row in self._rows("PRAGMA integrity_check(3)") if row[0] != "ok"]
        for what, statement in (("payloads of no event", ORPHANS), ("events without payload", WITHOUT_PAYLOAD)):
            if count := self._rows(statement)[0][0]:
                found.append(f"{count} {what}")
        return "; ".join(found)

    def in_flight(self, sink: str) -> set[str]:
        """Ids of the events that somebody holds a lease of, or put off after a failure."""
        return {event_id.hex() for (event_id,) in self._rows(IN_FLIGHT, (sink, _now_ms()))}

    def is_offered(self, sink: str) -> bool:
        """Whether somebody holds a lease of events that have not failed; false while the database cannot be read."""
        try:
            return bool(self._rows(OFFERED, (sink, _now_ms())))
        except apsw.Error:
            return False

    def delivered(self) -> set[tuple[str, str]]:
        """Sink and event id of everything that is written down as delivered."""
        return {(sink, event_id.hex()) for sink, event_id in self._rows(DELIVERED)}

    def depths(self) -> Depths | None:
        """How many rows wait; `None` while the database cannot be looked at."""
        try:
            return Depths(*self._rows(DEPTHS)[0])
        except apsw.Error:
            return None

    def buried(self) -> tuple[int, int]:
        """Rows given up of the inbox and of the outbox."""
        inbox, outbox = self._rows(DEAD)[0]
        return int(inbox), int(outbox)

    def refusals(self) -> list[str]:
        """What sinks refused for good, and how often."""
        return [f"{count} x {sink} {outcome}" for sink, outcome, count in self._rows(REFUSED)]

    def longest_wait_s(self, *, failed: bool) -> float:
        """In how many seconds the last of the rows is ready that have failed, or of those that have not."""
        (latest,) = self._rows(LATEST_READY, (failed,))[0]
        return 0.0 if latest is None else (latest - _now_ms()) / 1000

    def fate(self, event_id: str) -> str:
        """What the database knows of one event."""
        row = self._rows(FATE, (bytes.fromhex(event_id), _now_ms()))[0]
        return "; ".join(str(value) for value in row if value is not None) or "never seen"

    def clear_waits(self) -> int:
        """Make all rows ready and all relays due; only while no process runs. Returns how many rows waited."""
        with closing(apsw.Connection(str(self.path))) as connection:
            connection.set_busy_timeout(_BUSY_MS)
            before = sum(self._waiting(connection))
            for statement in CLEAR_WAITS:
                connection.execute(statement, (_now_ms(),))
            connection.execute(CLEAR_DIALS)
            return before

    @staticmethod
    def _waiting(connection: apsw.Connection) -> list[int]:
        tables = ("inbox", "outbox")
        counts = (f"SELECT count(*) FROM {table} WHERE ready_at > ?" for table in tables)
        return [int(connection.execute(count, (_now_ms(),)).get) for count in counts]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
