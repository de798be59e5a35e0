"""Ids of events that home took from crawling hosts and did not want, for these to forget.

A crawling host remembers an id once it has handed the event over. Home drops the event if its author is not wanted at
that moment, and may want the author again later: a restored home reads events before the contact lists behind them, and
a host follows changes a moment after home. The host then has to take the event in once more.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from pipeline.store.database import Row, Tx

MOST: Final = 100_000
"""What is kept until the hub has it; beyond it hosts forget all ids."""

ADD: Final = "INSERT INTO unwanted_ids (event_id, created_at) VALUES (?, ?)"
SIZE: Final = "SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM unwanted_ids"
FIRST: Final = "SELECT seq, event_id, created_at FROM unwanted_ids ORDER BY seq LIMIT ?"
REMOVE: Final = "DELETE FROM unwanted_ids WHERE seq <= ?"
REMOVE_ALL: Final = "DELETE FROM unwanted_ids"
PLACE: Final = "SELECT place FROM unwanted_place"
PUT_PLACE: Final = """
INSERT INTO unwanted_place (only_row, place) VALUES (1, ?1) ON CONFLICT (only_row) DO UPDATE SET place = excluded.place
"""
FORGET: Final = "DELETE FROM seen WHERE created_at = ? AND event_id = ?"
FORGET_SOME: Final = """
DELETE FROM seen WHERE (created_at, event_id) IN (SELECT created_at, event_id FROM seen LIMIT ?)
"""
# In the place of all ids.
_ALL: Final = b""


class UnwantedId(NamedTuple):
    """An event by its id and time (s)."""

    event_id: bytes
    created_at: int


class Unwanted(NamedTuple):
    """The oldest of what the hub does not have; `last`: the place of the newest of these."""

    last: int
    ids: tuple[UnwantedId, ...]
    is_all: bool
    """Whether hosts are to forget all ids that they know, since too many were unwanted to be listed."""


def add(tx: Tx, ids: Iterable[UnwantedId]) -> None:
    """Note what home drops, in the transaction that drops it."""
    tx.executemany(ADD, ids)
    if int(tx.execute(SIZE).get) > MOST:
        tx.execute(REMOVE_ALL)
        tx.execute(ADD, (_ALL, 0))


def first(tx: Tx, most: int) -> Unwanted | None:
    """Return up to `most` of what is noted, the oldest first; None for nothing."""
    rows: list[Row] = tx.execute(FIRST, (most,)).fetchall()
    if not rows:
        return None
    ids = tuple(UnwantedId(event_id, at) for _, event_id, at in rows if event_id != _ALL)
    return Unwanted(rows[-1][0], ids, is_all=len(ids) < len(rows))


def remove(tx: Tx, last: int) -> None:
    """Drop notes up to place `last`, which the hub has."""
    tx.execute(REMOVE, (last,))


def place(tx: Tx) -> int:
    """Return how far this crawling host has read the hub's notes."""
    row = tx.execute(PLACE).fetchone()
    return 0 if row is None else int(row[0])


def put_place(tx: Tx, its_place: int) -> None:
    """Write down how far it has."""
    tx.execute(PUT_PLACE, (its_place,))


def forget(tx: Tx, ids: Iterable[UnwantedId]) -> None:
    """Forget ids on a crawling host."""
    tx.executemany(FORGET, ((each.created_at, each.event_id) for each in ids))


def forget_some(tx: Tx, most: int) -> bool:
    """Forget some of all ids; return True if there are more."""
    before = tx.total_changes()
    tx.execute(FORGET_SOME, (most,))
    return tx.total_changes() - before == most
