"""Both ends of the hand-over to the hub: parcels of this crawling host, and what this home host has taken.

Crawling host: rows leave the inbox for a parcel, numbered within a stream that is named when the database is new. A
sent parcel is kept for a while, since the hub may go back to an older state. Triggers, which only such a host has, note
whose cursor or state has changed in the transaction that changes it.

Home: the number of the last parcel of each stream is written with the parcel's events.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.store.database import Row, Tx

BEGIN_STREAM = "INSERT OR REPLACE INTO hub_stream (only_row, stream, last) VALUES (1, ?, 0)"
STREAM = "SELECT stream, last FROM hub_stream"
NOTE_LAST = "UPDATE hub_stream SET last = ?"
# In SQLite a trigger belongs to the file, so that every process and command obeys it.
WATCHES = (
    """
    CREATE TRIGGER IF NOT EXISTS hub_cursor_added AFTER INSERT ON cursors
    BEGIN INSERT OR IGNORE INTO hub_changed_cursors VALUES (new.relay, new.query); END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS hub_cursor_moved AFTER UPDATE ON cursors
    BEGIN INSERT OR IGNORE INTO hub_changed_cursors VALUES (new.relay, new.query); END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS hub_relay_changed AFTER UPDATE OF state, subscriptions, limits ON relays
    BEGIN INSERT OR IGNORE INTO hub_changed_relays VALUES (new.id); END
    """,
)
ALL_CURSORS_CHANGED = "INSERT OR IGNORE INTO hub_changed_cursors SELECT relay, query FROM cursors"
ALL_RELAYS_CHANGED = "INSERT OR IGNORE INTO hub_changed_relays SELECT id FROM relays WHERE crawled_since IS NOT NULL"
FIRST_ROWS = """
SELECT seq, event, event_id, created_at, coalesce(relays.address, ''), received_at, bytes, payload
  FROM inbox LEFT JOIN relays ON relays.id = inbox.relay LEFT JOIN payloads USING (event)
 ORDER BY seq LIMIT ?
"""
REMOVE_ROW = "DELETE FROM inbox WHERE seq = ?"
REMOVE_PAYLOAD = "DELETE FROM payloads WHERE event = ?"
ANY_ROW = "SELECT 1 FROM inbox LIMIT 1"
ANY_CHANGE = """
SELECT EXISTS (SELECT 1 FROM hub_changed_cursors) OR EXISTS (SELECT 1 FROM hub_changed_relays)
"""
# What is gone since has no address.
CHANGED_CURSORS = """
SELECT changed.relay, changed.query, relays.address, complete_until, generation
  FROM (SELECT * FROM hub_changed_cursors LIMIT ?) AS changed
  LEFT JOIN relays ON relays.id = changed.relay
  LEFT JOIN cursors ON cursors.relay = changed.relay AND cursors.query = changed.query
"""
CHANGED_STATUSES = """
SELECT changed.relay, address, state, state_since, subscriptions, rate_limit_backoff, failures, next_dial_at,
  last_error, asked, owed_since, resweeping, paced_at > 0, resolved, limits
  FROM (SELECT * FROM hub_changed_relays LIMIT ?) AS changed LEFT JOIN relays ON relays.id = changed.relay
"""
FORGET_CURSOR_CHANGE = "DELETE FROM hub_changed_cursors WHERE relay = ? AND query = ?"
FORGET_RELAY_CHANGE = "DELETE FROM hub_changed_relays WHERE relay = ?"
PUT = "INSERT INTO parcels (number, body, events, packed_at) VALUES (?, ?, ?, ?)"
UNSENT = "SELECT number, body FROM parcels WHERE sent_at IS NULL ORDER BY number LIMIT ?"
COUNT_UNSENT = "SELECT count(*) FROM parcels WHERE sent_at IS NULL"
# Sent are all up to the number that the hub has, and none beyond.
MARK_SENT = "UPDATE parcels SET sent_at = ?2 WHERE number <= ?1 AND sent_at IS NULL"
MARK_UNSENT = "UPDATE parcels SET sent_at = NULL WHERE number > ?1 AND sent_at IS NOT NULL"
KEPT = "SELECT count(*), coalesce(min(number), 0) FROM parcels WHERE number > ?"
RENUMBER = "UPDATE parcels SET number = -number, sent_at = NULL"
# Each gets its place as its number; those with negative numbers are in the order from the end.
RENUMBERED = "SELECT number FROM parcels ORDER BY number DESC"
SET_NUMBER = "UPDATE parcels SET number = ? WHERE number = ?"
FORGET_SENT = """
DELETE FROM parcels WHERE number IN (SELECT number FROM parcels WHERE sent_at < ? ORDER BY sent_at, number LIMIT ?)
RETURNING number
"""
POSITIONS = "SELECT stream, number FROM hub_positions"
PUT_POSITION = """
INSERT INTO hub_positions (stream, number) VALUES (?, ?)
ON CONFLICT (stream) DO UPDATE SET number = max(number, excluded.number)
"""


class Stream(NamedTuple):
    """This host's stream, and the number of the last parcel that was made for it."""

    name: str
    last: int


