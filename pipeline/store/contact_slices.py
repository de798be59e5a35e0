"""What is left to do of contact lists that change more than one transaction may hold the write lock for.

The same goes for the followees of a user who registers with a list that is known. A list is settled once its first
slice and its rows here are committed: they are worked off one by one, and each is deleted in the transaction that does
it. A newer list of the same author replaces what is left of an older one.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.store.database import Row, Tx

# Numbering an author, noting the follow and wanting the author takes some 20 us of the write lock.
SIZE: Final = 500
_KEY_BYTES: Final = 32

PUT = "INSERT INTO contact_slices (follower, since, place, added, removed) VALUES (?, ?, ?, ?, ?)"
FORGET = "DELETE FROM contact_slices WHERE follower = ?"
COUNT = "SELECT count(*) FROM contact_slices"
COUNT_OF = "SELECT count(*) FROM contact_slices WHERE follower = ?"
# Lists of users first: those of others change nothing about who is wanted.
OF_USERS = """
SELECT slice FROM contact_slices JOIN monitored ON monitored.author = contact_slices.follower
 WHERE removed_at IS NULL ORDER BY slice LIMIT 1
"""
OLDEST = "SELECT min(slice) FROM contact_slices"
TAKE = "DELETE FROM contact_slices WHERE slice = ? RETURNING follower, since, place, added, removed"


@dataclass(frozen=True, slots=True)
class ContactSlice:
    """A part of the difference that a list makes; the authors added are wanted since `since` (ms).

    `added`: public keys in the order of the list, the first of which has the place `place`. `removed`: numbers.
    One without either is for a user who registered when the list was known: some more of the followees are wanted.
    """

    follower: int
    since: int
    place: int
    added: Sequence[bytes]
    removed: Sequence[int]

    @property
    def only_admits(self) -> bool:
        """Return True if it changes no contacts, but lets followees be wanted that wait."""
        return not self.added and not self.removed


def cut(difference: ContactSlice) -> Iterator[ContactSlice]:
    """Yield a difference in parts that are small enough, first those that add the newest followees."""
    follower, since, added, removed = difference.follower, difference.since, difference.added, difference.removed
    for end in range(len(added), 0, -SIZE):
        begin = max(0, end - SIZE)
        yield ContactSlice(follower, since, difference.place + begin, added[begin:end], ())
    for begin in range(0, len(removed), SIZE):
        yield ContactSlice(follower, since, 0, (), removed[begin : begin + SIZE])


def put(tx: Tx, slices: Iterable[ContactSlice]) -> None:
    """Remember what is to be done."""
    tx.executemany(
        PUT,
        (
            (each.follower, each.since, each.place, b"".join(each.added), array("q", each.removed).tobytes())
            for each in slices
        ),
    )


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
    follower, since, place, added, removed = row
    keys = tuple(added[at : at + _KEY_BYTES] for at in range(0, len(added), _KEY_BYTES))
    numbers = array("q")
    numbers.frombytes(removed)
    return ContactSlice(follower, since, place, keys, numbers)
