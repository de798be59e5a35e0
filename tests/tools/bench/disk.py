"""`disk`: what the tables take on the disk, and what goes through the write-ahead log; extrapolated to a million.

Events of the benchmark's size go the way of every event through the store's own functions, in transactions as large as
the stages': inbox, saver, one sink. Also by itself: `python -m tests.tools.bench.disk [EVENTS]`.
"""

import hashlib
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time

from pipeline.process.clock import SystemClock
from pipeline.store import contacts, events, inbox, outbox
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.database import Row, Tx
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival, InboxRow
from pipeline.store.outbox import Settled
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.tools.bench.events import EVENT_BYTES
from tests.tools.bench.report import Figure, PartReport, table

EVENTS, QUICK_EVENTS = 200_000, 50_000
AUTHORS = 20_000
FOLLOWS_EACH = 200
_BATCH = 200
# As in the whole network; events come in by about the time that they bear.
_EVENTS_A_SECOND = 20
_MILLION = 1_000_000
_SINK = SinkName.PUBSUB
# What SQLite says of every b-tree; an index is counted with its table.
_SIZES = """
SELECT coalesce(sqlite_schema.tbl_name, dbstat.name), sum(pgsize)
  FROM dbstat LEFT JOIN sqlite_schema ON sqlite_schema.name = dbstat.name GROUP BY 1
"""


class _Fill:
    """One database that is filled step by step."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        self._now = round(time() * 1000)
        self._authors = Authors()
        self.database = open_database(path, SystemClock())
        # Nothing is moved out of the log until it has been measured.
        self.database.pragma("wal_autocheckpoint", 0)

    def arrivals(self) -> Iterator[list[Arrival]]:
        payload = b"x" * EVENT_BYTES
        for first in range(0, self._count, _BATCH):
            numbers = range(first, min(first + _BATCH, self._count))
            yield [
                Arrival(_digest("event", number), payload, 1, self._now, self._created_at(number)) for number in numbers
            ]

    def receive(self) -> int:
        """Crawlers append; returns the bytes logged."""
        return self._logged(inbox.append, self.arrivals())

    def save(self) -> int:
        """The saver takes all of it and queues it for one sink."""

        def save(tx: Tx, _: list[Arrival]) -> None:
            rows = inbox.claim(tx, now=self._now, lease=1, limit=_BATCH)
            accepted = [self._accepted(tx, row) for row in rows]
            events.accept(tx, accepted, self._now)
            events.store(tx, accepted)
            outbox.append(tx, _SINK, (each.event for each in accepted), self._now)
            inbox.queue.ack(tx, (row.receipt for row in rows))

        return self._logged(save, self.arrivals())

    def deliver(self) -> int:
        """The sink has had all of it."""

        def deliver(tx: Tx, _: list[Arrival]) -> None:
            rows = outbox.claim(tx, _SINK, now=self._now, lease=1, limit=_BATCH)
            outbox.settle(tx, [Settled(row, "delivered") for row in rows], self._now)

        return self._logged(deliver, self.arrivals())

    def follow(self, follows: int) -> None:
        """Contact lists of this many follows in all."""
        rng = random.Random(1)
        for _ in range(follows // FOLLOWS_EACH):
            with self.database.write() as tx:
                number = rng.randrange(AUTHORS * 10)
                followees = frozenset(self._author(tx, rng.randrange(AUTHORS)) for _ in range(FOLLOWS_EACH))
                follower = self._authors.intern(tx, _digest("follower", number))
                contacts.replace(tx, ContactList(follower, bytes(32), self._now, followees), self._now)
        self._empty_log()

    def sizes(self) -> dict[str, int]:
        """Bytes by table, indexes included."""
        with self.database.read() as tx:
            rows: list[Row] = tx.execute(_SIZES).fetchall()
            return dict(rows)

    def _accepted(self, tx: Tx, row: InboxRow) -> Accepted:
        number = row.event
        author, created_at = self._author(tx, number), self._created_at(number)
        return Accepted(number, row.event_id, created_at, 1, author, row.raw, row.relay, row.received_at, 1)

    def _created_at(self, number: int) -> int:
        return self._now // 1000 + number // _EVENTS_A_SECOND

    def _author(self, tx: Tx, number: int) -> int:
        return self._authors.intern(tx, _digest("author", number % AUTHORS))

    def _logged(self, step: Callable[[Tx, list[Arrival]], object], batches: Iterator[list[Arrival]]) -> int:
        """Bytes that a step writes to the log, which is emptied before it grows large."""
        logged = 0
        for number, batch in enumerate(batches):
            with self.database.write() as tx:
                step(tx, batch)
            if number % 50 == 49:
                logged += self._empty_log()
        return logged + self._empty_log()

    def _empty_log(self) -> int:
        log = self._path.with_name(self._path.name + "-wal")
        size = log.stat().st_size
        self.database.pragma("wal_checkpoint", "truncate")
        return size


def _digest(kind: str, number: int) -> bytes:
    return hashlib.sha256(f"{kind} {number}".encode()).digest()


def measure(count: int) -> PartReport:
    """The part `disk`, with so many events."""
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as directory:
        fill = _Fill(Path(directory) / "events.db", count)
        logged = {"appended to the inbox": fill.receive()}
        waiting = fill.sizes()
        logged["saved"] = fill.save()
        saved = fill.sizes()
        logged["delivered"] = fill.deliver()
        delivered = fill.sizes()
        fill.follow(count)
        followed = fill.sizes()
        fill.database.close()
    kept = [
        ("inbox, while they wait for the saver", waiting["inbox"], count),
        ("payloads, until delivered and an hour", saved["payloads"], count),
        ("events, likewise", saved["events"], count),
        ("outbox, per sink, while they wait", saved["outbox"], count),
        ("deliveries, per sink, for 30 days", delivered["deliveries"], count),
        ("seen, for 30 days", saved["seen"], count),
        ("contacts, per million follows", followed["contacts"], count),
    ]
    figures = [_figure(name, size, rows) for name, size, rows in kept]
    figures += [_figure(f"written to the log, {name}", size, count) for name, size in logged.items()]
    notes = (
        f"{count:,} events of {EVENT_BYTES} bytes, extrapolated; transactions of {_BATCH}",
        "the log itself is begun anew at 64 MB; a burst or a long reader makes it a few times as large",
    )
    return PartReport("disk", tuple(figures), notes)


def _figure(name: str, size: int, rows: int) -> Figure:
    return Figure(name, size / rows * _MILLION / 1e6, "MB a million", note=f"{size / rows:.0f} bytes each")


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `disk`; there is no limit to hold it against."""
    return measure(QUICK_EVENTS if quick else EVENTS)


if __name__ == "__main__":
    print(table(measure(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)))
