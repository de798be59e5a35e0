"""Who follows whom, by the newest contact list (kind 3) of each author.

The id and time of that list are kept here, apart from the events, so that retention of events never lets an older list
win. Newest wins; at equal times the lowest id (NIP-01, replaceable events).
"""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pipeline.store import authors, shares, wanted_authors
from pipeline.store.database import Tx

LIST_OF = "SELECT event_id, created_at FROM contact_lists WHERE follower = ?"
PUT_LIST = """
INSERT INTO contact_lists (follower, event_id, created_at) VALUES (?, ?, ?)
ON CONFLICT (follower) DO UPDATE SET event_id = excluded.event_id, created_at = excluded.created_at
"""
FOLLOWEES = "SELECT followee FROM contacts WHERE follower = ?"
PLACES = "SELECT followee, place, waiting FROM contacts WHERE follower = ?"
# The later someone was followed, the higher the place; lists are appended to.
ADD = "INSERT INTO contacts (follower, followee, place, waiting) VALUES (?, ?, ?, ?)"
REMOVE = "DELETE FROM contacts WHERE follower = ? AND followee = ?"
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
class Counts:
    """How many follow an author, and how many the author follows."""

    followers: int
    followees: int


def replace(tx: Tx, contacts: ContactList, now: int, *, most_ago: int = 0) -> bool:
    """Take `contacts` if it is newer than what is known, writing only the difference; return True if it was.

    Whom it adds is wanted since the list was written, `most_ago` (ms) before `now` at most.
    """
    known = tx.execute(LIST_OF, (contacts.follower,)).fetchone()
    if known is not None and not _supersedes(contacts, known[0], known[1]):
        return False
    tx.execute(PUT_LIST, (contacts.follower, contacts.event_id, contacts.created_at))
    _put(tx, contacts, min(now, max(1000 * contacts.created_at, now - most_ago)), now)
    return True


def retract(tx: Tx, follower: int, event_ids: AbstractSet[bytes], until: int | None, now: int) -> None:
    """Forget the contacts of `follower` if their list is among `event_ids`, or dated `until` (seconds) or before.

    What was taken back, and with `until` everything as old, cannot come again.
    """
    known = tx.execute(LIST_OF, (follower,)).fetchone()
    if until is not None and (known is None or known[1] <= until):
        # The lowest id of all: no list of the same second wins against it.
        tx.execute(PUT_LIST, (follower, bytes(32), until))
    elif known is None or known[0] not in event_ids:
        return
    _put(tx, ContactList(follower, b"", 0, ()), now, now)


def _put(tx: Tx, contacts: ContactList, since: int, now: int) -> None:
    """Make the followees those of `contacts`, the new ones wanted since `since` (ms), writing only the difference."""
    follower, listed = contacts.follower, set(contacts.followees)
    before = {followee: (place, waits) for followee, place, waits in tx.execute(PLACES, (follower,))}
    added = [followee for followee in contacts.followees if followee not in before]
    removed = [followee for followee in before if followee not in listed]
    user = shares.holding(tx, follower)
    if user is not None:
        # A user who follows themselves is wanted for being registered, whatever the list says.
        lost = [followee for followee in removed if followee != follower]
        wanted_authors.release(tx, (followee for followee in lost if not before[followee][1]))
        user = user.changed(-len(lost), -sum(before[followee][1] for followee in lost))
    gained = [followee for followee in added if followee != follower]
    waits = user is not None and not shares.has_room(tx, user, len(gained), now)
    next_place = 1 + max((place for place, _ in before.values()), default=-1)
    rows = ((follower, each, place, waits and each != follower) for place, each in enumerate(added, next_place))
    tx.executemany(ADD, rows)
    tx.executemany(REMOVE, ((follower, followee) for followee in removed))
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


def _supersedes(contacts: ContactList, known_id: bytes, known_created_at: int) -> bool:
    if contacts.created_at != known_created_at:
        return contacts.created_at > known_created_at
    return contacts.event_id < known_id
