"""Whose events are wanted, as home reads it for other hosts and as these write it down.

A copy is written in slices. No reader sees a change before all changes up to its generation are there: readers go by
`generations`, which follows last.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.store.authors import Authors
from pipeline.store.database import Row, Tx

WANTED: Final = 0
REGISTERED: Final = 1
SUBJECTS: Final = (WANTED, REGISTERED)
_HOUR_S: Final = 3_600

# By the index on generations, which holds the numbers of authors, too.
WANTED_AFTER = """
SELECT public_key, refs > 0, since, generation, tier, author FROM wanted JOIN authors ON authors.id = author
 WHERE (generation, author) > (?1, ?2) AND generation <= ?3 ORDER BY generation, author LIMIT ?4
"""
REGISTERED_AFTER = """
SELECT public_key, removed_at IS NULL, created_at, generation, 0, author
  FROM monitored JOIN authors ON authors.id = author
 WHERE (generation, author) > (?1, ?2) AND generation <= ?3 ORDER BY generation, author LIMIT ?4
"""
ADD_AUTHOR = "INSERT INTO authors (public_key) VALUES (?) ON CONFLICT DO NOTHING"
PUT_WANTED = """
INSERT INTO wanted (author, refs, since, generation, tier)
SELECT id, ?2, ?3, ?4, ?5 FROM authors WHERE public_key = ?1
ON CONFLICT (author) DO UPDATE SET refs = excluded.refs, since = excluded.since, generation = excluded.generation,
  tier = excluded.tier WHERE excluded.generation > generation
"""
PUT_REGISTERED = """
INSERT INTO monitored (author, created_at, updated_at, removed_at, generation)
SELECT id, ?3, ?3, iif(?2, NULL, ?3), ?4 FROM authors WHERE public_key = ?1
ON CONFLICT (author) DO UPDATE SET created_at = excluded.created_at, updated_at = excluded.updated_at,
  removed_at = excluded.removed_at, generation = excluded.generation WHERE excluded.generation > generation
"""
RAISE_GENERATION = "UPDATE generations SET latest = max(latest, ?)"
COUNT_WANTED = "SELECT count(*) FROM wanted WHERE refs > 0"
PUT_COUNT = "UPDATE wanted_budget SET authors = ?"
PLAN = "SELECT id, lists FROM hub_plan"
PUT_PLAN = """
INSERT INTO hub_plan (only_row, id, lists) VALUES (1, ?1, ?2)
ON CONFLICT (only_row) DO UPDATE SET id = excluded.id, lists = excluded.lists
"""
GENERATION_OF = (
    "UPDATE wanted SET generation = ?2 FROM authors WHERE public_key = ?1 AND author = id",
    "UPDATE monitored SET generation = ?2 FROM authors WHERE public_key = ?1 AND author = id",
)
KNOWN = (
    "SELECT 1 FROM wanted JOIN authors ON id = author WHERE public_key = ?",
    "SELECT 1 FROM monitored JOIN authors ON id = author WHERE public_key = ?",
)


LISTS_AFTER = """
SELECT public_key, writes, reads, seq
  FROM relay_lists JOIN wanted ON wanted.author = relay_lists.author JOIN authors ON id = relay_lists.author
 WHERE seq > ?1 AND refs > 0 ORDER BY seq LIMIT ?2
"""
LIST_OF = """
SELECT public_key, writes, reads, seq FROM authors JOIN relay_lists ON relay_lists.author = id WHERE public_key = ?
"""
ADDRESS = "SELECT address FROM relays WHERE id = ?"
ADD_ADDRESS = """
INSERT INTO relays (address, source, first_seen, last_seen) VALUES (?1, 'list', ?2, ?2) ON CONFLICT DO NOTHING
"""
NUMBER = "SELECT id FROM relays WHERE address = ?"
# Home decided which list is the newest.
PUT_LIST = "REPLACE INTO relay_lists (author, event_id, created_at, writes, reads) VALUES (?, zeroblob(32), 0, ?, ?)"


class NamedRelays(NamedTuple):
    """The relays that an author's newest list names, by address; `change`: home's number of it."""

    public_key: bytes
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    change: int


class PlanMember(NamedTuple):
    """An author who is wanted, or not any more, since `since` (s, by the hour) by change number `generation`."""

    public_key: bytes
    is_wanted: bool
    since: int
    generation: int
    tier: int


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the order by generation and number of author."""

    generation: int
    author: int = 2**62
    """Of those behind whom to go on; by default behind all of that generation."""


