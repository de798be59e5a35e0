"""Replays: what a sink was given in a span of time and is to be given again, and how far each replay has come.

Which events those are is in `deliveries`; a replay walks through `seen` for them, by the time and id of events. What is
still kept it puts into `replay_queue`, the rest first into `replay_fetches`, until a relay has returned it. The place
in `seen` is written together with the rows up to there, so that a replay that was killed goes on and neither leaves out
nor repeats anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.store import events, payloads, replay_queue, sinks
from pipeline.store.database import Row, Tx
from pipeline.store.events import Accepted
from pipeline.store.retractions import Identity
from pipeline.store.sinks import SinkName

KEY_BYTES: Final = 32
MAX_MISSING_KEPT: Final = 100_000
"""Ids that no relay returned, of one replay; more are counted only."""

ADD = """
INSERT INTO replays (sink, since, until, authors, rules, total, created_at) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id
"""
_COLUMNS = """
id, sink, since, until, authors, rules, total, created_at, ended_at IS NOT NULL, after_time, after_id, is_walked,
from_store, from_relays, other_rule, missing, delivered, refused, retracted
"""
LATEST = f"SELECT {_COLUMNS} FROM replays ORDER BY id DESC LIMIT 1"  # noqa: S608 (our own text)
END = "UPDATE replays SET ended_at = ? WHERE id = ? AND ended_at IS NULL"
# A row of `seen` is of the replay if the sink was given the event within the span; most are not.
LOOK = """
SELECT looked.created_at, looked.event_id, looked.event, looked.kind, looked.author, looked.seen_at,
       deliveries.at IS NOT NULL, events.event IS NOT NULL, events.rules
  FROM (SELECT * FROM seen WHERE (created_at, event_id) > (?1, ?2) ORDER BY created_at, event_id LIMIT ?3) AS looked
  LEFT JOIN deliveries ON deliveries.event = looked.event
        AND (deliveries.sink = ?4 AND deliveries.at > ?7 OR deliveries.sink = 'pubsub' AND deliveries.at <= ?8)
        AND deliveries.outcome = 'delivered' AND deliveries.at BETWEEN ?5 AND ?6
  LEFT JOIN events ON deliveries.at IS NOT NULL AND events.event = looked.event
 ORDER BY looked.created_at, looked.event_id
