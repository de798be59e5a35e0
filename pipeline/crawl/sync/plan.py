"""The queries of all relays, as one state of what is wanted has them. Immutable; a `Planner` makes it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.crawl.sync.members import Members
from pipeline.crawl.sync.newcomers import Newcomers
from pipeline.crawl.sync.query import Query, Subject
from pipeline.store.wanted_authors import TIER_SIZES, TIERS

LAST_TIER = TIERS - 1


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


def _is_late(query: Query) -> bool:
    return query.tier >= len(TIER_SIZES) or query.subject is Subject.RELAY_LISTS
