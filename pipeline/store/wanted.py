"""Whose events are wanted whatever their kind: registered users and everybody in their newest contact lists.

Each author is counted once per reason (`refs`: being registered, and each registered follower). A change from none to
some or back draws a new generation, by which readers find what changed, and cursors tell whom they already cover.
Rows are never deleted, so that a reader that was away sees removals too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.store.database import Tx

LATEST_GENERATION = "SELECT latest FROM generations"
COUNT = "SELECT authors FROM wanted_budget"
ADD_TO_COUNT = "UPDATE wanted_budget SET authors = authors + ?"
NUMBERS = "SELECT author FROM wanted WHERE refs > 0"
NEXT_GENERATION = "UPDATE generations SET latest = latest + 1 RETURNING latest"
ACQUIRE = """
INSERT INTO wanted (author, refs, since, generation) VALUES (?1, 1, ?2, ?3)
ON CONFLICT (author) DO UPDATE SET
  since = iif(refs = 0, excluded.since, since),
  generation = iif(refs = 0, excluded.generation, generation),
  refs = refs + 1
RETURNING refs = 1
"""
RELEASE = """
UPDATE wanted SET refs = refs - 1, generation = iif(refs = 1, ?2, generation) WHERE author = ?1 AND refs > 0
RETURNING refs = 0
"""
AUTHORS_CHANGED_SINCE = """
SELECT public_key, refs > 0, since, generation FROM wanted JOIN authors ON authors.id = wanted.author
 WHERE generation > ?
"""
REGISTERED_CHANGED_SINCE = """
SELECT public_key, removed_at IS NULL, created_at, generation
  FROM monitored JOIN authors ON authors.id = monitored.author WHERE generation > ?
"""


@dataclass(frozen=True, slots=True)
class Change:
    """An author who became wanted or ceased to be, at `since` (ms), as change number `generation`."""

    public_key: bytes
    wanted: bool
    since: int
    generation: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that changed after one generation, up to `generation`."""

    generation: int
    authors: Iterable[Change]
    registered: Iterable[Change]


def latest_generation(tx: Tx) -> int:
    """The number of the newest change."""
    return int(tx.execute(LATEST_GENERATION).get)


def count(tx: Tx) -> int:
    """How many authors are wanted."""
    return int(tx.execute(COUNT).get)


def numbers(tx: Tx) -> set[int]:
    """The numbers of all wanted authors."""
    return {int(author) for (author,) in tx.execute(NUMBERS)}


def next_generation(tx: Tx) -> int:
    """Draw a number for the changes of this transaction."""
    return int(tx.execute(NEXT_GENERATION).get)


def changes_since(tx: Tx, generation: int) -> Changes:
    """What changed after `generation`; 0 gives the whole state. Call inside one transaction or snapshot."""
    changes = stream_since(tx, generation)
    return Changes(changes.generation, tuple(changes.authors), tuple(changes.registered))


def stream_since(tx: Tx, generation: int) -> Changes:
    """The same, to be gone through once within the transaction: a million of them at once take 300 MB."""
    return Changes(
        latest_generation(tx),
        (_change(row) for row in tx.execute(AUTHORS_CHANGED_SINCE, (generation,))),
        (_change(row) for row in tx.execute(REGISTERED_CHANGED_SINCE, (generation,))),
    )


def acquire(tx: Tx, authors: Iterable[int], now: int) -> None:
    """Add one reason to want each of `authors`."""
    distinct = set(authors)
    if distinct:
        generation = next_generation(tx)
        began = sum(is_new for (is_new,) in tx.executemany(ACQUIRE, ((author, now, generation) for author in distinct)))
        tx.execute(ADD_TO_COUNT, (began,))


def release(tx: Tx, authors: Iterable[int]) -> None:
    """Take one reason away from each of `authors`."""
    distinct = set(authors)
    if distinct:
        generation = next_generation(tx)
        ended = sum(is_gone for (is_gone,) in tx.executemany(RELEASE, ((author, generation) for author in distinct)))
        tx.execute(ADD_TO_COUNT, (-ended,))


def _change(row: tuple[bytes, int, int, int]) -> Change:
    public_key, is_wanted, since, generation = row
    return Change(public_key, bool(is_wanted), since, generation)
