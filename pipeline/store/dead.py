"""Dead letters of every queue: find, requeue and purge them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.store import inbox, outbox, payloads, sinks
from pipeline.store.database import Row, Tx
from pipeline.store.lease import LeaseQueue

FIND_INBOX = """
SELECT seq, event_id, reason, claims, failures, buried_at FROM inbox_dead
 WHERE instr(lower(reason), lower(?1)) AND buried_at <= ?2 ORDER BY buried_at, seq LIMIT ?3
"""
FIND_OUTBOX = """
SELECT seq, coalesce(events.event_id, x''), reason, claims, failures, buried_at
  FROM outbox_dead LEFT JOIN events ON events.event = outbox_dead.event
 WHERE sink = ?4 AND instr(lower(reason), lower(?1)) AND buried_at <= ?2 ORDER BY buried_at, seq LIMIT ?3
"""
NEWEST_INBOX = """
SELECT seq, event_id, reason, claims, failures, buried_at FROM inbox_dead ORDER BY seq DESC LIMIT ?1
"""
NEWEST_OUTBOX = """
SELECT seq, coalesce(events.event_id, x''), reason, claims, failures, buried_at
  FROM outbox_dead LEFT JOIN events ON events.event = outbox_dead.event WHERE sink = ?2 ORDER BY seq DESC LIMIT ?1
"""
INBOX_PAYLOAD = "SELECT payload FROM inbox_dead JOIN payloads USING (event) WHERE seq = ?"
OUTBOX_PAYLOAD = "SELECT payload FROM outbox_dead JOIN payloads USING (event) WHERE seq = ?"
INBOX_EVENT = "SELECT event FROM inbox_dead WHERE seq = ?"
# The event is settled at this sink, so that retention may drop its payload.
RECORD_DROPPED = """
INSERT INTO deliveries (event, sink, outcome, at) SELECT event, sink, 'dropped', ?1 FROM outbox_dead WHERE seq = ?2
ON CONFLICT DO NOTHING
"""


class DeadQueue(str):
    """Queue of a dead letter: the inbox, or the outbox of a sink by its name."""

    __slots__ = ()
    INBOX: ClassVar["DeadQueue"]


DeadQueue.INBOX = DeadQueue("inbox")


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A dead letter; `buried_at` in ms, `event_id` empty if the event's payload is gone."""

    queue: DeadQueue
    seq: int
    event_id: bytes
    reason: str
    claims: int
    failures: int
    buried_at: int


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters: of a queue, with `reason` in their reason, from `buried_before` (ms) or earlier."""

    queue: DeadQueue
    reason: str
    buried_before: int


def queues(tx: Tx) -> tuple[DeadQueue, ...]:
    """Return the inbox, and the outboxes of all sinks that this database has or had."""
    return (DeadQueue.INBOX, *map(DeadQueue, sinks.known(tx)))


def find(tx: Tx, wanted: DeadFilter, limit: int) -> list[DeadRow]:
    """Return the dead letters that fit, the oldest first."""
    bindings = (wanted.reason, wanted.buried_before, limit)
    rows: list[Row] = (
        tx.execute(FIND_INBOX, bindings) if wanted.queue == DeadQueue.INBOX
        else tx.execute(FIND_OUTBOX, (*bindings, wanted.queue))
    ).fetchall()  # fmt: skip
    return [DeadRow(wanted.queue, *row) for row in rows]


def find_newest(tx: Tx, queue: DeadQueue, limit: int) -> list[DeadRow]:
    """Return the newest dead letters of a queue, the newest first."""
    rows: list[Row] = (
        tx.execute(NEWEST_INBOX, (limit,)) if queue == DeadQueue.INBOX
        else tx.execute(NEWEST_OUTBOX, (limit, queue))
    ).fetchall()  # fmt: skip
    return [DeadRow(queue, *row) for row in rows]


def payload(tx: Tx, row: DeadRow) -> bytes | None:
    """Return the event as it is stored; `None` if it is gone."""
    statement = INBOX_PAYLOAD if row.queue == DeadQueue.INBOX else OUTBOX_PAYLOAD
    found = tx.execute(statement, (row.seq,)).fetchone()
    return None if found is None else bytes(found[0])


def retry(tx: Tx, queue: DeadQueue, seqs: Sequence[int], now: int) -> int:
    """Queue dead letters again, ready at once; return how many there were."""
    return _of(queue).requeue(tx, seqs, now)


def drop(tx: Tx, queue: DeadQueue, seqs: Sequence[int], now: int) -> int:
    """Remove dead letters for good; return how many there were."""
    if queue == DeadQueue.INBOX:
        payloads.drop(tx, [event for (event,) in tx.executemany(INBOX_EVENT, ((seq,) for seq in seqs))])
    else:
        tx.executemany(RECORD_DROPPED, ((now, seq) for seq in seqs))
    return _of(queue).purge(tx, seqs)


def _of(queue: DeadQueue) -> LeaseQueue:
    return inbox.queue if queue == DeadQueue.INBOX else outbox.queue
