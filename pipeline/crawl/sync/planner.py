"""What every relay is asked for: one set of queries, cut so that a small change of what is wanted changes little.

Members (authors, or registered users for mentions) are cut into chunks by the leading bits of their keys. A chunk
that grows too large is split in two by one more bit; all others stay as they are, and so do the subscriptions and
cursors that go by their names. A chunk is named by its bits, so that a new chunk finds the cursor of the one that it
was cut from.

Wanted authors of each tier (`wanted_authors.py`) are cut by themselves, so that many of a late one change no
chunk of the authors before them, and are asked for after those.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter

from pipeline.crawl.sync.chunk_tree import ChunkTree
from pipeline.crawl.sync.members import Member, Members
from pipeline.crawl.sync.newcomers import Changed, Newcomers
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import GLOBAL_QUERY, USERS, Query, Subject, tier_mark
from pipeline.crawl.sync.wanted_keys import KeyFilter, WantedKeys
from pipeline.rules.relevance import Wanted
from pipeline.store.wanted_authors import TIERS, Change, WantedChanges

# A key costs 67 bytes of JSON and relays refuse filters with too many; 250 stays well inside every limit seen.
MAX_MEMBERS = 250
# Changes that are objects at the same time.
_CHANGES_AT_ONCE = 20_000


@dataclass(slots=True)
class Planner:
    """Keeps the plan up with changes of what is wanted. Owned by one thread; does no I/O."""

    generation: int = 0
    _authors: tuple[ChunkTree, ...] = field(default_factory=lambda: tuple(ChunkTree(MAX_MEMBERS) for _ in range(TIERS)))
    _registered: ChunkTree = field(default_factory=lambda: ChunkTree(MAX_MEMBERS))
    _queries: dict[str, Query] = field(default_factory=dict)
    _newcomers: Newcomers = field(default_factory=Newcomers)
    _filter: KeyFilter = field(default_factory=KeyFilter)

    def apply(self, changes: WantedChanges) -> bool:
        """Take `changes`, which must begin after `generation`; return True if anyone ceased to be wanted.

        They may be a million, to be read once: they are taken a part at a time.
        """
        has_ceased = False
        for part in _parts(changes.authors):
            changed, ceased = _change(self._authors, part, self._filter.may_have)
            self._filter.add(changed)
            self._newcomers = self._newcomers.plus(changes.generation, changed)
            has_ceased |= ceased
        for part in _parts(changes.registered):
            has_ceased |= _change((self._registered,), part, lambda _: True)[1]
        self.generation = changes.generation
        return has_ceased

    def wanted(self, plan: Plan, *, has_ceased: bool) -> Wanted:
        """Return whose events are wanted by the newest `plan`; `has_ceased` is what `apply` said."""
        if self._filter.is_full:
            self._filter = KeyFilter()
            for tree in self._authors:
                for _, chunk in tree.chunks():
                    self._filter.add(chunk.keys)
        authors = WantedKeys([tree.index() for tree in self._authors if len(tree)], self._filter)
        return Wanted(plan.generation, authors, plan.user_keys, has_ceased)

    def plan(self) -> Plan:
        """The queries for what is wanted now; those that are as they were are the very same objects."""
        registered = self._registered.chunks()
        found = [
            # First things first: a new user's contact list decides what else is wanted.
            *(self._query(Subject.PROFILES, prefix, chunk) for prefix, chunk in registered),
            GLOBAL_QUERY,
            *(self._query(Subject.MENTIONS, prefix, chunk) for prefix, chunk in registered),
            *(
                self._query(Subject.AUTHORS, tier_mark(tier) + prefix, chunk)
                for tier, tree in enumerate(self._authors)
                for prefix, chunk in tree.chunks()
            ),
        ]
        users = tuple(self._query(Subject.AUTHORS, USERS + prefix, chunk) for prefix, chunk in registered)
        authors = [query for query in found if query.subject is Subject.AUTHORS]
        lists = [self._query(Subject.RELAY_LISTS, each.prefix, each.members, each.generation) for each in authors]
        self._queries = {query.key: query for query in (*found, *lists, *users)}
        return Plan(self.generation, tuple(found), tuple(lists), users, self._newcomers)

    def _query(self, subject: Subject, prefix: str, members: Members, generation: int = 0) -> Query:
        known = self._queries.get(f"{subject}/{prefix}")
        # A chunk that did not change is the same object.
        return known if known is not None and known.members is members else Query(subject, prefix, members, generation)


def chunks(parts: Iterable[Members], most: int = MAX_MEMBERS) -> Sequence[tuple[str, Members]]:
    """Cut the members of all `parts` into chunks of at most `most`, each with the bits that its keys begin with."""
    return ChunkTree.of(parts, most).chunks()


def _parts(changes: Iterable[Change]) -> Iterator[list[Change]]:
    left = iter(changes)
    while part := list(islice(left, _CHANGES_AT_ONCE)):
        yield part


def _change(
    trees: Sequence[ChunkTree], changes: Iterable[Change], may_have: Callable[[bytes], bool]
) -> tuple[Changed, bool]:
    """Put who is wanted from now on into the tree of their tier, and take them out of all others.

    `may_have` is false of keys that are in none of the trees. Return what changed, and whether any of these was there
    before: they were not wanted for a while.
    """
    members: dict[bytes, tuple[int, Member | None]] = {}
    for change in changes:
        member = Member(change.public_key, change.since // 1000, change.generation) if change.wanted else None
        members[change.public_key] = change.tier, member
    before = sum(map(len, trees))
    ordered = sorted(members.items(), key=itemgetter(0))
    known = frozenset(filter(may_have, members))
    for tier, tree in enumerate(trees):
        here = [(key, each if its == tier else None) for key, (its, each) in ordered if its == tier or key in known]
        tree.change_in_order(here)
    began = sum(member is not None for _, member in members.values())
    return members, sum(map(len, trees)) - before != began
