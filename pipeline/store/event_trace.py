"""Trace of one event: where it came from, where it is, and what each sink answered."""

from dataclasses import dataclass
from enum import StrEnum

from pipeline.printable import count_of
from pipeline.store import authors, drops, hosts, sinks, users
from pipeline.store.database import Row, Tx
from pipeline.store.drops import Dropped
from pipeline.store.sinks import SinkName

IN_INBOX = """
SELECT event, payload, relay, received_at, ready_at, claims, failures
  FROM inbox JOIN payloads USING (event) WHERE event_id = ?
"""
BURIED = """
SELECT seq, payload, relay, received_at, buried_at, reason
  FROM inbox_dead JOIN payloads USING (event) WHERE event_id = ?
"""
# Ids are kept by the time of their events, so that one alone is looked for among all, the newest first, which are asked
# for most: seconds where it is among the oldest of ten million, or not at all.
ACCEPTED = """
SELECT event, seen_at, created_at, kind, author FROM seen WHERE event_id = ?1
 ORDER BY created_at DESC LIMIT 1
"""
# The same with its time, or under none (see `events.NO_TIME`).
ACCEPTED_AT = """
SELECT event, seen_at, created_at, kind, author FROM seen WHERE created_at IN (?2, 0) AND event_id = ?1
"""
STORED = "SELECT payload, relay, received_at, rules FROM events JOIN payloads USING (event) WHERE event = ?"
DELIVERIES = "SELECT sink, outcome, at FROM deliveries WHERE event = ?"
OWED = "SELECT sink, ready_at, claims, failures FROM outbox WHERE event = ?"
REFUSED = "SELECT seq, sink, reason, buried_at FROM outbox_dead WHERE event = ?"
ADDRESS = "SELECT address FROM relays WHERE id = ?"
# Numbers grow with time, and payloads are kept for a while after delivery.
NEWEST = """
SELECT event_id, payload, received_at,
  (SELECT min(at) FROM deliveries WHERE deliveries.event = events.event
      AND (sink = ?2 AND at > ?3 OR sink = 'pubsub' AND at <= ?4))
  FROM events JOIN payloads USING (event) ORDER BY event DESC LIMIT ?1
"""
PUBLIC_KEY = "SELECT public_key FROM authors WHERE id = ?"
IS_WANTED = "SELECT 1 FROM wanted WHERE author = ? AND refs > 0"


class Location(StrEnum):
    """Where an event is."""

    INBOX = "inbox"
    DEAD_LETTER = "dead-letter"
    ACCEPTED = "accepted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SinkTrace:
    """An event at one sink: the outcome and its time (ms), or why and until when it is pending."""

    sink: str
    outcome: str
    at: int | None
    dead: int | None = None
    """Number of the dead letter."""


