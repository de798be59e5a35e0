"""Who follows whom, by the newest contact list (kind 3) of each author.

The id and time of that list are kept here, apart from the events, so that retention of events never lets an older list
win. Newest wins; at equal times the lowest id (NIP-01, replaceable events).
"""

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import count

from pipeline.store import authors, contact_slices, shares, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.contact_slices import ContactSlice
from pipeline.store.database import Tx

LIST_OF = "SELECT event_id, created_at FROM contact_lists WHERE follower = ?"
PUT_LIST = """
INSERT INTO contact_lists (follower, event_id, created_at) VALUES (?, ?, ?)
ON CONFLICT (follower) DO UPDATE SET event_id = excluded.event_id, created_at = excluded.created_at
"""
FOLLOWEES = "SELECT followee FROM contacts WHERE follower = ?"
PLACES = "SELECT followee, place FROM contacts WHERE follower = ?"
KEYS_AND_PLACES = """
SELECT public_key, followee, place FROM contacts JOIN authors ON authors.id = followee WHERE follower = ?
"""
# The later someone was followed, the higher the place; lists are appended to.
ADD = "INSERT INTO contacts (follower, followee, place, waiting) VALUES (?, ?, ?, ?)"
REMOVE = "DELETE FROM contacts WHERE follower = ? AND followee = ? RETURNING followee, waiting"
COUNT_FOLLOWERS = "SELECT count(*) FROM contacts WHERE followee = ?"
COUNT_FOLLOWEES = "SELECT count(*) FROM contacts WHERE follower = ?"


@dataclass(frozen=True, slots=True)
class ContactList:
    """A contact list as the store needs it: numbers of authors instead of keys; `created_at` in seconds."""

    follower: int
    event_id: bytes
    created_at: int
    followees: Collection[int]
    """Distinct, the newest last where the order is known."""


