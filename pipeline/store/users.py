"""Registered users."""

from dataclasses import dataclass

from pipeline.nostr.registration import Departure
from pipeline.store import relay_mentions, retractions, shares, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.database import Tx
from pipeline.store.retractions import Identity

# A deletion of a registration names one or two events; each costs a row for as long as ids are kept.
MAX_REMEMBERED = 10

REGISTERED_AT = "SELECT removed_at IS NULL FROM monitored WHERE author = ?"
REGISTER = """
INSERT INTO monitored (author, created_at, updated_at, removed_at, generation) VALUES (?1, ?2, ?2, NULL, ?3)
ON CONFLICT (author) DO UPDATE SET
  created_at = excluded.created_at, updated_at = excluded.updated_at, removed_at = NULL,
  generation = excluded.generation, event_id = NULL
"""
# Rows that were removed before removals were dated have no `revoked_at`.
STANDING = """
SELECT removed_at IS NULL, event_id,
       max(signed_at, iif(revoked_at = 0, ifnull(removed_at / 1000, -1), revoked_at)), updated_at,
       blocked_at IS NOT NULL
  FROM monitored WHERE author = ?
"""
SIGN = "UPDATE monitored SET event_id = ?2, signed_at = ?3 WHERE author = ?1"
REVOKE = "UPDATE monitored SET event_id = NULL, revoked_at = ?2 WHERE author = ?1"
REVOKE_UNKNOWN = """
INSERT INTO monitored (author, created_at, updated_at, removed_at, generation, revoked_at)
VALUES (?1, ?2, ?2, ?2, ?3, ?4)
ON CONFLICT (author) DO UPDATE SET
  revoked_at = max(excluded.revoked_at, iif(revoked_at = 0, ifnull(removed_at / 1000, -1), revoked_at))
"""
BLOCK = """
INSERT INTO monitored (author, created_at, updated_at, removed_at, generation, blocked_at)
VALUES (?1, ?2, ?2, ?2, ?3, ?2)
ON CONFLICT (author) DO UPDATE SET blocked_at = excluded.blocked_at
"""
UNBLOCK = "UPDATE monitored SET blocked_at = NULL WHERE author = ? AND blocked_at IS NOT NULL"
RENEW = "UPDATE monitored SET updated_at = ? WHERE author = ?"
REMOVE = "UPDATE monitored SET removed_at = ?1, revoked_at = ?1 / 1000, generation = ?2 WHERE author = ?3"
ALL = """
SELECT public_key, created_at, updated_at, followees, waiting
  FROM monitored JOIN authors ON authors.id = monitored.author
 WHERE removed_at IS NULL ORDER BY created_at, public_key
"""
BLOCKED = """
SELECT public_key, blocked_at FROM monitored JOIN authors ON authors.id = monitored.author
 WHERE blocked_at IS NOT NULL ORDER BY blocked_at, public_key
"""
COUNT = "SELECT count(*) FROM monitored WHERE removed_at IS NULL"


@dataclass(frozen=True, slots=True)
class User:
    """A registered user; times in ms."""

    public_key: bytes
    created_at: int
    updated_at: int
    followees: int = 0
    waiting: int = 0
    """Number of followees that are not wanted yet; see `shares`."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The event that a user registers by: its id and `created_at` (s)."""

    event_id: bytes
    created_at: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Standing of a key: an event registers it if it is newer than `latest` (s), or `event_id` itself."""

    is_registered: bool = False
    event_id: bytes | None = None
    latest: int = -1
    renewed_at: int = 0
    """When the registration was last renewed (ms)."""
    is_blocked: bool = False

    def admits(self, signed: Signed) -> bool:
        """Return True if the event registers the key, or did so already."""
        if self.is_registered and self.event_id == signed.event_id:
            return True
        return signed.created_at > self.latest


def standing(tx: Tx, author: int) -> Standing:
    """Return how the author stands."""
    row = tx.execute(STANDING, (author,)).fetchone()
    if row is None:
        return Standing()
    is_registered, event_id, latest, renewed_at, is_blocked = row
    return Standing(bool(is_registered), event_id, latest, renewed_at, bool(is_blocked))


def is_registered(tx: Tx, author: int) -> bool:
    """Return True if `author` is a registered user now."""
    row = tx.execute(REGISTERED_AT, (author,)).fetchone()
    return row is not None and bool(row[0])


def register(tx: Tx, public_key: bytes, now: int) -> bool:
    """Make `public_key` a registered user; a repeated call only renews the time. Return True if the user is new.

    The relays that the user named before are a user's from now on.
    """
    author = Authors().intern(tx, public_key)
    if is_registered(tx, author):
        tx.execute(RENEW, (now, author))
        return False
    tx.execute(REGISTER, (author, now, wanted_authors.next_generation(tx)))
    shares.admit_all(tx, author, now)
    relay_mentions.mark_mentioned_by_user(tx, author)
    return True


def register_signed(tx: Tx, public_key: bytes, signed: Signed, now: int) -> bool:
    """Register by an event that the key's standing admits; return True if the user is new."""
    is_new = register(tx, public_key, now)
    tx.execute(SIGN, (Authors().intern(tx, public_key), signed.event_id, signed.created_at))
    return is_new


