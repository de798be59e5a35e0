"""The queue of replays: events that a sink has had, and is to be given once more after everything that is new.

It is leased like the outbox and apart from it, so that neither counts, backpressure nor `deliveries` know of it. A row
keeps its event from being dropped. What cannot be delivered is removed and counted, since the sink had it before.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from pipeline.store import outbox
from pipeline.store.database import Row, Tx
from pipeline.store.lease import MAX_LEASE_MS, MAX_WAIT_MS, LeaseQueue, QueueStatements
from pipeline.store.outbox import OutboxRow

APPEND = """
INSERT INTO replay_queue (event, sink, job, ready_at, bytes)
SELECT ?1, sink, id, ?3, coalesce((SELECT length(payload) FROM payloads WHERE event = ?1), 0) FROM replays WHERE id = ?2
ON CONFLICT (event, sink) DO UPDATE SET job = excluded.job
"""
CLAIM = """
UPDATE replay_queue SET ready_at = ?3, claims = claims + 1, holder = ?5
 WHERE seq IN (SELECT seq FROM replay_queue WHERE sink = ?1 AND ready_at <= ?2 ORDER BY ready_at, seq LIMIT ?4)
RETURNING seq, claims, failures, event, returned, job
"""
ANY_READY = "SELECT 1 FROM replay_queue WHERE sink = ? AND ready_at <= ? LIMIT 1"
PENDING = "SELECT count(*) FROM replay_queue WHERE job = ?"
DROP = "DELETE FROM replay_queue WHERE job = ?"
FUTURE = "SELECT 1 FROM replay_queue WHERE ready_at > ?1 AND (failures = 0 OR ready_at > ?2) LIMIT 1"
RESET_FUTURE = "UPDATE replay_queue SET ready_at = ?3 WHERE ready_at > ?1 AND (failures = 0 OR ready_at > ?2)"
COUNT = "UPDATE replays SET delivered = delivered + ?, refused = refused + ?, retracted = retracted + ? WHERE id = ?"

queue = LeaseQueue(QueueStatements.of("replay_queue", "event, sink, job, bytes"))


class ReplayOutcome(StrEnum):
    """How a row left the queue; a metric label."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    RETRACTED = "retracted"


class ReplayRow(NamedTuple):
    """A claimed row, and the replay that it belongs to."""

    row: OutboxRow
    job: int


def append(tx: Tx, job: int, events: Iterable[int], now: int) -> None:
    """Queue events for the sink of a replay, ready at once; those that an earlier replay has queued count for this."""
    tx.executemany(APPEND, ((event, job, now) for event in events))


def claim(tx: Tx, sink: str, *, now: int, lease: int, limit: int, holder: str | None) -> list[ReplayRow]:
    """Lease up to `limit` ready rows of `sink` for `lease` ms; see `outbox.claim`."""
    claimed: list[Row] = tx.execute(CLAIM, (sink, now, now + lease, limit, holder)).fetchall()
    claimed.sort()
    rows = outbox.with_events(tx, [row[:-1] for row in claimed], now, is_replay=True)
    return [ReplayRow(row, of[-1]) for row, of in zip(rows, claimed, strict=True)]


def settle(tx: Tx, settled: Iterable[tuple[ReplayRow, ReplayOutcome]]) -> Counter[ReplayOutcome]:
    """Remove rows and count them for their replays; return how many left by each outcome."""
    total: Counter[ReplayOutcome] = Counter()
    of_jobs: dict[int, Counter[ReplayOutcome]] = {}
    for each, outcome in settled:
        of_jobs.setdefault(each.job, Counter())[outcome] += queue.ack(tx, (each.row.receipt,))
    for job, counts in of_jobs.items():
        tx.execute(COUNT, (*(counts[outcome] for outcome in ReplayOutcome), job))
        total += counts
    return total


def any_ready(tx: Tx, sink: str, now: int) -> bool:
    """Return True if a claim at `now` would find a row."""
    return tx.execute(ANY_READY, (sink, now)).fetchone() is not None


def pending(tx: Tx, job: int) -> int:
    """Return how many rows of a replay are pending or leased."""
    return int(tx.execute(PENDING, (job,)).get)


def drop(tx: Tx, job: int) -> int:
    """Remove the rows of a replay, leased or not; return their number."""
    before = tx.total_changes()
    tx.execute(DROP, (job,))
    return tx.total_changes() - before


def has_future_rows(tx: Tx, now: int) -> bool:
    """Return True if any row is scheduled later than any lease or backoff can be; see `MAX_WAIT_MS`."""
    return tx.execute(FUTURE, (now + MAX_LEASE_MS, now + MAX_WAIT_MS)).fetchone() is not None


def reset_future_rows(tx: Tx, now: int) -> int:
    """Make such rows ready, leased or not; return how many there were."""
    before = tx.total_changes()
    tx.execute(RESET_FUTURE, (now + MAX_LEASE_MS, now + MAX_WAIT_MS, now))
    return tx.total_changes() - before
