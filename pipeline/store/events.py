"""Accepted events: which ids were ever accepted (`seen`), and those still owed to a sink (`events`)."""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from pipeline.store import payloads
from pipeline.store.database import Row, Tx
from pipeline.store.retention_step import RetentionBatch

ACCEPT = "INSERT INTO seen (event_id, event, seen_at, created_at, kind, author) VALUES (?, ?, ?, ?, ?, ?)"
SEEN = "SELECT event_id FROM seen WHERE created_at = ?2 AND event_id = ?1"
# The same where ids may be kept under `NO_TIME`, which is 0; twice the cost.
SEEN_AT_ANY_TIME = SEEN.replace("= ?2", "IN (?2, 0)")
ANY_WITHOUT_TIME = "SELECT 1 FROM seen WHERE created_at = 0 LIMIT 1"
# The newest first, from below a time and id on.
SEEN_BEFORE = """
SELECT created_at, event_id, kind, author FROM seen WHERE created_at >= ?1 AND (created_at, event_id) < (?2, ?3)
 ORDER BY created_at DESC, event_id DESC LIMIT ?4
"""
STORE = """
INSERT INTO events (event, event_id, relay, received_at, sinks, retracted, rules, mentions)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
# An event is done when every delivery that it owes is recorded, the last before the bound, and no replay has it.
DONE_AMONG = """
SELECT event, received_at <= ?2 AND NOT EXISTS (SELECT 1 FROM replay_queue WHERE replay_queue.event = events.event) AND
       (SELECT count(*) = events.sinks AND coalesce(max(at), 0) <= ?2
          FROM deliveries WHERE deliveries.event = events.event)
  FROM events WHERE event > ?1 ORDER BY event LIMIT ?3
"""
DROP = "DELETE FROM events WHERE event = ?"
FIRST_SEEN_AFTER = """
SELECT created_at, event_id, seen_at FROM seen WHERE (created_at, event_id) > (?, ?)
 ORDER BY created_at, event_id LIMIT ?
"""
FORGET_SEEN = "DELETE FROM seen WHERE created_at = ? AND event_id = ?"
NEXT_DELIVERIES = (
    "SELECT count(*), max(event) FROM (SELECT event FROM deliveries WHERE event > ? ORDER BY event LIMIT ?)"
)
# The outcome at one sink is needed as long as the event is pending at another, or a dead letter there.
FORGET_DELIVERIES = """
DELETE FROM deliveries WHERE event > ?1 AND event <= ?2 AND at < ?3
   AND NOT EXISTS (SELECT 1 FROM events WHERE events.event = deliveries.event)
"""


class Accepted(NamedTuple):
    """An event taken as relevant; `event` is its number, times but `created_at` (seconds) in ms, `author` a number.

    `retracted`: how it was retracted when it was saved, see `retractions.Retracted`. `rules`: names of the rules that
    it matched then, with blanks between. `mentions`: registered users that it mentions, 32 bytes each; `None` for none.
    """

    event: int
    event_id: bytes
    created_at: int
    kind: int
    author: int
    payload: bytes
    relay: int
    received_at: int
    sinks: int
    retracted: str | None = None
    rules: str = ""
    mentions: bytes | None = None


class Seen(NamedTuple):
    """An accepted event as `seen` remembers it."""

    created_at: int
    event_id: bytes
    kind: int
    author: int


NO_TIME: Final = 0
"""The time (s) that an id is kept under when that of its event is not known; few events say that they are that old."""
FIRST_SEEN: Final = (-1, b"")
"""Before every time and id."""


def accept(tx: Tx, events: Iterable[Accepted], now: int) -> set[bytes]:
    """Record ids as seen; return those that were not seen before."""
    by_id = {e.event_id: e for e in events}
    # Looking first costs less than a RETURNING clause, which keeps what it returns until the statement is done.
    known = seen(tx, ((e.event_id, e.created_at) for e in by_id.values()))
    new = [e for event_id, e in by_id.items() if event_id not in known]
    tx.executemany(ACCEPT, ((e.event_id, e.event, now, e.created_at, e.kind, e.author) for e in new))
    return {e.event_id for e in new}


def seen(tx: Tx, events: Iterable[tuple[bytes, int]]) -> set[bytes]:
    """Return which of `events`, each with its id and time (s), were accepted within the retention of ids: the ids."""
    statement = SEEN_AT_ANY_TIME if any_without_time(tx) else SEEN
    return {event_id for (event_id,) in tx.executemany(statement, events)}


def any_without_time(tx: Tx) -> bool:
    """Return True if any id is kept under `NO_TIME`, so that it may be that of an event of any time."""
    return tx.execute(ANY_WITHOUT_TIME).fetchone() is not None


def seen_before(tx: Tx, *, since: int, before: tuple[int, bytes], limit: int) -> list[Seen]:
    """Return the newest accepted events dated `since` or later whose time and id are below `before`."""
    return [Seen(*row) for row in tx.execute(SEEN_BEFORE, (since, *before, limit))]


def store(tx: Tx, events: Iterable[Accepted]) -> None:
    """Keep events until they are delivered; their payloads are kept already."""
    rows = ((e.event, e.event_id, e.relay, e.received_at, e.sinks, e.retracted, e.rules, e.mentions) for e in events)
    tx.executemany(STORE, rows)


def drop_delivered(tx: Tx, *, after: int, done_before: int, limit: int) -> RetentionBatch[int]:
    """Drop events, with payloads, whose deliveries all ended before `done_before`; looks at `limit` beyond `after`."""
    rows: list[Row] = tx.execute(DONE_AMONG, (after, done_before, limit)).fetchall()
    done = [event for event, is_done in rows if is_done]
    drop(tx, done)
    return RetentionBatch(len(rows), len(done), rows[-1][0] if rows else 0)


def drop(tx: Tx, numbers: Collection[int]) -> None:
    """Drop events that nothing waits for, with their payloads."""
    tx.executemany(DROP, ((event,) for event in numbers))
    payloads.drop(tx, numbers)


def forget_seen(tx: Tx, *, after: tuple[int, bytes], seen_before: int, limit: int) -> RetentionBatch[tuple[int, bytes]]:
    """Forget ids seen before a time, looking at up to `limit` ids beyond `after`; there is no index by time."""
    rows: list[Row] = tx.execute(FIRST_SEEN_AFTER, (*after, limit)).fetchall()
    old = [(created_at, event_id) for created_at, event_id, seen_at in rows if seen_at < seen_before]
    tx.executemany(FORGET_SEEN, old)
    return RetentionBatch(len(rows), len(old), rows[-1][:2] if rows else FIRST_SEEN)


def forget_deliveries(tx: Tx, *, after: int, before: int, limit: int) -> RetentionBatch[int]:
    """Forget outcomes older than `before` of events whose payload is gone, looking at up to `limit` beyond `after`."""
    rows: list[Row] = tx.execute(NEXT_DELIVERIES, (after, limit)).fetchall()
    looked_at, last = rows[0]
    changes = tx.total_changes()
    tx.execute(FORGET_DELIVERIES, (after, last or 0, before))
    return RetentionBatch(looked_at, tx.total_changes() - changes, last or 0)
