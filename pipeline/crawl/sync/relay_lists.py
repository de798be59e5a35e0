"""Whose relay lists (NIP-65) name which relay, so that each relay is asked first for those who are to be found there.

It decides about order only: a list may be old, wrong or missing, and everybody is asked for everywhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from pipeline.crawl.sync.members import Members
from pipeline.crawl.sync.packed_uses import PackedUses, pack_number
from pipeline.crawl.sync.plan import BY_TAG, USERS, Query, Subject, chunks, tier_mark
from pipeline.store.relay_lists import Listed
from pipeline.store.wanted_authors import TIER_SIZES, TIERS

# No chunk of the plan has it in its name.
_MARK: Final = "@"
# The tiers of bounded size, and those that a crowd can fill.
_EARLY: Final = range(len(TIER_SIZES))
_LATE: Final = range(len(TIER_SIZES), TIERS)


class RelayLists:
    """The newest lists of all wanted authors, in memory (about 50 bytes each). Changed by one thread, read by all."""

    __slots__ = ("_lists",)

    def __init__(self) -> None:
        # By author, the uses of relays.
        self._lists = PackedUses()

    def __len__(self) -> int:
        return len(self._lists)

    def apply(self, changes: Iterable[Listed]) -> set[int]:
        """Take what lists say now; returns the relays that others are named at than before."""
        changed: set[int] = set()
        for each in changes:
            uses = (*map(_writing, each.writes), *map(_reading, each.reads))
            before = self._lists.get(each.public_key)
            changed.update(use // 2 for use in {*before} ^ {*uses})
            if uses != before:
                self._lists.put(each.public_key, uses)
        return changed

    def at(self, relay: int) -> "Named":
        """Who is named at a relay, now and later on; a new object each time, so that a change can be told."""
        return Named(self._lists, relay)


class Named:
    """Those whose lists name one relay: as authors where they write to it, as mentioned where they read from it."""

    __slots__ = ("_lists", "_relay")

    def __init__(self, lists: PackedUses, relay: int) -> None:
        self._lists = lists
        self._relay = relay

    def keys_among(self, query: Query) -> set[bytes]:
        """The members of `query` who are to be found here by what it asks for; nobody, if it is about all the world."""
        return self.keys_of(query.subject, query.members)

    def keys_of(self, subject: Subject, members: Members) -> set[bytes]:
        """The keys of `members` who are to be found here by what a query of `subject` asks for."""
        if not self._lists:
            return set()
        use = pack_number(_reading(self._relay) if subject in BY_TAG else _writing(self._relay))
        return {key for key in members.keys if self._lists.has(key, use)}

    def first(self, queries: Sequence[Query], users: Sequence[Query]) -> tuple[Query, ...]:
        """Return the live queries that come first where there is no room for `queries`, in stable chunks of own names.

        Users come before authors, those who are named here before others, and early authors before users who are named
        elsewhere: hardly anybody publishes where their list does not say. What all `users` write is asked for too,
        since many have no list. Authors of later tiers come last, as a crowd may have invented them.
        """
        return (
            *self._alone(Subject.AUTHORS, users, USERS),
            *self._alone(Subject.MENTIONS, queries),
            *(each for tier in _EARLY for each in self._authors(queries, tier)),
            *users,
            *(each for tier in _LATE for each in self._authors(queries, tier)),
        )

    def _authors(self, queries: Sequence[Query], tier: int) -> Iterator[Query]:
        return self._alone(Subject.AUTHORS, [query for query in queries if query.tier == tier], tier_mark(tier))

    def _alone(self, subject: Subject, queries: Iterable[Query], mark: str = "") -> Iterator[Query]:
        """Yield queries about those members of `queries` only who are to be found here."""
        if not self._lists:
            return
        found = (query.members.among(self.keys_among(query)) for query in queries if query.subject is subject)
        for prefix, chunk in chunks(chain.from_iterable(found)):
            yield Query(subject, f"{_MARK}{mark}{prefix}", chunk)


def is_named(query: Query) -> bool:
    """Return True if `query` is about those only who are to be found at one relay."""
    return query.prefix.startswith(_MARK)


NOBODY: Final = Named(PackedUses(), 0)


def _writing(relay: int) -> int:
    return 2 * relay


def _reading(relay: int) -> int:
    return 2 * relay + 1
