"""A crawling host's end of the hand-over to the hub: its parcels, and how far its stream is sent.

Rows leave the inbox for a parcel. Parcels are numbered for the whole life of the database; within a stream, which has a
name of its own, they count from 1. A parcel is never changed once it is written, and kept for a while when it is sent,
since the hub may go back to an older state. Of those that are dropped then some rows stay (`SentParcel`), by which it
is known from where on relays are to be asked again if the hub went back by more. Triggers, which only such a host has,
note whose cursor or state has changed in the transaction that changes it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.store.database import Row, Tx

STREAM = "SELECT stream, predecessor, is_opened, first, last, sent, digest, notes_after FROM hub_stream"
PUT_STREAM = """
INSERT OR REPLACE INTO hub_stream (only_row, stream, predecessor, is_opened, first, last, sent, digest, notes_after)
VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)
"""
NOTE_LAST = "UPDATE hub_stream SET last = ?"
# In SQLite a trigger belongs to the file, so that every process and command obeys it. What is noted already is looked
# for, since OR IGNORE gives way to what the statement says that fires the trigger, an upsert.
_NOTE_CURSOR = """
BEGIN
  INSERT INTO hub_changed_cursors SELECT new.relay, new.query
   WHERE NOT EXISTS (SELECT 1 FROM hub_changed_cursors WHERE relay = new.relay AND query = new.query);
END
"""
WATCHES = (
    f"CREATE TRIGGER IF NOT EXISTS hub_cursor_added AFTER INSERT ON cursors {_NOTE_CURSOR}",
    f"CREATE TRIGGER IF NOT EXISTS hub_cursor_moved AFTER UPDATE ON cursors {_NOTE_CURSOR}",
    """
    CREATE TRIGGER IF NOT EXISTS hub_relay_changed AFTER UPDATE OF state, subscriptions, limits ON relays
    BEGIN
      INSERT INTO hub_changed_relays SELECT new.id
       WHERE NOT EXISTS (SELECT 1 FROM hub_changed_relays WHERE relay = new.id);
    END
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
COUNT_ROWS = "SELECT count(*) FROM (SELECT 1 FROM inbox LIMIT ?)"
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
PUT = "INSERT INTO parcels (number, events, last_event, received_at, notes, body) VALUES (?, ?, ?, ?, ?, ?)"
BEYOND = """
SELECT number, last_event, received_at, notes, body FROM parcels WHERE number > ? ORDER BY number LIMIT ?
"""
OLDEST = "SELECT min(number) FROM parcels"
NEWEST_EVENT = """
SELECT last_event, received_at FROM parcels WHERE number = (SELECT max(number) FROM parcels)
"""
NEWEST_SENT_EVENT = """
SELECT last_event, received_at FROM sent_parcels WHERE number = (SELECT max(number) FROM sent_parcels)
"""
PUT_SENT = """
INSERT OR REPLACE INTO sent_parcels
  (number, stream, in_stream, digest, last_event, received_at, hub_at, sent_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
SENT = """
SELECT number, stream, in_stream, digest, last_event, received_at, hub_at, sent_at FROM sent_parcels
"""
SENT_AT = f"{SENT} WHERE number = ?"
NEWEST_SENT = f"{SENT} ORDER BY number DESC LIMIT ?"
OLDEST_SENT = f"{SENT} ORDER BY number LIMIT 1"
UNSEND = "DELETE FROM sent_parcels WHERE number > ?"
# Both clocks must say that it was sent long ago: either may have been set.
NEXT_OLD = """
SELECT number FROM (SELECT number FROM parcels ORDER BY number LIMIT ?3) JOIN sent_parcels USING (number)
 WHERE hub_at < ?1 AND sent_at < ?2 ORDER BY number
"""
FORGET = "DELETE FROM parcels WHERE number <= ?"
FORGET_BETWEEN = "DELETE FROM sent_parcels WHERE number >= ? AND number < ?"
BEFORE = "SELECT number, sent_at FROM sent_parcels WHERE number < ? ORDER BY number DESC LIMIT 2"
FORGET_MARKS = "DELETE FROM sent_parcels WHERE number < ?1 AND sent_at < ?2"


class Stream(NamedTuple):
    """This host's stream; see the table. Numbers are those of the database.

    `sent` is the newest parcel that the hub is known to have, with the stream's `digest` up to it. Notes of parcels up
    to `notes_after` are not sent.
    """

    name: str
    predecessor: str
    is_opened: bool
    first: int
    last: int
    sent: int
    digest: bytes = b""
    notes_after: int = 0

    @property
    def unsent(self) -> int:
        """How many parcels are to be sent."""
        return self.last - self.sent

    def in_stream(self, number: int) -> int:
        """Return the number within the stream of a parcel."""
        return number - self.first


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


class Tail(NamedTuple):
    """The number of the newest event that was packed, and when (ms) it was received."""

    last_event: int = 0
    received_at: int = 0


class StoredParcel(NamedTuple):
    """A parcel as it is kept."""

    number: int
    last_event: int
    received_at: int
    notes: bytes
    body: bytes


class SentParcel(NamedTuple):
    """What is kept of a parcel that was sent: its place in its stream, the stream's digest with it, and its `Tail`.

    `hub_at` and `sent_at`: when, by the hub's clock and by this host's (ms).
    """

    number: int
    stream: str
    in_stream: int
    digest: bytes
    last_event: int
    received_at: int
    hub_at: int
    sent_at: int


def stream(tx: Tx) -> Stream | None:
    """Return this host's stream; None in a database that never had one."""
    row = tx.execute(STREAM).fetchone()
    if row is None:
        return None
    name, predecessor, is_opened, *rest = row
    return Stream(name, predecessor, bool(is_opened), *rest)


