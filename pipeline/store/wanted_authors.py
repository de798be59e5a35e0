"""Authors whose events are wanted whatever their kind: registered users and those in their newest contact lists.

Each author is counted once per reason (`refs`: being registered, and each registered follower). A change from none to
some or back draws a new generation, by which readers find what changed, and cursors tell whom they already cover.
Rows are never deleted, so that a reader that was away sees removals too.

A relay that serves few requests cannot serve all authors at once, so that each author has a *tier*; the lowest comes
first. A list of many followees cannot take the place of authors who were wanted before it, nor of later users' few.

| tier | holds |
|---|---|
| 0 | the first authors, up to `TIER_SIZES[0]` |
| 1 | the next, up to `TIER_SIZES[1]` |
| 2 | all others among the first `NEAR` followees that each user's list brought |
| 3 | the rest |

An author keeps the tier while wanted, but leaves the last one as soon as a list has them among its first. An
author who changes tiers has a new generation, so that a cursor of the new tier never covers what only the old one had.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.store.database import Tx

TIER_SIZES: Final = (2_000, 10_000)
TIERS: Final = 4
# Most people follow fewer.
NEAR: Final = 500

LATEST_GENERATION = "SELECT latest FROM generations"
COUNT = "SELECT authors FROM wanted_budget"
ADD_TO_COUNT = "UPDATE wanted_budget SET authors = authors + ?"
NUMBERS = "SELECT author FROM wanted WHERE refs > 0"
# A registered user is wanted for that reason once.
FOLLOWED = "SELECT author FROM wanted WHERE author = ? AND refs > 1"
NEXT_GENERATION = "UPDATE generations SET latest = latest + 1 RETURNING latest"
ACQUIRE = """
INSERT INTO wanted (author, refs, since, generation, tier) VALUES (?1, 1, ?2, ?3, ?4)
ON CONFLICT (author) DO UPDATE SET
  since = iif(refs = 0, excluded.since, since),
  generation = iif(refs = 0 OR (tier = ?5 AND excluded.tier < ?5), excluded.generation, generation),
  tier = iif(refs = 0 OR (tier = ?5 AND excluded.tier < ?5), excluded.tier, tier),
  refs = refs + 1
RETURNING refs = 1
"""
IN_TIER = "SELECT count(*) FROM (SELECT 1 FROM wanted WHERE refs > 0 AND tier = ? LIMIT ?)"
RELEASE = """
UPDATE wanted SET refs = refs - 1, generation = iif(refs = 1, ?2, generation) WHERE author = ?1 AND refs > 0
RETURNING refs = 0
"""
# Where home's plan is copied, later changes may be there already, though not all of them.
AUTHORS_CHANGED_SINCE = """
SELECT public_key, refs > 0, since, generation, tier FROM wanted JOIN authors ON authors.id = wanted.author
 WHERE generation > ?1 AND generation <= ?2
"""
REGISTERED_CHANGED_SINCE = """
SELECT public_key, removed_at IS NULL, created_at, generation, 0
  FROM monitored JOIN authors ON authors.id = monitored.author WHERE generation > ?1 AND generation <= ?2
"""


@dataclass(frozen=True, slots=True)
class Change:
    """An author who became wanted or ceased to be, at `since` (ms), as change number `generation`."""

    public_key: bytes
    wanted: bool
    since: int
    generation: int
    tier: int = 0


@dataclass(frozen=True, slots=True)
class WantedChanges:
    """Everything that changed after one generation, up to `generation`."""

    generation: int
    authors: Iterable[Change]
    registered: Iterable[Change]


def latest_generation(tx: Tx) -> int:
    """Return the number of the newest change."""
    return int(tx.execute(LATEST_GENERATION).get)


def count(tx: Tx) -> int:
    """Return the number of wanted authors."""
    return int(tx.execute(COUNT).get)


def numbers(tx: Tx) -> set[int]:
    """Return the numbers of all wanted authors."""
    return {int(author) for (author,) in tx.execute(NUMBERS)}


def followed_users(tx: Tx, users: Iterable[int]) -> set[int]:
    """Return those of `users`, numbers of registered users, who are wanted as a followee of another, too."""
    return {int(author) for (author,) in tx.executemany(FOLLOWED, ((user,) for user in users))}


def next_generation(tx: Tx) -> int:
    """Draw a number for the changes of this transaction."""
    return int(tx.execute(NEXT_GENERATION).get)


def stream_since(tx: Tx, generation: int) -> WantedChanges:
    """Return the changes after `generation` as iterators, to be read once within the transaction; 0: the whole state.

    A million changes would take 300 MB at once.
    """
    latest = latest_generation(tx)
    return WantedChanges(
        latest,
        (_change(row) for row in tx.execute(AUTHORS_CHANGED_SINCE, (generation, latest))),
        (_change(row) for row in tx.execute(REGISTERED_CHANGED_SINCE, (generation, latest))),
    )


def acquire(tx: Tx, authors: Iterable[int], now: int, *, near: int = NEAR) -> None:
    """Add one reason to want each of `authors`; all but the first `near` of them come last."""
    distinct = list(dict.fromkeys(authors))
    if distinct:
        generation = next_generation(tx)
        tiers = _tiers(tx, len(distinct), near)
        rows = ((author, now, generation, tier, TIERS - 1) for author, tier in zip(distinct, tiers, strict=True))
        began = sum(is_new for (is_new,) in tx.executemany(ACQUIRE, rows))
        tx.execute(ADD_TO_COUNT, (began,))


def release(tx: Tx, authors: Iterable[int]) -> None:
    """Take one reason away from each of `authors`."""
    distinct = set(authors)
    if distinct:
        generation = next_generation(tx)
        ended = sum(is_gone for (is_gone,) in tx.executemany(RELEASE, ((author, generation) for author in distinct)))
        tx.execute(ADD_TO_COUNT, (-ended,))


def _tiers(tx: Tx, count: int, near: int) -> list[int]:
    """Return the tiers of so many authors, of whom the first `near` are not put into the last."""
    left, tiers = min(count, max(0, near)), list[int]()
    for tier, size in enumerate(TIER_SIZES):
        room = min(left - len(tiers), size - int(tx.execute(IN_TIER, (tier, size)).get)) if len(tiers) < left else 0
        tiers += [tier] * room
    tiers += [len(TIER_SIZES)] * (left - len(tiers))
    return tiers + [TIERS - 1] * (count - left)


def _change(row: tuple[bytes, int, int, int, int]) -> Change:
    public_key, is_wanted, since, generation, tier = row
    return Change(public_key, bool(is_wanted), since, generation, tier)
