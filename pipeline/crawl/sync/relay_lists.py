"""Whose relay lists (NIP-65) name which relay, so that each relay is asked first for those who are to be found there.

It decides about order only: a list may be old, wrong or missing, and everybody is asked for everywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pipeline.crawl.sync.plan import BY_TAG, Member, Query, Subject, chunks, tier_mark
from pipeline.store.relay_lists import Listed
from pipeline.store.wanted_authors import TIERS

# No chunk of the plan has it in its name.
_MARK: Final = "@"


class RelayLists:
    """The newest lists of all wanted authors, in memory (about 250 bytes each). Changed by one thread, read by all."""

    __slots__ = ("_lists", "_uses")

    def __init__(self) -> None:
        # By author, the uses of relays; each use is one object, however many lists name it.
        self._lists: dict[bytes, tuple[int, ...]] = {}
        self._uses: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._lists)

    def apply(self, changes: Iterable[Listed]) -> set[int]:
        """Take what lists say now; returns the relays that others are named at than before."""
        changed: set[int] = set()
        for each in changes:
            uses = (*map(_writing, each.writes), *map(_reading, each.reads))
            before = self._lists.get(each.public_key, ())
            changed.update(use // 2 for use in {*before} ^ {*uses})
            if uses:
                self._lists[each.public_key] = tuple(self._uses.setdefault(use, use) for use in uses)
            elif before:
                del self._lists[each.public_key]
        return changed

    def at(self, relay: int) -> "Named":
        """Who is named at a relay, now and later on; a new object each time, so that a change can be told."""
        return Named(self._lists, relay)


class Named:
    """Those whose lists name one relay: as authors where they write to it, as mentioned where they read from it."""

    __slots__ = ("_lists", "_relay")

    def __init__(self, lists: Mapping[bytes, tuple[int, ...]], relay: int) -> None:
        self._lists = lists
        self._relay = relay

    def among(self, query: Query) -> list[Member]:
        """The members of `query` who are to be found here by what it asks for; nobody, if it is about all the world."""
        use = _reading(self._relay) if query.subject in BY_TAG else _writing(self._relay)
        return [member for member in query.members if use in self._lists.get(member.public_key, ())]

    def alone(self, queries: Sequence[Query]) -> tuple[Query, ...]:
        """What live queries ask for, about those only who are to be found here; in stable chunks of other names."""
        return tuple(
            Query(subject, f"{_MARK}{tier_mark(tier)}{prefix}", chunk)
            for subject, tier in ((Subject.MENTIONS, 0), *((Subject.AUTHORS, tier) for tier in range(TIERS)))
            for prefix, chunk in chunks(
                {
                    each.public_key: each
                    for query in queries
                    if query.subject is subject and query.tier == tier
                    for each in self.among(query)
                }
            )
        )


def is_named(query: Query) -> bool:
    """Return True if `query` is about those only who are to be found at one relay."""
    return query.prefix.startswith(_MARK)


NOBODY: Final = Named({}, 0)


def _writing(relay: int) -> int:
    return 2 * relay


def _reading(relay: int) -> int:
    return 2 * relay + 1
