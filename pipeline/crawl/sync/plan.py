"""What every relay is asked for: one set of queries, cut so that a small change of what is wanted changes little.

Members (authors, or registered users for mentions) are cut into chunks by the leading bits of their keys. A chunk
that grows too large is split in two by one more bit; all others stay as they are, and so do the subscriptions and
cursors that go by their names. A chunk is named by its bits, so that a new chunk finds the cursor of the one that it
was cut from.

Wanted authors of each tier (`wanted_authors.py`) are cut by themselves, so that many of a late one change no
chunk of the authors before them, and are asked for after those.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from operator import itemgetter

from pipeline.crawl.sync.chunk_tree import ChunkTree
from pipeline.crawl.sync.members import NO_MEMBERS, Member, Members
from pipeline.crawl.sync.newcomers import Changed, Newcomers
from pipeline.crawl.sync.wanted_keys import KeyFilter, WantedKeys
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import (
    CONFIDENTIAL_KINDS,
    CONTACTS,
    GIFT_WRAP,
    GLOBAL_KINDS,
    METADATA,
    RELAY_LIST,
    TEXT_NOTE,
)
from pipeline.relay.limits import RelayLimits
from pipeline.rules.relevance import Wanted
from pipeline.store.wanted_authors import TIER_SIZES, TIERS, Change, WantedChanges

# A key costs 67 bytes of JSON and relays refuse filters with too many; 250 stays well inside every limit seen.
MAX_MEMBERS = 250
# Changes that are objects at the same time.
_CHANGES_AT_ONCE = 20_000
# What the names of queries for what users write begin with; no chunk of the plan has it.
USERS = "~"
# Between the tier in the name of a chunk and its bits; the first tier has no mark.
_TIER_MARK = "."
LAST_TIER = TIERS - 1
PROFILE_KINDS = frozenset({METADATA, CONTACTS, RELAY_LIST})
# Kinds that some relays show to those involved only, but count to a page's limit all the same.
HIDDEN_KINDS = CONFIDENTIAL_KINDS
# The other kinds that the NIPs define and relays store, for relays that answer to named kinds only.
LISTED_KINDS = frozenset(
    {
        0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 24, 30, 31, 32, 33, 40, 41, 42, 43,
        44, 62, 64, 78, 443, 444, 445, 818, 1018, 1021, 1022, 1040, 1063, 1068, 1111, 1222, 1244, 1311, 1337, 1517,
        1617, 1618, 1619, 1621, 1622, 1630, 1631, 1632, 1633, 1971, 1984, 1985, 1986, 1987, 2003, 2004, 2022, 4550,
        7000, 7374, 7375, 7376, 8000, 8001, 9000, 9001, 9002, 9005, 9007, 9008, 9009, 9021, 9022, 9041, 9321, 9467,
        9734, 9735, 9802, 10000, 10001, 10002, 10003, 10004, 10005, 10006, 10007, 10009, 10012, 10013, 10015, 10019,
        10020, 10030, 10050, 10051, 10063, 10096, 10101, 10102, 10166, 10312, 10377, 11111, 13194, 13534, 14388,
        17375, 30000, 30001, 30002, 30003, 30004, 30005, 30006, 30007, 30008, 30009, 30015, 30017, 30018, 30019,
        30020, 30023, 30024, 30030, 30040, 30041, 30063, 30078, 30166, 30267, 30311, 30312, 30313, 30315, 30388,
        30402, 30403, 30617, 30618, 30818, 30819, 31234, 31388, 31890, 31922, 31923, 31924, 31925, 31989, 31990,
        32123, 32267, 32388, 33388, 34235, 34236, 34237, 34550, 37516, 38172, 38173, 38383, 39000, 39001, 39002,
        39003, 39089, 39092, 39701,
    }
)  # fmt: skip

ALL_KINDS = LISTED_KINDS | HIDDEN_KINDS
# Kinds that relays pass on and do not store, of the NIPs and of widespread clients.
EPHEMERAL_KINDS = frozenset(
    {20000, 20001, 21000, 22242, 23194, 23195, 23196, 23197, 24133, 24242, 27235, 28934, 28935, 28936}
)


class Subject(StrEnum):
    """What a query asks about; the first part of its key."""

    GLOBAL = "global"
    AUTHORS = "authors"
    MENTIONS = "mentions"
    GIFT_WRAPS = "gift-wraps"
    """Those mentions that are dated long before they are published."""
    PROFILES = "profiles"
    RELAY_LISTS = "relay-lists"
    """Where wanted authors are to be found, however long ago they said so; asked of few relays, once."""
    FIREHOSE = "whole"
    """Everything that a relay has; what is wanted of it is found here."""


# Subjects that are not subscribed to.
_LOOKED_BACK_FOR = frozenset({Subject.PROFILES, Subject.RELAY_LISTS, Subject.GIFT_WRAPS})
# Subjects that name whom events mention.
BY_TAG = frozenset({Subject.MENTIONS, Subject.GIFT_WRAPS})


@dataclass(frozen=True, slots=True)
class Query:
    """One thing that each relay is asked for, whatever the time span."""

    subject: Subject
    prefix: str
    members: Members = NO_MEMBERS
    generation: int = field(default=0, compare=False)
    """The newest change among the members, found where it is not given; of what names none, what it is to cover."""
    key: str = field(init=False, compare=False)
    """The name under which cursors and subscriptions know the query."""
    # Asked for every query of every relay each time that something may be due.
    tier: int = field(init=False, compare=False, repr=False)
    """How late its members became wanted; 0 for those who come before all others."""
    is_live: bool = field(init=False, compare=False, repr=False)
    """Whether it is subscribed to and kept complete; others are only looked back for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.subject}/{self.prefix}")
        mark = self.prefix.find(_TIER_MARK)
        object.__setattr__(self, "tier", int(self.prefix[mark - 1]) if mark > 0 else 0)
        object.__setattr__(self, "is_live", self.subject not in _LOOKED_BACK_FOR)
        if self.members and not self.generation:
            object.__setattr__(self, "generation", self.members.newest)

    @property
    def bits(self) -> str:
        """Return the bits that the keys of its members begin with."""
        return self.prefix[self.prefix.find(_TIER_MARK) + 1 :]

    @property
    def is_planned(self) -> bool:
        """Whether it is one of a plan's chunks, rather than of authors that an operator named."""
        return not self.prefix.startswith("*")

    @property
    def kinds(self) -> frozenset[int] | None:
        """The kinds asked for, `None` for all."""
        match self.subject:
            case Subject.GLOBAL:
                return GLOBAL_KINDS
            case Subject.PROFILES:
                return PROFILE_KINDS
            case Subject.RELAY_LISTS:
                return frozenset({RELAY_LIST})
            case Subject.GIFT_WRAPS:
                return frozenset({GIFT_WRAP})
            case _:
                return None

    def named_kinds(self, *, kindless: bool, notes_by_author: bool, shown_only: bool = False) -> frozenset[int] | None:
        """The kinds to name to a relay that refuses filters without kinds, or notes without authors; `None`: its own.

        `shown_only`: without those that are shown to some only. Not all that there are: what is missing must be told.
        """
        kinds = LISTED_KINDS if shown_only else ALL_KINDS
        if self.subject is Subject.MENTIONS and notes_by_author:
            return kinds - {TEXT_NOTE}
        return kinds if (kindless or shown_only) and self.kinds is None else None

    def of_members(self, members: Iterable[Member]) -> "Query":
        """The same query about only some members."""
        return Query(self.subject, self.prefix, Members.of(members))

    def most_members(self, limits: RelayLimits) -> int:
        """How many members a filter for this query may name to a relay."""
        most = limits.max_tag_values if self.subject in BY_TAG else limits.max_authors
        return min(most, limits.members_that_fit)

    def parts(self, most: int) -> "list[Query]":
        """The same query cut so that none names more than `most` members."""
        if len(self.members) <= most:
            return [self]
        return [self.of_members(self.members[i : i + most]) for i in range(0, len(self.members), most)]

    def filter(
        self,
        *,
        kinds: frozenset[int] | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Filter:
        """The filter for a span of time (seconds, both ends included); `kinds` narrows those of the query."""
        by_author = self.subject in (Subject.AUTHORS, Subject.PROFILES, Subject.RELAY_LISTS)
        return Filter(
            authors=self.members.key_set if by_author else None,
            tags=(("p", self.members.hex_keys),) if self.subject in BY_TAG else (),
            kinds=self.kinds if kinds is None else kinds,
            since=since,
            until=until,
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All queries, complete for every change up to `generation`."""

    generation: int
    queries: tuple[Query, ...]
    lists: tuple[Query, ...] = ()
    """The queries for relay lists, of which `with_lists` makes a part."""
    users: tuple[Query, ...] = ()
    """The queries for what registered users write, who are wanted authors as well; no part of the others."""
    newcomers: Newcomers | None = field(default=None, compare=False, repr=False)
    """The authors who became wanted lately."""
    newer: "Plan | None" = field(default=None, compare=False, repr=False)
    """The same with the last tier as it is now, if this one has a former state of it."""
    live: tuple[Query, ...] = field(init=False, compare=False)
    """Those that are subscribed to and kept complete."""
    members: int = field(init=False, compare=False)
    """How many names these hold together."""
    _whole: "Plan | None" = field(default=None, init=False, compare=False, repr=False)
    _with_lists: "Plan | None" = field(default=None, init=False, compare=False, repr=False)
    _by_time: tuple[tuple[Query, ...], tuple[Query, ...]] | None = field(
        default=None, init=False, compare=False, repr=False
    )
    _keys: frozenset[str] | None = field(default=None, init=False, compare=False, repr=False)
    _subjects: frozenset[Subject] | None = field(default=None, init=False, compare=False, repr=False)
    _live_keys: frozenset[str] | None = field(default=None, init=False, compare=False, repr=False)
    _last_tier: tuple[Query, ...] | None = field(default=None, init=False, compare=False, repr=False)
    _user_keys: frozenset[bytes] | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "live", tuple(query for query in self.queries if query.is_live))
        object.__setattr__(self, "members", sum(len(query.members) for query in self.live))

    # Made once for a thousand relays that follow the plan, by whichever thread asks first.

    @property
    def by_time(self) -> tuple[tuple[Query, ...], tuple[Query, ...]]:
        """The early queries, which are few whatever strangers do, and the late ones, of which a crowd makes many."""
        if (by_time := self._by_time) is None:
            early = tuple(query for query in self.queries if not _is_late(query))
            by_time = early, tuple(query for query in self.queries if _is_late(query))
            object.__setattr__(self, "_by_time", by_time)
        return by_time

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all queries."""
        if (keys := self._keys) is None:
            keys = frozenset(query.key for query in self.queries)
            object.__setattr__(self, "_keys", keys)
        return keys

    @property
    def subjects(self) -> frozenset[Subject]:
        """The subjects of all queries."""
        if (subjects := self._subjects) is None:
            subjects = frozenset(query.subject for query in self.queries)
            object.__setattr__(self, "_subjects", subjects)
        return subjects

    @property
    def live_keys(self) -> frozenset[str]:
        """The keys of what is subscribed to and kept complete."""
        if (keys := self._live_keys) is None:
            keys = frozenset(query.key for query in self.live)
            object.__setattr__(self, "_live_keys", keys)
        return keys

    @property
    def user_keys(self) -> frozenset[bytes]:
        """The public keys of all registered users."""
        if (keys := self._user_keys) is None:
            keys = frozenset(key for query in self.users for key in query.members.keys)
            object.__setattr__(self, "_user_keys", keys)
        return keys

    @property
    def last_tier(self) -> tuple[Query, ...]:
        """The queries about authors of the last tier."""
        if (last := self._last_tier) is None:
            last = tuple(query for query in self.queries if query.tier == LAST_TIER)
            object.__setattr__(self, "_last_tier", last)
        return last

    @property
    def last_tier_generation(self) -> int:
        """The newest change among the authors of the last tier."""
        return max((query.generation for query in self.last_tier), default=0)

    @property
    def newest(self) -> "Plan":
        """The same with the last tier as it is now."""
        return self.newer or self

    def with_last_tier_of(self, former: "Plan") -> "Plan":
        """Return the same for a relay that still asks for the last tier as it was in a `former` plan."""
        if self.last_tier == former.last_tier:
            return self
        queries = (*(query for query in self.queries if query.tier != LAST_TIER), *former.last_tier)
        lists = (*(query for query in self.lists if query.tier != LAST_TIER), *former._last_lists)
        return Plan(self.generation, queries, lists, self.users, self.newcomers, self)

    @property
    def _last_lists(self) -> tuple[Query, ...]:
        return tuple(query for query in self.lists if query.tier == LAST_TIER)

    def newer_authors(self, generation: int) -> Mapping[int, Sequence[Members]]:
        """Return by tier the authors who became wanted after a change."""
        if self.newcomers is not None and (known := self.newcomers.since(generation)) is not None:
            return known
        newer: defaultdict[int, list[Members]] = defaultdict(list)
        for query in self.live:
            if query.subject is Subject.AUTHORS and query.generation > generation:
                newer[query.tier].append(query.members.after(generation))
        return newer

    @property
    def with_lists(self) -> "Plan":
        """The same for a relay that is also asked for relay lists, after all else."""
        if (plan := self._with_lists) is None:
            queries = (*self.queries, *self.lists)
            newest = None if self.newer is None else self.newer.with_lists
            plan = Plan(self.generation, queries, (), self.users, self.newcomers, newest)
            object.__setattr__(self, "_with_lists", plan)
        return plan

    @property
    def whole(self) -> "Plan":
        """The same for a relay that is asked for everything at once; profiles go back too far for that."""
        if (plan := self._whole) is None:
            profiles = (query for query in self.queries if not query.is_live)
            plan = Plan(self.generation, (*profiles, Query(Subject.FIREHOSE, "", generation=self.generation)))
            object.__setattr__(self, "_whole", plan)
        return plan


GLOBAL_QUERY = Query(Subject.GLOBAL, "")
FIREHOSE_QUERY = Query(Subject.FIREHOSE, "")


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


def tier_mark(tier: int) -> str:
    """Return what the names of chunks of a tier begin with."""
    return f"{tier}{_TIER_MARK}" if tier else ""


def _is_late(query: Query) -> bool:
    return query.tier >= len(TIER_SIZES) or query.subject is Subject.RELAY_LISTS


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
