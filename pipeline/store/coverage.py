"""What is recorded of one author: why and since when wanted, how far relays are complete, and what came."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.nostr import json_text
from pipeline.store.database import Row, Tx

STANDING = """
SELECT authors.id, wanted.since, wanted.generation, wanted.tier, monitored.created_at, monitored.generation,
       coalesce(monitored.waiting, 0)
  FROM authors
  LEFT JOIN wanted ON wanted.author = authors.id AND refs > 0
  LEFT JOIN monitored ON monitored.author = authors.id AND removed_at IS NULL
 WHERE public_key = ?
"""
FOLLOWERS = """
SELECT count(*) FROM contacts JOIN monitored ON monitored.author = contacts.follower AND removed_at IS NULL
 WHERE followee = ?
"""
CONTACTS = "SELECT count(*) FROM contacts WHERE follower = ?"
CONTACTS_DATED = "SELECT created_at FROM contact_lists WHERE follower = ?"
RELAY_LIST = "SELECT writes, reads FROM relay_lists WHERE author = ?"
MENTIONED_RELAYS = "SELECT relay FROM relay_namers WHERE author = ? AND as_monitor = 0 LIMIT ?"
CURSORS = """
SELECT query, complete_until, generation FROM cursors
 WHERE relay = ? AND query IN (SELECT value FROM json_each(?))
"""
GAPS = """
SELECT form, reason, since, until FROM gaps WHERE relay = ? AND form IN (SELECT value FROM json_each(?))
 ORDER BY reason, form, since LIMIT ?
"""
# The newest ids of all authors: there is no index by author.
RECENT = """
SELECT created_at, seen_at, kind FROM (SELECT * FROM seen ORDER BY created_at DESC, event_id DESC LIMIT ?2)
 WHERE author = ?1
"""
REACH = "SELECT min(created_at) FROM (SELECT created_at FROM seen ORDER BY created_at DESC, event_id DESC LIMIT ?)"

MAX_MENTIONED: Final = 1_000
MAX_GAPS: Final = 20
"""Of one relay."""


@dataclass(frozen=True, slots=True)
class AuthorStanding:
    """An author's number and why it is wanted; times in ms, None where it is not.

    `generation`, `tier`: as a wanted author; `registered_generation`: as a user, whose mentions are wanted.
    """

    author: int
    wanted_since: int | None
    generation: int
    tier: int
    registered_at: int | None
    registered_generation: int
    waiting: int
    """Followees that are not wanted yet."""


@dataclass(frozen=True, slots=True)
class CoveringCursor:
    """How far a relay is complete for a query, for members of a change up to `generation`."""

    query: str
    complete_until: int
    generation: int


@dataclass(frozen=True, slots=True)
class CoveringGap:
    """An open gap of a query (Unix seconds, both included)."""

    form: str
    reason: str
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class RecentArrival:
    """An accepted event of an author; `seen_at` in ms, `created_at` in seconds."""

    created_at: int
    seen_at: int
    kind: int


def standing(tx: Tx, public_key: bytes) -> AuthorStanding | None:
    """Return how the author stands; None if the key was never met."""
    row = tx.execute(STANDING, (public_key,)).fetchone()
    if row is None:
        return None
    author, since, generation, tier, registered_at, registered, waiting = row
    return AuthorStanding(author, since, generation or 0, tier or 0, registered_at, registered or 0, waiting)


def followers(tx: Tx, author: int) -> int:
    """Return how many registered users follow the author."""
    return int(tx.execute(FOLLOWERS, (author,)).get)


def contacts(tx: Tx, author: int) -> tuple[int, int | None]:
    """Return how many the author follows, and the date (s) of the newest list."""
    row = tx.execute(CONTACTS_DATED, (author,)).fetchone()
    return int(tx.execute(CONTACTS, (author,)).get), None if row is None else int(row[0])


def named_relays(tx: Tx, author: int) -> dict[int, set[str]]:
    """Return the relays that the author names, by number: to `write` to, to `read` from, or in a `mention`."""
    named: dict[int, set[str]] = {}
    row = tx.execute(RELAY_LIST, (author,)).fetchone()
    for use, text in zip(("write", "read"), row or ("", ""), strict=True):
        for number in filter(None, text.split(",")):
            named.setdefault(int(number), set()).add(use)
    for (number,) in tx.execute(MENTIONED_RELAYS, (author, MAX_MENTIONED)):
        named.setdefault(number, {"mention"})
    return named


def cursors(tx: Tx, relay: int, queries: Iterable[str]) -> list[CoveringCursor]:
    """Return the cursors of a relay for any of `queries`."""
    return [CoveringCursor(*row) for row in tx.execute(CURSORS, (relay, _text(queries)))]


def gaps(tx: Tx, relay: int, queries: Iterable[str]) -> list[CoveringGap]:
    """Return the first `MAX_GAPS` open gaps of a relay in any of `queries`."""
    return [CoveringGap(*row) for row in tx.execute(GAPS, (relay, _text(queries), MAX_GAPS))]


def recent(tx: Tx, author: int, limit: int) -> tuple[list[RecentArrival], int | None]:
    """Return the author's events among the newest `limit` of all, the newest first, and how far back (s) these go."""
    rows: list[Row] = tx.execute(RECENT, (author, limit)).fetchall()
    oldest = tx.execute(REACH, (limit,)).get
    return [RecentArrival(*row) for row in rows], None if oldest is None else int(oldest)


def _text(queries: Iterable[str]) -> str:
    return json_text.encode(list(queries)).decode()
