"""Home's end of the hand-over: how far it took each stream, and parcels that it cannot read yet.

The position in a stream is written with the events that it stands for, and with it the stream's digest: a hub that went
back may have another parcel of that number since. So the digests of the last parcels are kept, to find where they part.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipeline.store.database import Row, Tx

POSITIONS = "SELECT stream, number, digest FROM hub_positions"
PUT_POSITION = """
INSERT INTO hub_positions (stream, number, digest) VALUES (?1, ?2, ?3)
ON CONFLICT (stream) DO UPDATE SET number = excluded.number, digest = excluded.digest
"""
PUT_TAKEN = "INSERT OR REPLACE INTO hub_taken (stream, number, digest) VALUES (?, ?, ?)"
FORGET_TAKEN = "DELETE FROM hub_taken WHERE stream = ? AND number <= ?"
TAKEN = "SELECT number, digest FROM hub_taken WHERE stream = ? ORDER BY number DESC"
UNTAKE = "DELETE FROM hub_taken WHERE stream = ? AND number > ?"
SET_ASIDE = "INSERT INTO unread_parcels (host, at, notes, body) VALUES (?, ?, ?, ?)"
UNREAD_SIZE = "SELECT count(*), coalesce(sum(length(body) + length(notes)), 0) FROM unread_parcels"
UNREAD = "SELECT id, host, notes, body FROM unread_parcels WHERE id > ? ORDER BY id LIMIT 1"
DROP_UNREAD = "DELETE FROM unread_parcels WHERE id = ?"
# Some minutes of a busy stream.
KEPT_DIGESTS = 1_000


class Position(NamedTuple):
    """The last parcel of a stream whose events are here, and the stream's digest with it."""

    number: int = 0
    digest: bytes = b""


class UnreadParcel(NamedTuple):
    """A parcel that an earlier run could not read."""

    id: int
    host: str
    notes: bytes
    body: bytes


def positions(tx: Tx) -> dict[str, Position]:
    """Return the position in each stream."""
    rows: list[Row] = tx.execute(POSITIONS).fetchall()
    return {name: Position(number, digest) for name, number, digest in rows}


def put_positions(tx: Tx, taken: Iterable[tuple[str, Position]]) -> None:
    """Note, with the events, parcels that were taken, in their order."""
    rows = [(name, *position) for name, position in taken]
    tx.executemany(PUT_POSITION, rows)
    tx.executemany(PUT_TAKEN, rows)
    tx.executemany(FORGET_TAKEN, [(name, number - KEPT_DIGESTS) for name, number, _ in rows])


def taken(tx: Tx, name: str) -> list[Position]:
    """Return the last parcels of a stream that were taken, the newest first."""
    return [Position(*row) for row in tx.execute(TAKEN, (name,))]


def go_back(tx: Tx, name: str, position: Position) -> None:
    """Go back in a stream: what follows is to be taken again."""
    tx.execute(PUT_POSITION, (name, *position))
    tx.execute(UNTAKE, (name, position.number))


def set_aside(tx: Tx, rows: Iterable[tuple[str, int, bytes, bytes]]) -> None:
    """Keep parcels that cannot be read, each as host, time (ms), notes and body."""
    tx.executemany(SET_ASIDE, rows)


def unread_size(tx: Tx) -> tuple[int, int]:
    """Return how many such parcels there are, and their bytes."""
    count, size = tx.execute(UNREAD_SIZE).get
    return int(count), int(size)


def unread(tx: Tx, after: int) -> UnreadParcel | None:
    """Return the next such parcel."""
    row = tx.execute(UNREAD, (after,)).fetchone()
    return None if row is None else UnreadParcel(*row)


def drop_unread(tx: Tx, id_: int) -> None:
    """Drop such a parcel, which was read now."""
    tx.execute(DROP_UNREAD, (id_,))


def newest_common(kept: Iterable[Position], confirmed: Mapping[int, bool]) -> Position:
    """Return the newest of `kept` that the hub confirmed; the begin of the stream if it confirmed none."""
    return next((each for each in kept if confirmed.get(each.number)), Position())