class PackedRow(NamedTuple):
    """A row of the inbox on its way into a parcel; `relay` is an address, empty if it is not known any more.

    `raw` is JSON, None if it is lost.
    """

    seq: int
    event: int
    event_id: bytes
    created_at: int
    relay: str
    received_at: int
    size: int
    raw: bytes | None


class Unsent(NamedTuple):
    """A parcel that the hub does not have, as far as is known."""

    number: int
    body: bytes


def stream(tx: Tx) -> Stream | None:
    """Return this host's stream; None in a database that never had one."""
    row = tx.execute(STREAM).fetchone()
    return None if row is None else Stream(*row)


def begin_stream(tx: Tx, name: str) -> Stream:
    """Begin a new stream: parcels that are kept are its first, all to be sent; so are all cursors and states."""
    tx.execute(RENUMBER)
    kept = [number for (number,) in tx.execute(RENUMBERED).fetchall()]
    tx.executemany(SET_NUMBER, ((place, number) for place, number in enumerate(kept, 1)))
    tx.execute(BEGIN_STREAM, (name,))
    tx.execute(NOTE_LAST, (len(kept),))
    for statement in (*WATCHES, ALL_CURSORS_CHANGED, ALL_RELAYS_CHANGED):
        tx.execute(statement)
    return Stream(name, len(kept))


def first_rows(tx: Tx, limit: int) -> list[PackedRow]:
    """Return the oldest rows of the inbox, with their events."""
    return [PackedRow(*row) for row in tx.execute(FIRST_ROWS, (limit,))]


def remove_rows(tx: Tx, rows: Sequence[PackedRow]) -> None:
    """Remove rows from the inbox, and their payloads."""
    tx.executemany(REMOVE_ROW, ((row.seq,) for row in rows))
    tx.executemany(REMOVE_PAYLOAD, ((row.event,) for row in rows))


def has_rows(tx: Tx) -> bool:
    """Return True if any row is in the inbox."""
    return tx.execute(ANY_ROW).fetchone() is not None


def has_changes(tx: Tx) -> bool:
    """Return True if any cursor or state of a relay has changed since it was last packed."""
    return bool(tx.execute(ANY_CHANGE).get)


def pop_changed_cursors(tx: Tx, limit: int) -> list[tuple[str, str, int, int]]:
    """Return address, query, time and generation of cursors that have changed, which are unchanged from now on."""
    rows: list[Row] = tx.execute(CHANGED_CURSORS, (limit,)).fetchall()
    tx.executemany(FORGET_CURSOR_CHANGE, (row[:2] for row in rows))
    return [
        (address, query, until, generation)
        for _, query, address, until, generation in rows
        if address is not None and until is not None
    ]


def pop_changed_statuses(tx: Tx, limit: int) -> list[list[Any]]:
    """Return the columns of `parcel.SentStatus` of relays whose state has changed, which are unchanged from now on."""
    rows: list[Row] = tx.execute(CHANGED_STATUSES, (limit,)).fetchall()
    tx.executemany(FORGET_RELAY_CHANGE, (row[:1] for row in rows))
    return [columns for _, *columns in rows if columns[0] is not None]


def put(tx: Tx, number: int, body: bytes, events: int, now: int) -> None:
    """Keep the parcel that follows the last one of the stream."""
    tx.execute(PUT, (number, body, events, now))
    tx.execute(NOTE_LAST, (number,))


def unsent(tx: Tx, limit: int) -> list[Unsent]:
    """Return the first parcels that are to be sent."""
    return [Unsent(*row) for row in tx.execute(UNSENT, (limit,))]


def count_unsent(tx: Tx) -> int:
    """Return how many parcels are to be sent."""
    return int(tx.execute(COUNT_UNSENT).get)


def has_all_beyond(tx: Tx, number: int, last: int) -> bool:
    """Return True if every parcel from `number` + 1 to `last` is kept."""
    count, first = tx.execute(KEPT, (number,)).get
    return int(count) == last - number and (not count or int(first) == number + 1)


def mark_sent(tx: Tx, number: int, now: int) -> None:
    """Note that the hub has the parcels up to this number."""
    tx.execute(MARK_SENT, (number, now))


def mark_unsent(tx: Tx, number: int) -> None:
    """Note that the hub has none beyond this number."""
    tx.execute(MARK_UNSENT, (number,))


def forget_sent(tx: Tx, before: int, most: int) -> bool:
    """Drop parcels that were sent before a time, the first `most`; return True if there may be more."""
    return len(tx.execute(FORGET_SENT, (before, most)).fetchall()) == most


def positions(tx: Tx) -> dict[str, int]:
    """Return by stream the number of the last parcel whose events are here."""
    rows: list[Row] = tx.execute(POSITIONS).fetchall()
    return {str(name): int(number) for name, number in rows}


def put_positions(tx: Tx, taken: Iterable[tuple[str, int]]) -> None:
    """Note, with the events, the last parcel of each stream."""
    tx.executemany(PUT_POSITION, taken)
