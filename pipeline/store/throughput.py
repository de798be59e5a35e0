"""Samples of the last hour: every few seconds, events that had arrived, deliveries, and how long they took."""

from dataclasses import dataclass

from pipeline.store import inbox, outbox
from pipeline.store.database import Tx

KEPT_MS = 3_600_000
# Deliveries whose time since first seen is measured for one sample.
_LOOKED_AT = 500

# Row numbers are given once, so that the newest is the count of all there ever were.
EVER = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = ?), 0)"
DEAD = "SELECT count(*) FROM outbox_dead"
DELAYS = """
SELECT deliveries.at - events.received_at FROM (SELECT * FROM events ORDER BY event DESC LIMIT ?1) AS events
  JOIN deliveries ON deliveries.event = events.event WHERE deliveries.at > ?2 ORDER BY 1
"""
LAST = "SELECT coalesce(max(at), 0) FROM samples"
PUT = "INSERT OR REPLACE INTO samples (at, arrived, handed_on, waiting, median, slowest) VALUES (?, ?, ?, ?, ?, ?)"
# A clock that was set back leaves samples of the future behind.
TRIM = "DELETE FROM samples WHERE at < ?1 OR at > ?2"
ALL = "SELECT at, arrived, handed_on, waiting, median, slowest FROM samples ORDER BY at"


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at `at` (ms): events that ever arrived, deliveries that were ever settled, pending events; the median
    and the 99th percentile (ms) from first seen to delivered, `None` if nothing was."""

    at: int
    arrived: int
    handed_on: int
    waiting: int
    median: int | None
    slowest: int | None


def sample(tx: Tx, now: int) -> Sample:
    """Return the state at `now`; delays are of deliveries since the last sample. Counts queues, so it is slow."""
    delays = [delay for (delay,) in tx.execute(DELAYS, (_LOOKED_AT, tx.execute(LAST).get))]
    owed = outbox.waiting_for_all(tx)
    return Sample(
        at=now,
        arrived=int(tx.execute(EVER, ("inbox",)).get),
        handed_on=int(tx.execute(EVER, ("outbox",)).get) - owed - int(tx.execute(DEAD).get),
        waiting=inbox.waiting(tx) + owed,
        median=delays[len(delays) // 2] if delays else None,
        slowest=delays[len(delays) * 99 // 100] if delays else None,
    )


def put(tx: Tx, sample: Sample) -> None:
    """Store `sample`, and drop those older than `KEPT_MS`."""
    at, arrived, handed_on, waiting = sample.at, sample.arrived, sample.handed_on, sample.waiting
    tx.execute(PUT, (at, arrived, handed_on, waiting, sample.median, sample.slowest))
    tx.execute(TRIM, (at - KEPT_MS, at))


def recent(tx: Tx) -> tuple[Sample, ...]:
    """Return the samples, the oldest first."""
    return tuple(Sample(*row) for row in tx.execute(ALL))