@dataclass(frozen=True, slots=True)
class EventTrace:
    """All that the database has on an event; times in ms, `None` or empty where it has nothing.

    `payload` is dropped some time after every sink has settled it; `kind` and `author` are kept as long as the id.
    """

    event_id: bytes
    location: Location
    relay: str = ""
    received_at: int | None = None
    accepted_at: int | None = None
    kind: int | None = None
    author: bytes = b""
    payload: bytes = b""
    note: str = ""
    sinks: tuple[SinkTrace, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    dead: int | None = None
    """Number of the dead letter, if it became one before it was saved."""
    failures: int = 0
    ready_at: int | None = None
    """When a row pending for the saver may be claimed."""
    rules: str = ""
    """Rules that it matched when it was saved, with blanks between."""
    host: str = ""
    """The host that brought it first, where several crawl."""


@dataclass(frozen=True, slots=True)
class Newest:
    """One of the newest saved events; times in ms, `delivered_at` is None while it is pending for the sink."""

    event_id: bytes
    payload: bytes
    received_at: int
    delivered_at: int | None


def newest(tx: Tx, limit: int, sink: SinkName) -> list[Newest]:
    """Return the newest events whose payloads are still there, the newest first, with when `sink` accepted them."""
    return [Newest(*row) for row in tx.execute(NEWEST, (limit, sink, *sinks.outcomes_of(tx, sink)))]


def trace(tx: Tx, event_id: bytes, created_at: int | None = None) -> EventTrace:
    """Return the trace of the event of this id (32 bytes).

    With `created_at`, the event's own time (s), it is found at once; else that may take seconds.
    """
    dropped = drops.of_event(tx, event_id)
    row = tx.execute(IN_INBOX, (event_id,)).fetchone()
    if row is not None:
        event, raw, relay, received_at, ready_at, claims, failures = row
        note = f"pending for the saver, claimed {count_of(claims, 'time')}, failed {count_of(failures, 'time')}"
        return EventTrace(
            event_id, Location.INBOX, _address(tx, relay), received_at, payload=raw, note=note, dropped=dropped,
            failures=failures, ready_at=ready_at, host=hosts.bringer(tx, event),
        )  # fmt: skip
    row = tx.execute(BURIED, (event_id,)).fetchone()
    if row is not None:
        seq, raw, relay, received_at, _, reason = row
        return EventTrace(
            event_id, Location.DEAD_LETTER, _address(tx, relay), received_at, payload=raw, note=reason, dropped=dropped,
            dead=seq,
        )  # fmt: skip
    if created_at is None:
        row = tx.execute(ACCEPTED, (event_id,)).fetchone()
    else:
        row = tx.execute(ACCEPTED_AT, (event_id, created_at)).fetchone()
    return (
        EventTrace(event_id, Location.UNKNOWN, dropped=dropped)
        if row is None
        else _accepted(tx, event_id, row, dropped)
    )


def is_registered(tx: Tx, public_key: bytes) -> bool:
    """Return True if this is a registered user's key."""
    author = authors.find(tx, public_key)
    return author is not None and users.is_registered(tx, author)


def is_wanted(tx: Tx, public_key: bytes) -> bool:
    """Return True if this is the key of a registered user, or of an author whom one follows."""
    author = authors.find(tx, public_key)
    return author is not None and tx.execute(IS_WANTED, (author,)).fetchone() is not None


def _accepted(tx: Tx, event_id: bytes, row: Row, dropped: tuple[Dropped, ...]) -> EventTrace:
    event, accepted_at, _, kind, author = row
    payload, relay, received_at, rules = tx.execute(STORED, (event,)).fetchone() or (b"", None, None, None)
    (public_key,) = tx.execute(PUBLIC_KEY, (author,)).fetchone() or (b"",)
    return EventTrace(
        event_id, Location.ACCEPTED, "" if relay is None else _address(tx, relay), received_at, accepted_at, kind,
        public_key, payload, sinks=_sinks(tx, event), dropped=dropped, rules=rules or "",
        host=hosts.bringer(tx, event),
    )  # fmt: skip


def _sinks(tx: Tx, event: int) -> tuple[SinkTrace, ...]:
    done = [
        SinkTrace(sinks.sink_of(tx, sink, at), outcome, at) for sink, outcome, at in tx.execute(DELIVERIES, (event,))
    ]
    owed = [
        SinkTrace(sink, f"pending, claimed {count_of(claims, 'time')}, failed {count_of(failures, 'time')}", ready_at)
        for sink, ready_at, claims, failures in tx.execute(OWED, (event,))
    ]
    dead = [
        SinkTrace(sink, f"dead letter: {reason}", at, seq) for seq, sink, reason, at in tx.execute(REFUSED, (event,))
    ]
    return tuple(sorted((*done, *owed, *dead), key=lambda each: each.sink))


def _address(tx: Tx, relay: int) -> str:
    row = tx.execute(ADDRESS, (relay,)).fetchone()
    return "" if row is None else str(row[0])