@dataclass(frozen=True, slots=True)
class KeyedList:
    """The same with the keys of the followees."""

    follower: int
    event_id: bytes
    created_at: int
    public_keys: Collection[bytes]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many follow an author, and how many the author follows."""

    followers: int
    followees: int


@dataclass(frozen=True, slots=True)
class Difference:
    """What a list changes about the followees that are known, and what it was reckoned from, if that may change.

    `added`: public keys in the order of the list; `removed`: numbers.
    """

    added: Sequence[bytes]
    removed: Sequence[int]
    next_place: int
    basis: "tuple[ListRow | None, int, int] | None"


ListRow = tuple[bytes, int]
"""The id of the newest list, and its `created_at`."""


def replace(tx: Tx, contacts: ContactList, now: int, *, most_ago: int = 0) -> bool:
    """Take `contacts` if it is newer than what is known, writing only the difference; return True if it was.

    Whom it adds is wanted since the list was written, `most_ago` (ms) before `now` at most.
    """
    if not _take(tx, contacts.follower, contacts.event_id, contacts.created_at):
        return False
    contact_slices.forget(tx, contacts.follower)
    listed = set(contacts.followees)
    before: dict[int, int] = dict(tx.execute(PLACES, (contacts.follower,)))
    added = [followee for followee in contacts.followees if followee not in before]
    removed = [followee for followee in before if followee not in listed]
    since = _since(contacts.created_at, now, most_ago)
    _apply(tx, contacts.follower, added, count(1 + max(before.values(), default=-1)), removed, since, now)
    return True


def difference(tx: Tx, follower: int, public_keys: Collection[bytes]) -> Difference:
    """Return what a list of these `public_keys`, distinct, would change; needs no write lock."""
    before = {key: (followee, place) for key, followee, place in tx.execute(KEYS_AND_PLACES, (follower,))}
    listed = frozenset(public_keys)
    return Difference(
        added=[key for key in public_keys if key not in before],
        removed=[followee for key, (followee, _) in before.items() if key not in listed],
        next_place=1 + max((place for _, place in before.values()), default=-1),
        basis=_basis(tx, follower),
    )


def replace_in_slices(
    tx: Tx, known: Authors, contacts: "KeyedList", now: int, *, most_ago: int = 0, changes: Difference | None = None
) -> bool:
    """Do the same as `replace`, of a long difference a part: the rest is left to `work_off`.

    `changes`: the difference as it was before the write lock was held.
    """
    follower = contacts.follower
    if changes is None or changes.basis != _basis(tx, follower):
        changes = difference(tx, follower, contacts.public_keys)
    if not _take(tx, follower, contacts.event_id, contacts.created_at):
        return False
    _settle(tx, known, follower, changes, _since(contacts.created_at, now, most_ago), now)
    return True


def work_off(tx: Tx, known: Authors, now: int) -> bool:
    """Do the next slice of a list that was too long for one transaction; return False if there is none."""
    next_slice = contact_slices.take(tx)
    if next_slice is None:
        return False
    _apply_slice(tx, known, next_slice, now)
    return True


def retract(tx: Tx, known: Authors, follower: int, event_ids: AbstractSet[bytes], until: int | None, now: int) -> None:
    """Forget the contacts of `follower` if their list is among `event_ids`, or dated `until` (seconds) or before.

    What was taken back, and with `until` everything as old, cannot come again.
    """
    row = tx.execute(LIST_OF, (follower,)).fetchone()
    if until is not None and (row is None or row[1] <= until):
        # The lowest id of all: no list of the same second wins against it.
        tx.execute(PUT_LIST, (follower, bytes(32), until))
    elif row is None or row[0] not in event_ids:
        return
    forget(tx, known, follower, now)


def forget(tx: Tx, known: Authors, follower: int, now: int) -> int:
    """Forget the contacts of `follower`, of a long list a part: the rest is left to `work_off`; return their number.

    The list's id and time stay, so that no older one comes again.
    """
    everybody = [int(followee) for (followee,) in tx.execute(FOLLOWEES, (follower,))]
    _settle(tx, known, follower, Difference((), everybody, 0, None), now, now)
    return len(everybody)


def _take(tx: Tx, follower: int, event_id: bytes, created_at: int) -> bool:
    """Note the list as the newest of its author; return False if it is not."""
    row = tx.execute(LIST_OF, (follower,)).fetchone()
    if row is not None and not _supersedes(event_id, created_at, row[0], row[1]):
        return False
    tx.execute(PUT_LIST, (follower, event_id, created_at))
    return True


def _since(created_at: int, now: int, most_ago: int) -> int:
    return min(now, max(1000 * created_at, now - most_ago))


def _basis(tx: Tx, follower: int) -> tuple[ListRow | None, int, int]:
    """Return what changes with each change of the followees."""
    row: ListRow | None = tx.execute(LIST_OF, (follower,)).fetchone()
    return row, int(tx.execute(COUNT_FOLLOWEES, (follower,)).get), contact_slices.count(tx, follower)


def _settle(tx: Tx, known: Authors, follower: int, changes: Difference, since: int, now: int) -> None:
    contact_slices.forget(tx, follower)
    places = range(changes.next_place, changes.next_place + len(changes.added))
    whole = ContactSlice(follower, since, changes.added, places, changes.removed)
    if len(whole.added) + len(whole.removed) <= contact_slices.SIZE:
        _apply_slice(tx, known, whole, now)
        return
    first, *others = contact_slices.cut(whole)
    _apply_slice(tx, known, first, now)
    contact_slices.put(tx, others)


def _apply_slice(tx: Tx, known: Authors, part: ContactSlice, now: int) -> None:
    if part.only_admits:
        shares.fill(tx, part.follower, part.since, now, most=contact_slices.SIZE)
        return
    _apply(tx, part.follower, known.intern_all(tx, part.added), part.places, part.removed, part.since, now)


def _apply(
    tx: Tx, follower: int, added: Sequence[int], places: Iterable[int], removed: Collection[int], since: int, now: int
) -> None:
    """Let `follower` follow those added from now on, wanted since `since` (ms), and those removed no longer."""
    gone = dict(tx.executemany(REMOVE, ((follower, followee) for followee in removed)))
    user = shares.holding(tx, follower)
    if user is not None:
        # A user who follows themselves is wanted for being registered, whatever the list says.
        gone.pop(follower, None)
        wanted_authors.release(tx, (followee for followee, waits in gone.items() if not waits))
        user = user.changed(-len(gone), -sum(gone.values()))
    gained = [followee for followee in added if followee != follower]
    waits = user is None or user.is_leaving or not shares.has_room(tx, user, len(gained), now)
    placed = zip(added, places, strict=False)
    tx.executemany(ADD, ((follower, each, place, waits and each != follower) for each, place in placed))
    if user is not None and not waits:
        wanted_authors.acquire(tx, reversed(gained), since, near=wanted_authors.NEAR - user.admitted)
        shares.put(tx, user.changed(len(gained), 0))
    elif user is not None:
        shares.put(tx, user.changed(len(gained), len(gained)))
        shares.fill(tx, follower, since, now)


def followees(tx: Tx, follower: int) -> set[int]:
    """Whom `follower` follows by the newest list known."""
    return {followee for (followee,) in tx.execute(FOLLOWEES, (follower,))}


def counts(tx: Tx, public_key: bytes) -> Counts:
    """Return the counts of `public_key`; zeros for a key that was never met."""
    author = authors.find(tx, public_key)
    if author is None:
        return Counts(0, 0)
    return Counts(
        int(tx.execute(COUNT_FOLLOWERS, (author,)).get),
        int(tx.execute(COUNT_FOLLOWEES, (author,)).get),
    )


def _supersedes(event_id: bytes, created_at: int, known_id: bytes, known_created_at: int) -> bool:
    if created_at != known_created_at:
        return created_at > known_created_at
    return event_id < known_id
