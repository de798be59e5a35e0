"""Who follows whom, by the newest contact list (kind 3) of each author.

The id and time of that list are kept here, apart from the events, so that retention of events never lets an older list
win. Newest wins; at equal times the lowest id (NIP-01, replaceable events).
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pipeline.store import authors, monitored, wanted
from pipeline.store.database import Tx

LIST_OF = "SELECT event_id, created_at FROM contact_lists WHERE follower = ?"
PUT_LIST = """
INSERT INTO contact_lists (follower, event_id, created_at) VALUES (?, ?, ?)
ON CONFLICT (follower) DO UPDATE SET event_id = excluded.event_id, created_at = excluded.created_at
"""
FOLLOWEES = "SELECT followee FROM contacts WHERE follower = ?"
ADD = "INSERT INTO contacts (follower, followee) VALUES (?, ?)"
REMOVE = "DELETE FROM contacts WHERE follower = ? AND followee = ?"
COUNT_FOLLOWERS = "SELECT count(*) FROM contacts WHERE followee = ?"
COUNT_FOLLOWEES = "SELECT count(*) FROM contacts WHERE follower = ?"


@dataclass(frozen=True, slots=True)
class ContactList:
    """A contact list as the store needs it: numbers of authors instead of keys; `created_at` in seconds."""

    follower: int
    event_id: bytes
    created_at: int
    followees: frozenset[int]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many follow an author, and how many the author follows."""

    followers: int
    followees: int


def replace(tx: Tx, contacts: ContactList, now: int, *, most_ago: int = 0) -> bool:
    """Take `contacts` if it is newer than what is known, writing only the difference; returns whether it was.

    Whom it adds is wanted since the list was written, `most_ago` (ms) before `now` at most.
    """
    known = tx.execute(LIST_OF, (contacts.follower,)).fetchone()
    if known is not None and not _supersedes(contacts, known[0], known[1]):
        return False
    tx.execute(PUT_LIST, (contacts.follower, contacts.event_id, contacts.created_at))
    _put(tx, contacts, min(now, max(1000 * contacts.created_at, now - most_ago)))
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
    _put(tx, ContactList(follower, b"", 0, frozenset()), now)


def _put(tx: Tx, contacts: ContactList, since: int) -> None:
    """Make the followees those of `contacts`, the new ones wanted since `since` (ms), writing only the difference."""
    before = followees(tx, contacts.follower)
    added, removed = contacts.followees - before, before - contacts.followees
    tx.executemany(ADD, ((contacts.follower, followee) for followee in added))
    tx.executemany(REMOVE, ((contacts.follower, followee) for followee in removed))
    if monitored.is_registered(tx, contacts.follower):
        # A user who follows themselves is wanted for being registered, whatever the list says.
        wanted.acquire(tx, added - {contacts.follower}, since)
        wanted.release(tx, removed - {contacts.follower})


def followees(tx: Tx, follower: int) -> set[int]:
    """Whom `follower` follows by the newest list known."""
    return {followee for (followee,) in tx.execute(FOLLOWEES, (follower,))}


def counts(tx: Tx, public_key: bytes) -> Counts:
    """The counts of `public_key`; zeros for a key that was never met."""
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