def leave(tx: Tx, departure: Departure, now: int) -> bool:
    """End the registration that a user's own event ends; return True if there was one.

    An event older than the registration takes nothing back, except by its id. What it would take back that has not
    arrived yet is remembered.
    """
    author = Authors().intern(tx, departure.public_key)
    held = standing(tx, author)
    if not held.is_registered:
        _remember(tx, author, departure, now)
        return False
    if held.event_id is None:
        is_meant = departure.names_kind or departure.vanishes
        is_meant = is_meant and departure.created_at >= held.renewed_at // 1000
    else:
        vanishes = departure.vanishes and departure.created_at >= held.latest
        is_meant = vanishes or held.event_id in departure.event_ids
    if is_meant:
        remove(tx, departure.public_key, now)
        # One dated far ahead must not keep its author out for as long.
        tx.execute(REVOKE, (author, max(held.latest, min(departure.created_at, now // 1000))))
    else:
        retractions.delete(tx, sorted(departure.event_ids)[:MAX_REMEMBERED], author, now)
    return is_meant


def is_taken_back(tx: Tx, author: int, signed: Signed) -> bool:
    """Return True if the author has deleted the event, or vanished since."""
    return bool(retractions.retracted(tx, [Identity(signed.event_id, author, signed.created_at)]))


def _remember(tx: Tx, author: int, departure: Departure, now: int) -> None:
    """Remember a departure, so that a registration which it ends and which arrives later is refused."""
    retractions.delete(tx, sorted(departure.event_ids)[:MAX_REMEMBERED], author, now)
    if departure.vanishes or not departure.event_ids:
        at = min(departure.created_at, now // 1000)
        tx.execute(REVOKE_UNKNOWN, (author, now, wanted_authors.next_generation(tx), at))


def note_removal(tx: Tx, public_key: bytes, at: int) -> None:
    """Refuse registrations dated until `at` (ms) of a key that is not registered."""
    author = Authors().intern(tx, public_key)
    tx.execute(REVOKE_UNKNOWN, (author, at, wanted_authors.next_generation(tx), at // 1000))


def block(tx: Tx, public_key: bytes, now: int) -> bool:
    """End a key's registration and refuse new ones; return True if it was registered."""
    was = remove(tx, public_key, now)
    tx.execute(BLOCK, (Authors().intern(tx, public_key), now, wanted_authors.next_generation(tx)))
    return was


def unblock(tx: Tx, public_key: bytes) -> None:
    """Let the key register again."""
    tx.execute(UNBLOCK, (Authors().intern(tx, public_key),))


def remove(tx: Tx, public_key: bytes, now: int) -> bool:
    """End a registration; return True if there was one. The sweeper releases followees beyond the first few hundred."""
    author = Authors().intern(tx, public_key)
    if not is_registered(tx, author):
        return False
    tx.execute(REMOVE, (now, wanted_authors.next_generation(tx), author))
    shares.leave(tx, author)
    return True


def registered(tx: Tx) -> list[User]:
    """Return all registered users, in the order of registration."""
    return [User(*row) for row in tx.execute(ALL)]


def blocked(tx: Tx) -> list[tuple[bytes, int]]:
    """Return the keys that may not register, and since when (ms), in the order in which they were blocked."""
    return [(bytes(public_key), int(at)) for public_key, at in tx.execute(BLOCKED)]


def count(tx: Tx) -> int:
    """Return the number of registered users."""
    return int(tx.execute(COUNT).get)
