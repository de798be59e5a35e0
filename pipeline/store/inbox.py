"""Verified events on their way from the crawlers to the saver."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.store import events, payloads
from pipeline.store.database import Row, Tx
from pipeline.store.lease import MAX_LEASE_MS, MAX_WAIT_MS, LeaseQueue, QueueSize, QueueStatements, Receipt

# An event is known if it was accepted before, is a dead letter, or was appended by another crawler.
KNOWN = """
SELECT ?1
 WHERE EXISTS (SELECT 1 FROM seen WHERE created_at = ?2 AND event_id = ?1)
    OR EXISTS (SELECT 1 FROM inbox WHERE created_at = ?2 AND event_id = ?1)
    OR EXISTS (SELECT 1 FROM inbox_dead WHERE event_id = ?1)
"""
# The same where ids may be kept under `events.NO_TIME`, which is 0.
KNOWN_AT_ANY_TIME = KNOWN.replace("= ?2", "IN (?2, 0)")
# A new event has the number of its first row; a row that is queued again has another, and its event keeps its own.
APPEND = """
INSERT INTO inbox (seq, event, event_id, created_at, relay, received_at, ready_at, bytes)
VALUES (?1, ?1, ?2, ?3, ?4, ?5, ?5, ?6)
"""
# The largest number ever given, so that none comes back.
LAST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'inbox'"
CLAIM = """
UPDATE inbox SET ready_at = ?2, claims = claims + 1, holder = ?4
 WHERE seq IN (SELECT seq FROM inbox WHERE ready_at <= ?1 ORDER BY ready_at LIMIT ?3)
RETURNING seq, claims, failures, event, event_id, relay, received_at
"""
# The same rows without taking the write lock.
READY = """
SELECT seq, claims, failures, event, event_id, relay, received_at FROM inbox
 WHERE ready_at <= ? ORDER BY ready_at LIMIT ?
