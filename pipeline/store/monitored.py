"""Registered users."""

from dataclasses import dataclass

from pipeline.store import relays, wanted
from pipeline.store.authors import Authors
from pipeline.store.database import Tx

REGISTERED_AT = "SELECT removed_at IS NULL FROM monitored WHERE author = ?"
REGISTER = """
INSERT INTO monitored (author, created_at, updated_at, removed_at, generation) VALUES (?1, ?2, ?2, NULL, ?3)
ON CONFLICT (author) DO UPDATE SET
  created_at = excluded.created_at, updated_at = excluded.updated_at, removed_at = NULL,
  generation = excluded.generation
"""
RENEW = "UPDATE monitored SET updated_at = ? WHERE author = ?"
REMOVE = "UPDATE monitored SET removed_at = ?, generation = ? WHERE author = ?"
# One more reason to want the author and everybody that the author follows.
SELF_AND_FOLLOWEES = "SELECT ?1 UNION SELECT followee FROM contacts WHERE follower = ?1"
ALL = """
SELECT public_key, created_at, updated_at FROM monitored JOIN authors ON authors.id = monitored.author
 WHERE removed_at IS NULL ORDER BY created_at, public_key
"""
COUNT = "SELECT count(*) FROM monitored WHERE removed_at IS NULL"


@dataclass(frozen=True, slots=True)
class User:
    """A registered user; times in ms."""

    public_key: bytes
    created_at: int
    updated_at: int


def is_registered(tx: Tx, author: int) -> bool:
    """Whether `author` is a registered user now."""
    row = tx.execute(REGISTERED_AT, (author,)).fetchone()
    return row is not None and bool(row[0])


def register(tx: Tx, public_key: bytes, now: int) -> bool:
    """Make `public_key` a registered user; a repeated call only renews the time. Returns whether the user is new.

    The relays that the user named before are a user's from now on.
    """
    author = Authors().intern(tx, public_key)
    if is_registered(tx, author):
        tx.execute(RENEW, (now, author))
        return False
    tx.execute(REGISTER, (author, now, wanted.next_generation(tx)))
    wanted.acquire(tx, _self_and_followees(tx, author), now)
    relays.mark_named_by(tx, author)
    return True


def remove(tx: Tx, public_key: bytes, now: int) -> bool:
    """End a registration; returns whether there was one."""
    author = Authors().intern(tx, public_key)
    if not is_registered(tx, author):
        return False
    tx.execute(REMOVE, (now, wanted.next_generation(tx), author))
    wanted.release(tx, _self_and_followees(tx, author))
    return True


def registered(tx: Tx) -> list[User]:
    """Every registered user, in the order of registration."""
    return [User(*row) for row in tx.execute(ALL)]


def count(tx: Tx) -> int:
    """How many users are registered."""
    return int(tx.execute(COUNT).get)


def _self_and_followees(tx: Tx, author: int) -> list[int]:
    return [number for (number,) in tx.execute(SELF_AND_FOLLOWEES, (author,))]