def put_stream(tx: Tx, changed: Stream) -> None:
    """Write down how far the stream is."""
    tx.execute(PUT_STREAM, changed)


def begin_stream(tx: Tx, name: str, after: int) -> Stream:
    """Begin a new stream with the kept parcels behind number `after`; all cursors and states are to be sent again."""
    before = stream(tx)
    begun = (
        Stream(name, "", False, 0, 0, 0)
        if before is None
        else Stream(name, before.name, False, after, before.last, after, notes_after=before.notes_after)
    )
    put_stream(tx, begun)
    for statement in (*WATCHES, ALL_CURSORS_CHANGED, ALL_RELAYS_CHANGED):
        tx.execute(statement)
    return begun


def first_rows(tx: Tx, limit: int) -> list[PackedRow]:
    """Return the oldest rows of the inbox, with their events."""
    return list(map(PackedRow._make, tx.execute(FIRST_ROWS, (limit,))))


def remove_rows(tx: Tx, rows: Sequence[PackedRow]) -> None:
    """Remove rows from the inbox, and their payloads."""
    tx.executemany(REMOVE_ROW, [(row.seq,) for row in rows])
    tx.executemany(REMOVE_PAYLOAD, [(row.event,) for row in rows])


def has_rows(tx: Tx) -> bool:
    """Return True if any row is in the inbox."""
    return tx.execute(ANY_ROW).fetchone() is not None


def count_rows(tx: Tx, at_most: int) -> int:
    """Return how many rows are in the inbox, counted up to a bound."""
    return int(tx.execute(COUNT_ROWS, (at_most,)).get)


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


def tail(tx: Tx) -> Tail:
    """Return the newest event that was ever packed."""
    row = tx.execute(NEWEST_EVENT).fetchone() or tx.execute(NEWEST_SENT_EVENT).fetchone()
    return Tail() if row is None else Tail(*row)


def put(tx: Tx, number: int, events: int, packed: Tail, notes: bytes, body: bytes) -> None:
    """Keep the parcel that follows the last one of the stream."""
    tx.execute(PUT, (number, events, *packed, notes, body))
    tx.execute(NOTE_LAST, (number,))


def beyond(tx: Tx, number: int, limit: int) -> list[StoredParcel]:
    """Return the first parcels that are kept behind a number."""
    return list(map(StoredParcel._make, tx.execute(BEYOND, (number, limit))))


def oldest(tx: Tx) -> int | None:
    """Return the number of the oldest parcel that is kept."""
    found: int | None = tx.execute(OLDEST).get
    return found


def mark_sent(tx: Tx, sent: SentParcel) -> None:
    """Note that the hub has a parcel."""
    tx.execute(PUT_SENT, sent)


def sent_at(tx: Tx, number: int) -> SentParcel | None:
    """Return what is kept of the sent parcel of this number."""
    row = tx.execute(SENT_AT, (number,)).fetchone()
    return None if row is None else SentParcel(*row)


def newest_sent(tx: Tx, limit: int) -> list[SentParcel]:
    """Return what is kept of the newest sent parcels, the newest first."""
    return list(map(SentParcel._make, tx.execute(NEWEST_SENT, (limit,))))


def oldest_sent(tx: Tx) -> SentParcel | None:
    """Return the oldest sent parcel of which anything is kept."""
    row = tx.execute(OLDEST_SENT).fetchone()
    return None if row is None else SentParcel(*row)


def unsend(tx: Tx, number: int) -> None:
    """Note that the hub has none beyond this number."""
    tx.execute(UNSEND, (number,))


def forget_sent(tx: Tx, hub_before: int, own_before: int, most: int, distance: int, marks_before: int) -> bool:
    """Drop the first `most` parcels that were sent before these times; return True if there may be more.

    Of the parcels that are dropped a row stays, one for each `distance` ms, until `marks_before`.
    """
    old = [number for (number,) in tx.execute(NEXT_OLD, (hub_before, own_before, most))]
    if not old:
        return False
    last = old[-1]
    tx.execute(FORGET, (last,))
    tx.execute(FORGET_BETWEEN, (old[0], last))
    before: list[Row] = tx.execute(BEFORE, (last,)).fetchall()
    newest = sent_at(tx, last)
    if len(before) == 2 and newest is not None and newest.sent_at - before[1][1] < distance:
        tx.execute(FORGET_BETWEEN, (before[0][0], last))
    tx.execute(FORGET_MARKS, (last, marks_before))
    return len(old) == most
