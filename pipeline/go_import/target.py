"""Statements by which an import writes into our database, beside those of `pipeline/store`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.store import contacts, users
from pipeline.store.authors import Authors, find
from pipeline.store.contacts import ContactList
from pipeline.store.database import Tx

RELAY_SOURCE: Final = "go-import"
# A list of unknown origin and age: it loses against every real one, even of the year 1970, since at equal times the
# lowest id wins.
UNDATED_ID: Final = b"\xff" * 32
UNDATED_AT: Final = 0
# Ids delivered before have no number of ours; numbers of the inbox begin at 1.
NO_EVENT: Final = 0
# No kind and no author: such an id is known, but belongs to no query.
NO_KIND: Final = -1
NO_AUTHOR: Final = 0

ADD_SEEN = """
INSERT INTO seen (event_id, event, seen_at, created_at, kind, author) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING RETURNING event_id
"""
ADD_RELAY = """
INSERT INTO relays (address, source, first_seen, last_seen) VALUES (?1, ?2, ?3, ?3) ON CONFLICT DO NOTHING RETURNING id
"""
WAS_REMOVED = """
SELECT 1 FROM monitored JOIN authors ON authors.id = monitored.author
 WHERE public_key = ? AND removed_at IS NOT NULL
"""
STRETCH_TIMES = """
UPDATE monitored SET created_at = min(created_at, ?2), updated_at = max(updated_at, ?3)
 WHERE author = (SELECT id FROM authors WHERE public_key = ?1)
"""
SET_TIMES = """
UPDATE monitored SET created_at = ?2, updated_at = ?3 WHERE author = (SELECT id FROM authors WHERE public_key = ?1)
"""
IS_UNDATED = "SELECT 1 FROM contact_lists WHERE follower = ? AND event_id = ?"
FORGET_UNDATED = "DELETE FROM contact_lists WHERE follower = ? AND event_id = ?"


@dataclass(frozen=True, slots=True)
class SeenId:
    """An event that was delivered elsewhere: seen at `seen_at` (ms); the rest comes from the event if it is at hand."""

    event_id: bytes
    seen_at: int
    created_at: int = 0
    kind: int = NO_KIND
    author: bytes | None = None


@dataclass(frozen=True, slots=True)
class ImportedUser:
    """A registration made elsewhere; times in ms."""

    public_key: bytes
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class ImportedContacts:
    """A contact list by keys; `event_id` and `created_at` (seconds) are `None` where they are not known."""

    follower: bytes
    followees: frozenset[bytes]
    event_id: bytes | None
    created_at: int | None


def add_seen(tx: Tx, authors: Authors, ids: Iterable[SeenId]) -> int:
    """Make ids seen; return how many were not before."""
    rows = (
        (
            each.event_id,
            NO_EVENT,
            each.seen_at,
            each.created_at,
            each.kind,
            NO_AUTHOR if each.author is None else authors.intern(tx, each.author),
        )
        for each in ids
    )
    return len(tx.executemany(ADD_SEEN, rows).fetchall())


def add_relay(tx: Tx, address: str, now: int) -> bool:
    """Make a canonical address known; return True if it is new."""
    return tx.execute(ADD_RELAY, (address, RELAY_SOURCE, now)).fetchone() is not None


def was_removed(tx: Tx, public_key: bytes) -> bool:
    """Return True if the user was registered here once and removed since."""
    return tx.execute(WAS_REMOVED, (public_key,)).fetchone() is not None


def register(tx: Tx, user: ImportedUser, now: int) -> bool:
    """Register a user as of when that was; return True if the user is new."""
    author = find(tx, user.public_key)
    is_new = author is None or not users.is_registered(tx, author)
    if is_new:
        users.register(tx, user.public_key, now)
    tx.execute(SET_TIMES if is_new else STRETCH_TIMES, (user.public_key, user.created_at, user.updated_at))
    return is_new


def replace_contacts(tx: Tx, authors: Authors, imported: ImportedContacts, now: int) -> bool:
    """Take a contact list if it is newer than what is known; return True if it was taken.

    One without a time is taken where nothing is known, or another one without, since it comes later.
    """
    follower = authors.intern(tx, imported.follower)
    followees = frozenset(authors.intern_all(tx, imported.followees))
    if imported.event_id is None or imported.created_at is None:
        if tx.execute(IS_UNDATED, (follower, UNDATED_ID)).fetchone() is not None:
            if contacts.followees(tx, follower) == followees:
                return False
            tx.execute(FORGET_UNDATED, (follower, UNDATED_ID))
        return contacts.replace(tx, ContactList(follower, UNDATED_ID, UNDATED_AT, followees), now)
    return contacts.replace(tx, ContactList(follower, imported.event_id, imported.created_at, followees), now)