"""
# Rows that a clock scheduled that was ahead, and their repair.
FUTURE = "SELECT 1 FROM inbox WHERE ready_at > ?1 AND (failures = 0 OR ready_at > ?2) LIMIT 1"
RESET_FUTURE = "UPDATE inbox SET ready_at = ?3 WHERE ready_at > ?1 AND (failures = 0 OR ready_at > ?2)"
NEXT_READY = "SELECT ready_at FROM inbox ORDER BY ready_at LIMIT 1"
# The count stops at the bound: the callers only need to know whether it is reached.
SIZE_AT_MOST = "SELECT count(*), coalesce(sum(bytes), 0) FROM (SELECT bytes FROM inbox INDEXED BY inbox_ready LIMIT ?)"
WAITING = "SELECT count(*) FROM inbox"
SIZE = "SELECT count(*), coalesce(sum(bytes), 0) FROM inbox INDEXED BY inbox_ready"
OLDEST = "SELECT received_at FROM inbox ORDER BY seq LIMIT 1"
# Rows that failed are few and are retried when it is time; only rows without an attempt show that work stands still.
OLDEST_UNATTEMPTED = "SELECT received_at FROM inbox WHERE failures = 0 ORDER BY seq LIMIT 1"
NEWEST = "SELECT coalesce(max(seq), 0) FROM inbox"
ANY_UNATTEMPTED_UP_TO = "SELECT 1 FROM inbox WHERE seq <= ? AND failures = 0 LIMIT 1"
DEAD = "SELECT count(*) FROM inbox_dead"

queue = LeaseQueue(QueueStatements.of("inbox", "event, event_id, created_at, relay, received_at, bytes"))


class Arrival(NamedTuple):
    """A verified event as a crawler hands it over; `raw` is its canonical JSON, `created_at` its own time (s)."""

    event_id: bytes
    raw: bytes
    relay: int
    received_at: int
    created_at: int


class InboxRow(NamedTuple):
    """A row of the event numbered `event`, claimed or as it was found."""

    receipt: Receipt
    failures: int
    event: int
    event_id: bytes
    raw: bytes
    relay: int
    received_at: int


def append(tx: Tx, arrivals: Iterable[Arrival]) -> set[bytes]:
    """Add events that are not seen yet, ready at once; return the ids that were new."""
    by_id = {arrival.event_id: arrival for arrival in arrivals}
    was_known = known(tx, ((arrival.event_id, arrival.created_at) for arrival in by_id.values()))
    first = int(tx.execute(LAST).get) + 1
    new = list(enumerate((arrival for event_id, arrival in by_id.items() if event_id not in was_known), first))
    tx.executemany(APPEND, ((n, e.event_id, e.created_at, e.relay, e.received_at, len(e.raw)) for n, e in new))
    payloads.put(tx, ((number, e.raw) for number, e in new))
    return {arrival.event_id for _, arrival in new}


def newest_ever(tx: Tx) -> int:
    """Return the number of the newest row that there ever was."""
    return int(tx.execute(LAST).get)


def known(tx: Tx, found: Iterable[tuple[bytes, int]]) -> set[bytes]:
    """Return which of the events, each with its id and time (s), were accepted, wait here or are dead letters."""
    statement = KNOWN_AT_ANY_TIME if events.any_without_time(tx) else KNOWN
    return {event_id for (event_id,) in tx.executemany(statement, found)}


def claim(tx: Tx, *, now: int, lease: int, limit: int, holder: str | None = None) -> list[InboxRow]:
    """Lease up to `limit` ready rows for `lease` ms, oldest first. Read the clock after the lock is held.

    `holder` is the slot of this process, for `LeaseQueue.release_all`.
    """
    return _with_payloads(tx, tx.execute(CLAIM, (now, now + lease, limit, holder)).fetchall())


def ready(tx: Tx, *, now: int, limit: int) -> list[InboxRow]:
    """Return the rows that a claim would lease, as they are.

    Their receipts are good until another process claims the row or removes it: it cannot know that they are in use.
    """
    return _with_payloads(tx, tx.execute(READY, (now, limit)).fetchall())


def _with_payloads(tx: Tx, rows: list[Row]) -> list[InboxRow]:
    rows.sort()
    raw = payloads.of_events(tx, (event for _, _, _, event, *_ in rows))
    return [
        InboxRow(Receipt(seq, claims), failures, event, event_id, raw.get(event, b""), relay, received_at)
        for seq, claims, failures, event, event_id, relay, received_at in rows
    ]


def has_future_rows(tx: Tx, now: int) -> bool:
    """Return True if any row is scheduled later than any lease or backoff can be; see `MAX_WAIT_MS`."""
    return tx.execute(FUTURE, (now + MAX_LEASE_MS, now + MAX_WAIT_MS)).fetchone() is not None


def reset_future_rows(tx: Tx, now: int) -> int:
    """Make such rows ready, leased or not; return how many there were."""
    before = tx.total_changes()
    tx.execute(RESET_FUTURE, (now + MAX_LEASE_MS, now + MAX_WAIT_MS, now))
    return tx.total_changes() - before


def next_ready_at(tx: Tx) -> int | None:
    """Return when the first row is or becomes ready; `None` if there is no row."""
    row = tx.execute(NEXT_READY).fetchone()
    return None if row is None else int(row[0])


def waiting(tx: Tx) -> int:
    """Return how many rows are pending or leased."""
    return int(tx.execute(WAITING).get)


def size(tx: Tx, at_most: int | None = None) -> QueueSize:
    """Return number and bytes of the rows, pending or leased; with `at_most`, of no more rows than that."""
    found = tx.execute(SIZE) if at_most is None else tx.execute(SIZE_AT_MOST, (at_most,))
    return QueueSize(*found.get)


def oldest_received_at(tx: Tx) -> int | None:
    """Return when the oldest pending event was received; `None` if there is none."""
    row = tx.execute(OLDEST).fetchone()
    return None if row is None else int(row[0])


def oldest_unattempted(tx: Tx) -> int | None:
    """Return the same for the events that have not failed."""
    row = tx.execute(OLDEST_UNATTEMPTED).fetchone()
    return None if row is None else int(row[0])


def newest(tx: Tx) -> int:
    """Return the number of the newest row; 0 if there is none."""
    return int(tx.execute(NEWEST).get)


def any_unattempted_up_to(tx: Tx, seq: int) -> bool:
    """Return True if the saver has yet to come to a row up to this number."""
    return tx.execute(ANY_UNATTEMPTED_UP_TO, (seq,)).fetchone() is not None


def dead(tx: Tx) -> int:
    """Return the number of dead letters."""
    return int(tx.execute(DEAD).get)