"""
IS_KEPT = "SELECT event FROM events JOIN payloads USING (event) WHERE event = ?"
MOVE = "UPDATE replays SET after_time = ?, after_id = ?, is_walked = ?, from_store = from_store + ? WHERE id = ?"
ADD_FETCH = """
INSERT INTO replay_fetches (job, event, event_id, created_at, kind, author, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
FETCHES = """
SELECT event, event_id, created_at, kind, author, seen_at
  FROM replay_fetches WHERE job = ? AND is_missing = ? ORDER BY event LIMIT ?
"""
COUNT_FETCHES = "SELECT count(*) FROM replay_fetches WHERE job = ? AND is_missing = 0"
DROP_FETCH = "DELETE FROM replay_fetches WHERE job = ? AND is_missing = 0 AND event = ?"
MARK_MISSING = "UPDATE replay_fetches SET is_missing = 1 WHERE job = ? AND is_missing = 0 AND event = ?"
FORGET_FETCHES = """
DELETE FROM replay_fetches WHERE (job, is_missing, event) IN (
  SELECT job, is_missing, event FROM replay_fetches WHERE job <> ? LIMIT ?
)
"""
# The rows in its queue are counted for a replay until the last of them is settled.
FORGET = "DELETE FROM replays WHERE id <> ?1 AND NOT EXISTS (SELECT 1 FROM replay_queue WHERE job = replays.id)"
DELIVERIES = "SELECT count(*) FROM deliveries WHERE event = ?"
COUNT_FETCHED = "UPDATE replays SET from_relays = from_relays + ?, other_rule = other_rule + ? WHERE id = ?"
COUNT_MISSING = "UPDATE replays SET missing = missing + ?, retracted = retracted + ? WHERE id = ?"


@dataclass(frozen=True, slots=True)
class ReplayScope:
    """What `sink` was first given from `since` to `until` (ms): everything, or by some authors (keys) or rules."""

    sink: SinkName
    since: int
    until: int
    authors: tuple[bytes, ...] = ()
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay, how far it is, and what became of its events.

    `total`: how many it found at its beginning; `place`: time and id up to which it has walked through `seen`.
    """

    job: int
    scope: ReplayScope
    total: int
    created_at: int
    is_over: bool
    place: tuple[int, bytes]
    is_walked: bool
    from_store: int
    """Queued, as the payload was kept."""
    from_relays: int
    """Queued, as a relay returned it."""
    other_rule: int
    """Returned by a relay, but by today's rules not what was asked for."""
    missing: int
    """Returned by none."""
    delivered: int
    refused: int
    retracted: int

    @property
    def queued(self) -> int:
        """Return how many were queued for the sink."""
        return self.from_store + self.from_relays


class GivenEvent(NamedTuple):
    """An event that the sink was given; `rules` as noted when it was saved, `None` if they are not known."""

    created_at: int
    event_id: bytes
    event: int
    kind: int
    author: int
    seen_at: int
    is_kept: bool
    rules: str | None


class Look(NamedTuple):
    """One step of the walk: what it found, and where the next one begins; `is_last` at the end of `seen`."""

    found: list[GivenEvent]
    place: tuple[int, bytes]
    is_last: bool


class Fetch(NamedTuple):
    """An event that is not kept; `author` is a number, `seen_at` in ms."""

    event: int
    event_id: bytes
    created_at: int
    kind: int
    author: int
    seen_at: int


class Fetched(NamedTuple):
    """What a relay returned of it, with the rules and mentions of today; see `events.Accepted`."""

    fetch: Fetch
    payload: bytes
    rules: str
    mentions: bytes | None


def add(tx: Tx, scope: ReplayScope, total: int, now: int) -> Replay:
    """Begin a replay; earlier ones are forgotten. See `forget_earlier`."""
    keys = b"".join(scope.authors)
    job = int(tx.execute(ADD, (scope.sink, scope.since, scope.until, keys, " ".join(scope.rules), total, now)).get)
    tx.execute(FORGET, (job,))
    replay = latest(tx)
    assert replay is not None, "just added"
    return replay


def forget_earlier(tx: Tx, job: int, limit: int) -> bool:
    """Forget some of what earlier replays did not find; return False if nothing is left."""
    before = tx.total_changes()
    tx.execute(FORGET_FETCHES, (job, limit))
    return tx.total_changes() - before == limit


def latest(tx: Tx) -> Replay | None:
    """Return the newest replay; only that one may be unfinished."""
    row = tx.execute(LATEST).fetchone()
    if row is None:
        return None
    job, sink, since, until, keys, rules, total, created_at, is_over, after_time, after_id, is_walked, *counts = row
    authors = tuple(keys[first : first + KEY_BYTES] for first in range(0, len(keys), KEY_BYTES))
    scope = ReplayScope(SinkName(sink), since, until, authors, tuple(rules.split()))
    return Replay(job, scope, total, created_at, bool(is_over), (after_time, after_id), bool(is_walked), *counts)


def end(tx: Tx, job: int, now: int) -> None:
    """Note that everything is queued, or that the rest is not wanted any more."""
    tx.execute(END, (now, job))


def look(tx: Tx, scope: ReplayScope, after: tuple[int, bytes], limit: int) -> Look:
    """Return what of the next `limit` events after a time and id the sink was given in the span."""
    own = sinks.outcomes_of(tx, scope.sink)
    bindings = (*after, limit, scope.sink, scope.since, scope.until, *own)
    rows: list[Row] = tx.execute(LOOK, bindings).fetchall()
    found = [GivenEvent._make((*row[:6], bool(row[7]), row[8])) for row in rows if row[6]]
    return Look(found, rows[-1][:2] if rows else after, len(rows) < limit)


def queue_up(
    tx: Tx, replay: Replay, given: Sequence[GivenEvent], place: tuple[int, bytes], now: int, *, is_last: bool
) -> None:
    """Queue what is kept of `given`, note the rest to be fetched, and move on to `place`."""
    job, numbers = replay.job, [each.event for each in given if each.is_kept]
    # Retention may have been here since it was looked at.
    kept = {int(event) for (event,) in tx.executemany(IS_KEPT, ((event,) for event in numbers))}
    replay_queue.append(tx, job, [event for event in numbers if event in kept], now)
    tx.executemany(
        ADD_FETCH,
        (
            (job, each.event, each.event_id, each.created_at, each.kind, each.author, each.seen_at)
            for each in given
            if each.event not in kept
        ),
    )
    tx.execute(MOVE, (*place, is_last, len(kept), job))


def fetches(tx: Tx, job: int, limit: int) -> list[Fetch]:
    """Return what is to be fetched."""
    return [Fetch(*row) for row in tx.execute(FETCHES, (job, 0, limit))]


def count_fetches(tx: Tx, job: int) -> int:
    """Return how many events are to be fetched."""
    return int(tx.execute(COUNT_FETCHES, (job,)).get)


def missing(tx: Tx, job: int, limit: int = MAX_MISSING_KEPT) -> list[Fetch]:
    """Return what no relay returned."""
    return [Fetch(*row) for row in tx.execute(FETCHES, (job, 1, limit))]


def identity(fetch: Fetch) -> Identity:
    """Return what a fetched event may be retracted by, without a look at its tags."""
    return Identity(fetch.event_id, fetch.author, fetch.created_at)


def queue_fetched(tx: Tx, replay: Replay, found: Sequence[Fetched], now: int) -> None:
    """Keep what relays returned until it is delivered, and queue it."""
    for each in found:
        fetch = each.fetch
        if tx.execute(IS_KEPT, (fetch.event,)).fetchone() is None:
            owed = int(tx.execute(DELIVERIES, (fetch.event,)).get)
            # Where it was first seen is not known any more.
            accepted = Accepted(
                fetch.event, fetch.event_id, fetch.created_at, fetch.kind, fetch.author, each.payload, 0,
                fetch.seen_at, owed, None, each.rules, each.mentions,
            )  # fmt: skip
            payloads.put(tx, [(fetch.event, each.payload)])
            events.store(tx, [accepted])
    replay_queue.append(tx, replay.job, (each.fetch.event for each in found), now)
    tx.executemany(DROP_FETCH, ((replay.job, each.fetch.event) for each in found))
    tx.execute(COUNT_FETCHED, (len(found), 0, replay.job))


def drop_other_rule(tx: Tx, replay: Replay, found: Sequence[Fetch]) -> None:
    """Drop what relays returned and no rule matches that the replay is about."""
    tx.executemany(DROP_FETCH, ((replay.job, each.event) for each in found))
    tx.execute(COUNT_FETCHED, (0, len(found), replay.job))


def drop_retracted(tx: Tx, replay: Replay, found: Sequence[Fetch]) -> None:
    """Drop what is retracted, and so is not asked for."""
    tx.executemany(DROP_FETCH, ((replay.job, each.event) for each in found))
    tx.execute(COUNT_MISSING, (0, len(found), replay.job))


def mark_missing(tx: Tx, replay: Replay, found: Sequence[Fetch]) -> None:
    """Note that no relay returned these."""
    room = max(0, MAX_MISSING_KEPT - replay.missing)
    tx.executemany(MARK_MISSING, ((replay.job, each.event) for each in found[:room]))
    tx.executemany(DROP_FETCH, ((replay.job, each.event) for each in found[room:]))
    tx.execute(COUNT_MISSING, (len(found), 0, replay.job))


def cancel(tx: Tx, replay: Replay, now: int) -> int:
    """End a replay and drop what it has queued and not fetched; return how many rows were queued."""
    tx.executemany(DROP_FETCH, ((replay.job, each.event) for each in fetches(tx, replay.job, -1)))
    end(tx, replay.job, now)
    return replay_queue.drop(tx, replay.job)