@dataclass(frozen=True, slots=True)
class FollowedPlan:
    """The plan that this host follows: its id, and the newest change of relay lists that was taken."""

    id: str
    lists: int


def changed_after(tx: Tx, subject: int, place: Place, latest: int, most: int) -> tuple[list[PlanMember], Place]:
    """Return members behind a place, with generations up to `latest`, and the place of the last of them."""
    statement = REGISTERED_AFTER if subject == REGISTERED else WANTED_AFTER
    rows: list[Row] = tx.execute(statement, (place.generation, place.author, latest, most)).fetchall()
    # To the hour: other hosts need not know when a user registered.
    members = [
        PlanMember(key, bool(is_wanted), since // 1000 // _HOUR_S * _HOUR_S, generation, tier)
        for key, is_wanted, since, generation, tier, _ in rows
    ]
    return members, Place(rows[-1][3], rows[-1][5]) if rows else place


def put_members(tx: Tx, subject: int, members: Sequence[PlanMember]) -> None:
    """Write members down, for readers to see once `raise_generation` comes to them."""
    tx.executemany(ADD_AUTHOR, ((each.public_key,) for each in members))
    if subject == REGISTERED:
        tx.executemany(
            PUT_REGISTERED,
            ((each.public_key, each.is_wanted, each.since * 1000, each.generation) for each in members),
        )
    else:
        tx.executemany(
            PUT_WANTED,
            ((each.public_key, int(each.is_wanted), each.since * 1000, each.generation, each.tier) for each in members),
        )


def raise_generation(tx: Tx, generation: int) -> None:
    """Let readers see all changes up to `generation`; it never goes back."""
    tx.execute(RAISE_GENERATION, (generation,))


def count_wanted(tx: Tx) -> int:
    """Return how many authors are wanted, by counting."""
    return int(tx.execute(COUNT_WANTED).get)


def put_count(tx: Tx, count: int) -> None:
    """Write down how many authors are wanted."""
    tx.execute(PUT_COUNT, (count,))


def followed(tx: Tx) -> FollowedPlan | None:
    """Return the plan that this host follows."""
    row = tx.execute(PLAN).fetchone()
    return None if row is None else FollowedPlan(*row)


def put_followed(tx: Tx, plan: FollowedPlan) -> None:
    """Write down which plan this host follows."""
    tx.execute(PUT_PLAN, (plan.id, plan.lists))


def change_again(tx: Tx, subject: int, public_keys: Iterable[bytes], generation: int) -> list[bytes]:
    """Let these have changed as `generation`; return those of whom nothing is known here."""
    unknown = []
    for key in public_keys:
        if tx.execute(KNOWN[subject], (key,)).fetchone() is None:
            unknown.append(key)
        else:
            tx.execute(GENERATION_OF[subject], (key, generation))
    return unknown


def lists_after(tx: Tx, change: int, most: int) -> list[NamedRelays]:
    """Return the relay lists of wanted authors that changed after number `change`, in this order."""
    return _named(tx, tx.execute(LISTS_AFTER, (change, most)).fetchall())


def lists_of(tx: Tx, public_keys: Iterable[bytes]) -> list[NamedRelays]:
    """Return the relay lists of these authors."""
    return _named(tx, tx.executemany(LIST_OF, ((key,) for key in public_keys)).fetchall())


def put_lists(tx: Tx, lists: Sequence[NamedRelays], now: int) -> None:
    """Write relay lists down; relays that are not known become so, though that is no reason to dial them."""
    addresses = {address for each in lists for address in (*each.writes, *each.reads)}
    tx.executemany(ADD_ADDRESS, ((address, now) for address in addresses))
    numbers = {address: str(tx.execute(NUMBER, (address,)).get) for address in addresses}
    authors = Authors().intern_all(tx, (each.public_key for each in lists))
    tx.executemany(
        PUT_LIST,
        (
            (author, *(",".join(numbers[address] for address in part) for part in (each.writes, each.reads)))
            for author, each in zip(authors, lists, strict=True)
        ),
    )


def _named(tx: Tx, rows: list[Row]) -> list[NamedRelays]:
    """Name the relays of lists by their addresses; one that was pruned since is left out."""
    numbers = {number for _, writes, reads, _ in rows for text in (writes, reads) for number in text.split(",") if text}
    found = {number: tx.execute(ADDRESS, (int(number),)).get for number in numbers}

    def addresses(text: str) -> tuple[str, ...]:
        return tuple(str(found[number]) for number in text.split(",") if text and found[number] is not None)

    return [NamedRelays(key, addresses(writes), addresses(reads), change) for key, writes, reads, change in rows]
