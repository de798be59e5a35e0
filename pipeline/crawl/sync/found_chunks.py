"""Those members of a plan's queries who are to be found at one relay, in chunks of their own.

A relay that half of all lists name is asked first for a hundred thousand. Which of them are found there is looked up
again only for those chunks of the plan that changed, and for those whose lists did.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from pipeline.crawl.sync.chunk_tree import ChunkTree
from pipeline.crawl.sync.members import NO_MEMBERS, Member, Members
from pipeline.crawl.sync.planner import MAX_MEMBERS
from pipeline.crawl.sync.query import Query

# Of more, which chunks they are in costs more than to look all of them up again.
_MOST_STALE: Final = 10_000


class FoundChunks:
    """Members of the queries of one subject and tier, kept up with the plan. Owned by one thread; no I/O."""

    __slots__ = ("_before", "_found", "_queries", "_stale", "_tree")

    def __init__(self) -> None:
        # The queries as they were followed last, and by key the members of theirs who were found here, if any.
        self._before: Sequence[Query] = ()
        self._found: dict[str, Members] = {}
        self._tree = ChunkTree(MAX_MEMBERS)
        # What was made of the chunks, by the bits of their keys.
        self._queries: dict[str, Query] = {}
        self._stale: set[bytes] = set()

    def forget(self, keys: Collection[bytes]) -> None:
        """Look these up again when the queries are followed next: their lists changed."""
        self._stale.update(keys)
        if len(self._stale) > _MOST_STALE:
            # As if none had been looked up.
            self._before, self._found, self._tree, self._stale = (), {}, ChunkTree(MAX_MEMBERS), set()

    def follow(
        self, queries: Sequence[Query], find: Callable[[Query], Members], ask: Callable[[str, Members], Query]
    ) -> Iterator[Query]:
        """Yield what to ask for, made by `ask` of each chunk and the bits that its keys begin with.

        `queries` are chunks of a plan. `find` returns the members of one who are to be found here. What did not change
        is the very same object.
        """
        before, stale = {query.key: query for query in self._before}, sorted(self._stale)
        found: dict[str, Members] = {}
        for query in queries:
            known = before.pop(query.key, None)
            if known is None or known.members is not query.members or _has_any(query.members, stale):
                found[query.key] = find(query)
        found.update((key, NO_MEMBERS) for key in before)
        self._take(found)
        self._before, self._stale = queries, set()
        known_queries, self._queries = self._queries, {}
        for bits, chunk in self._tree.chunks():
            asked = known_queries.get(bits)
            self._queries[bits] = asked if asked is not None and asked.members is chunk else ask(bits, chunk)
        yield from self._queries.values()

    def _take(self, found: Mapping[str, Members]) -> None:
        """Let these be found of the queries with these keys."""
        changes = self._changes(found) if self._tree else {}
        self._found = {key: members for key, members in {**self._found, **found}.items() if members}
        if self._tree:
            self._tree.change(changes)
        else:
            self._tree = ChunkTree.of(self._found.values(), MAX_MEMBERS)

    def _changes(self, found: Mapping[str, Members]) -> dict[bytes, Member | None]:
        """Return what changes in the tree. Whoever is in another chunk of the plan now is lost by one, and gained."""
        lost: dict[bytes, Member | None] = {}
        gained: dict[bytes, Member | None] = {}
        for key, members in found.items():
            before = dict(self._found.get(key, NO_MEMBERS).keyed_records)
            for member, (public_key, record) in zip(members, members.keyed_records, strict=True):
                if before.pop(public_key, None) != record:
                    gained[public_key] = member
            lost.update(dict.fromkeys(before))
        return lost | gained


def _has_any(members: Members, keys: Sequence[bytes]) -> bool:
    """Return True if any of `keys` may be that of a member; both are in order."""
    if not (members and keys):
        return False
    place = bisect_left(keys, members[0].public_key)
    return place < len(keys) and keys[place] <= members[-1].public_key
