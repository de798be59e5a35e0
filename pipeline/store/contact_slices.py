"""What is left to do of contact lists that change more than one transaction may hold the write lock for.

The same goes for the followees of a user who registers with a list that is known. A list is settled once its first
slice and its rows here are committed: they are worked off one by one, and each is deleted in the transaction that does
it. A newer list of the same author replaces what is left of an older one.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from pipeline.store.database import Row, Tx

# Numbering an author, noting the follow and wanting the author takes some 20 us of the write lock.
SIZE: Final = 500
_KEY_BYTES: Final = 32

PUT = "INSERT INTO contact_slices (follower, since, added, places, removed) VALUES (?, ?, ?, ?, ?)"
FORGET = "DELETE FROM contact_slices WHERE follower = ?"
COUNT = "SELECT count(*) FROM contact_slices"
COUNT_OF = "SELECT count(*) FROM contact_slices WHERE follower = ?"
# Lists of users first: those of others change nothing about who is wanted.
OF_USERS = """
SELECT slice FROM contact_slices JOIN monitored ON monitored.author = contact_slices.follower
 WHERE removed_at IS NULL ORDER BY slice LIMIT 1
"""
OLDEST = "SELECT min(slice) FROM contact_slices"
TAKE = "DELETE FROM contact_slices WHERE slice = ? RETURNING follower, since, added, places, removed"


@dataclass(frozen=True, slots=True)
class ContactSlice:
    """A part of the difference that a list makes; the authors added are wanted since `since` (ms).

    `added`: public keys, with their `places` in the order of lists. `removed`: numbers.
    One without either is for a user who registered when the list was known: some more of the followees are wanted.
    """

    follower: int
    since: int
    added: Sequence[bytes]
    places: Sequence[int]
    removed: Sequence[int]

    @property
    def only_admits(self) -> bool:
        """Return True if it changes no contacts, but lets followees be wanted that wait."""
        return not self.added and not self.removed


def cut(difference: ContactSlice) -> Iterator[ContactSlice]:
    """Yield a difference in parts that are small enough, first that with the newest followees.

    The others are in order of their keys: each part then changes few pages of the index of all keys, where parts in
    the order of the list would each change all of them.
    """
    follower, since, removed = difference.follower, difference.since, difference.removed
    added = sorted(zip(difference.places, difference.added, strict=True))
    newest, older = added[-SIZE:], sorted(added[:-SIZE], key=itemgetter(1))
    for part in (newest, *(older[at : at + SIZE] for at in range(0, len(older), SIZE))):
        if part:
            places, keys = zip(*part, strict=True)
            yield ContactSlice(follower, since, keys, places, ())
    for at in range(0, len(removed), SIZE):
        yield ContactSlice(follower, since, (), (), removed[at : at + SIZE])


def put(tx: Tx, slices: Iterable[ContactSlice]) -> None:
    """Remember what is to be done."""
    rows = (
        (each.follower, each.since, b"".join(each.added), _blob(each.places), _blob(each.removed)) for each in slices
    )
    tx.executemany(PUT, rows)


def forget(tx: Tx, follower: int) -> None:
    """Drop what is left of the list of `follower`."""
    tx.execute(FORGET, (follower,))


def count(tx: Tx, follower: int | None = None) -> int:
    """Return how many are left, of one follower or of all."""
    return int(tx.execute(COUNT).get if follower is None else tx.execute(COUNT_OF, (follower,)).get)


def take(tx: Tx) -> ContactSlice | None:
    """Remove the slice that is to be done next and return it; None if there is none."""
    number = tx.execute(OF_USERS).get
    if number is None:
        number = tx.execute(OLDEST).get
    row: Row | None = None if number is None else tx.execute(TAKE, (number,)).fetchone()
    if row is None:
        return None
    follower, since, added, places, removed = row
    keys = tuple(added[at : at + _KEY_BYTES] for at in range(0, len(added), _KEY_BYTES))
    return ContactSlice(follower, since, keys, _numbers(places), _numbers(removed))


def _blob(numbers: Sequence[int]) -> bytes:
    return array("q", numbers).tobytes()


def _numbers(blob: bytes) -> Sequence[int]:
    numbers = array("q")
    numbers.frombytes(blob)
    return numbers
