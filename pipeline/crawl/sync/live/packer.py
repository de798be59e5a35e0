"""Which live subscriptions one relay is to have: queries packed into as few as its limits allow, and moved rarely."""

import heapq
import itertools
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from pipeline.crawl.sync.asked_kinds import ALL_KINDS, EPHEMERAL_KINDS
from pipeline.crawl.sync.plan import LAST_TIER
from pipeline.crawl.sync.planner import chunks
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.relay_lists import is_named
from pipeline.nostr.filter import Filter
from pipeline.relay.limits import BYTES_PER_FILTER, BYTES_PER_KIND, BYTES_PER_MEMBER, MAX_SPAN_S, RelayLimits

# A key with its share of a filter that has few of them.
_MOST_BYTES_PER_MEMBER = 2 * BYTES_PER_MEMBER
# One subscription in so many is spared to keep authors of the last tier apart.
_PLENTY = 2
_BROAD = frozenset({Subject.GLOBAL, Subject.FIREHOSE})
# Seconds of stored events that a live subscription asks for which must not reach its limit.
_RECENT_S = 3_600
# Nothing is dated before it; nostr-relay takes a `since` of 0 for none.
_FIRST_SECOND = 1


@dataclass(slots=True)
class _Group:
    filters: int = 0
    bytes: int = 0
    is_last: bool = False
    """Whether it is for authors of the last tier."""
    queries: dict[str, Query] = field(default_factory=dict)


class SubscriptionPacker:
    """The grouping of queries into live subscriptions, stable over plan changes. Does no I/O."""

    __slots__ = (
        "_changed",
        "_groups",
        "_is_parted",
        "_left_out",
        "_limits",
        "_most_filters",
        "_most_named",
        "_origins",
        "_queries",
        "left_out",
        "now",
        "singles",
    )

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._queries: tuple[Query, ...] = ()
        self._groups: dict[str, _Group] = {}
        self._changed: set[str] = set()
        self._is_parted = False
        # Less than the limit where more filters together were refused for no reason that was named.
        self._most_filters: int | None = None
        # The same of the members that a filter names.
        self._most_named: int | None = None
        # By the key of a piece, that of its query.
        self._origins: dict[str, str] = {}
        self.singles: frozenset[Subject] = frozenset()
        """Subjects of which a filter names one member, as the relay looks at the first only."""
        self.left_out: tuple[str, ...] = ()
        self._left_out: frozenset[str] = frozenset()
        self.now = 0
        """Unix seconds when filters are made."""

    def pack(self, queries: Iterable[Query], limits: RelayLimits) -> bool:
        """Fit `queries` into subscriptions; those that a relay has no room for are `left_out`.

        What is in one already stays there, unless its `rank` is later than that of what has no place otherwise; among
        others of one rank the first come first. Returns whether there was any need.
        """
        queries = tuple(queries)
        if queries is self._queries and self.has_shape_of(limits):
            self._limits = limits
            return False
        self._queries = queries
        if _shape(limits) != _shape(self._limits):
            self.clear()
        self._limits = limits
        cut = [(query, piece) for query in queries if query.is_live for piece in self._pieces(query)]
        self._origins = {piece.key: query.key for query, piece in cut}
        wanted = {piece.key: piece for _, piece in cut}
        grouped: set[str] = set()
        for key, group in list(self._groups.items()):
            self._refresh(key, group, wanted)
            grouped.update(group.queries)
        homeless = self._place_all([piece for key, piece in wanted.items() if key not in grouped])
        self.left_out = tuple(dict.fromkeys(self._origins[piece.key] for piece in homeless))
        self._left_out = frozenset(self.left_out)
        return True

    def has_shape_of(self, limits: RelayLimits) -> bool:
        """Whether `limits` change nothing about the last arrangement."""
        return _shape(limits) == _shape(self._limits)

    def fits(self, queries: Iterable[Query], limits: RelayLimits, singles: frozenset[Subject] | None = None) -> bool:
        """Return True if there is room for all of `queries`, packed from scratch and maybe with other `singles`."""
        packer = SubscriptionPacker(limits)
        packer.singles = self.singles if singles is None else singles
        packer._is_parted = self._is_parted
        packer._most_filters = self._most_filters
        packer._most_named = self._most_named
        # Of many more than there is room for, the first without a place is soon found.
        return all(packer._place(piece) for query in queries if query.is_live for piece in packer._pieces(query))

    def ask_singly(self, subjects: frozenset[Subject]) -> None:
        """From the next arrangement on name one member in each filter about these subjects, and about no others."""
        if subjects != self.singles:
            self.singles = subjects
            self.clear()
            self._queries = ()

    def clear(self) -> None:
        """Let the next arrangement begin from nothing."""
        self._changed.update(self._groups)
        self._groups.clear()

    def has(self, key: str) -> bool:
        """Whether there is room for the query `key`."""
        return key not in self._left_out

    def pop_changes(self) -> dict[str, list[Filter] | None]:
        """The subscriptions to open or replace with their filters, and to close with `None`, since the last call."""
        changed = {key: self.filters(key) for key in sorted(self._changed)}
        self._changed.clear()
        return changed

    def reopen(self, key: str | None = None) -> None:
        """Mark one subscription, or all, as not open."""
        self._changed.update(self._groups if key is None else (key,))

    def split(self, key: str, *, by_members: bool = False) -> bool:
        """From now on ask for less at once, as one was refused together; whether subscription `key` had more.

        For each subject apart at first, then for half as many filters, down to a single one. `by_members`: then for
        half as many members, which may take more subscriptions than there is room for.
        """
        group = self._groups.get(key)
        if group is None:
            return False
        if not self._is_parted and len({query.subject for query in group.queries.values()}) > 1:
            self._is_parted = True
        elif (most := min(group.filters, self._most_filters or group.filters) // 2) > 0:
            self._most_filters = most
        elif by_members and (named := max(map(self._named_at_once, group.queries.values())) // 2) > 0:
            self._most_named = named
        else:
            return False
        self.clear()
        self._queries = ()
        return True

    def filters(self, key: str) -> list[Filter] | None:
        """What the subscription `key` asks for; `None` if there is none of that name."""
        group = self._groups.get(key)
        if group is None:
            return None
        limit = self._limit()
        return [
            part.filter(limit=limit, kinds=kinds, since=self._since(part, kinds))
            for query in group.queries.values()
            for part in query.parts(self._most_members(query))
            for kinds in self._kinds(part)
        ]

    def _limit(self) -> int:
        """Return the `limit` of a filter: nothing stored, unless the relay sends nothing live then."""
        limits = self._limits
        if limits.ends_at_limit:
            return limits.page_limit
        return 1 if limits.zero_is_all or limits.refuses_zero else 0

    def _since(self, query: Query, kinds: frozenset[int] | None) -> int | None:
        """Return the `since` of a filter, which is none: relays would apply it to back-dated arrivals too.

        A filter without any condition selects nothing live at some relays: for everything it is the least there is.
        Where the stored events must not reach the limit, few are asked for; back-dated arrivals come by polls there.
        """
        if self._limits.ends_at_limit:
            return max(_FIRST_SECOND, self.now - _RECENT_S)
        has_condition = query.subject is not Subject.FIREHOSE or kinds is not None
        is_bounded = self._limits.max_span < MAX_SPAN_S
        return None if has_condition or is_bounded else _FIRST_SECOND

    def _kinds(self, query: Query) -> list[frozenset[int] | None]:
        """The lists of kinds that a query is asked for with, each in a filter of its own; `None` for all kinds."""
        limits = self._limits
        named = query.kinds
        if limits.refuses_kindless or limits.notes_by_author or limits.withholds:
            found = query.named_kinds(
                kindless=limits.refuses_kindless, notes_by_author=limits.notes_by_author, shown_only=limits.withholds
            )
            named = found or named
        elif named is None and limits.needs_kinds:
            named = ALL_KINDS
        if named is None:
            return [None]
        ordered = sorted(named.difference(limits.refused_kinds))
        most = limits.live_kinds
        if query.kinds is None:
            # They come in no other way. As many as the last list has room for cost no filter.
            ordered += sorted(EPHEMERAL_KINDS.difference(limits.refused_kinds))[: -len(ordered) % most]
        return [frozenset(ordered[first : first + most]) for first in range(0, len(ordered), most)]

    def queries_of(self, key: str) -> tuple[str, ...]:
        """The keys of the queries in subscription `key`."""
        group = self._groups.get(key)
        return () if group is None else tuple(dict.fromkeys(self._origins[name] for name in group.queries))

    def keys_of(self, query: str) -> list[str]:
        """Return the subscriptions that have the query of this key, or pieces of it."""
        return [key for key in self._groups if query in self.queries_of(key)]

    def _most_members(self, query: Query) -> int:
        most = 1 if query.subject in self.singles else query.most_members(self._limits)
        return min(most, self._most_named or most)

    def _named_at_once(self, query: Query) -> int:
        """Return how many members a filter for this query names, at most."""
        return min(len(query.members), self._most_members(query))

    @property
    def _filters_a_request(self) -> int:
        return min(self._limits.live_filters, self._most_filters or self._limits.live_filters)

    def _pieces(self, query: Query) -> list[Query]:
        """The query, cut by its members so that each piece fits into one subscription."""
        lists = len(self._kinds(query))
        limits = self._limits
        in_filters = self._filters_a_request // lists * self._most_members(query)
        most = max(1, min(in_filters, limits.max_frame_bytes // (lists * _MOST_BYTES_PER_MEMBER)))
        if len(query.members) <= most:
            return [query]
        pieces = chunks([query.members], most)
        return [Query(query.subject, f"{query.prefix}+{bits}", piece) for bits, piece in pieces]

    def _refresh(self, key: str, group: _Group, wanted: Mapping[str, Query]) -> None:
        current = {name: wanted[name] for name in group.queries if name in wanted}
        if current == group.queries:
            return
        self._changed.add(key)
        fitting = _Group()
        for query in current.values():
            if self._fits(fitting, query):
                self._put(fitting, query)
        if fitting.queries:
            self._groups[key] = fitting
            group.queries = fitting.queries
        else:
            del self._groups[key]
            group.queries = {}

    def _place_all(self, queries: list[Query]) -> list[Query]:
        """Give each query a place, at the cost of later ones if need be; returns those without one."""
        without: list[Query] = []
        latest = max((rank(each) for group in self._groups.values() for each in group.queries.values()), default=0)
        waiting = [(rank(query), number, query) for number, query in enumerate(queries)]
        heapq.heapify(waiting)
        numbers = itertools.count(len(waiting))
        # By subject the smallest that had no place, nor that of a later one: whatever needs as much has none either.
        # None that is earlier comes after it.
        smallest: dict[Subject, tuple[int, int]] = {}
        has_displaced = False
        while waiting:
            place, _, query = heapq.heappop(waiting)
            filters, size = self._cost(query)
            failed = smallest.get(query.subject)
            if _needs_as_much((filters, size), failed):
                without.append(query)
            elif self._place(query):
                latest = max(latest, place)
            elif place < latest and (displaced := self._displace(query)) is not None:
                has_displaced = True
                smallest.clear()
                for each in displaced:
                    heapq.heappush(waiting, (rank(each), next(numbers), each))
            else:
                without.append(query)
                smallest[query.subject] = filters, size
        # What was displaced may have had more room than what took its place needs.
        return [query for query in without if not self._place(query)] if has_displaced else without

    def _displace(self, query: Query) -> list[Query] | None:
        """Put a query in the place of later ones; returns those that have none for it, None where it has none either.

        Of several subscriptions it takes the one with the latest queries.
        """
        place = rank(query)
        for key in sorted(self._groups, key=lambda key: -max(map(rank, self._groups[key].queries.values()))):
            kept, later = _Group(), [each for each in self._groups[key].queries.values() if rank(each) > place]
            for each in self._groups[key].queries.values():
                if rank(each) <= place:
                    self._put(kept, each)
            if not later or not self._fits(kept, query):
                continue
            self._put(kept, query)
            self._groups[key] = kept
            self._changed.add(key)
            displaced: list[Query] = []
            for each in sorted(later, key=rank):
                if self._fits(kept, each):
                    self._put(kept, each)
                else:
                    displaced.append(each)
            return displaced
        return None

    def _place(self, query: Query) -> bool:
        if self._join(query, {query.tier == LAST_TIER}) or (self._has_plenty and self._begin_group(query)):
            return True
        return self._join(query, {True, False}) or self._begin_group(query)

    @property
    def _has_plenty(self) -> bool:
        """Return True if a subscription may be spared for authors of the last tier alone.

        A crowd changes all chunks of theirs, and whatever is in a subscription with one is asked for anew with it.
        """
        return len(self._groups) < self._limits.max_subscriptions // _PLENTY

    def _join(self, query: Query, are_last: AbstractSet[bool]) -> bool:
        """Put a query into a subscription, one of those that are for the last tier or not."""
        for key, group in self._groups.items():
            if group.is_last in are_last and self._fits(group, query):
                self._put(group, query)
                self._changed.add(key)
                return True
        return False

    def _begin_group(self, query: Query) -> bool:
        """Put a query into a subscription of its own; return False if there is no room for one."""
        # One subscription is kept for pages, without which nothing that was missed is ever found.
        if len(self._groups) >= self._limits.max_subscriptions - 1 or not self._fits(_Group(), query):
            return False
        key = next(name for name in map(str, range(len(self._groups) + 1)) if name not in self._groups)
        self._groups[key] = group = _Group()
        self._put(group, query)
        self._changed.add(key)
        return True

    def _fits(self, group: _Group, query: Query) -> bool:
        if self._is_parted and group.queries and len(_subjects(group, query)) > 1:
            return False
        if self._limits.needs_kinds and group.queries and not _BROAD.isdisjoint(_subjects(group, query)):
            # Such a relay refuses a whole request for one filter that is too broad.
            return False
        parts, size = self._cost(query)
        # What takes more filters by itself cannot be asked for in fewer, as long as nothing says that it must.
        fits = group.filters + parts <= self._filters_a_request or (
            not group.filters and parts <= self._limits.live_filters
        )
        return fits and group.bytes + size <= self._limits.max_frame_bytes

    def _cost(self, query: Query) -> tuple[int, int]:
        """The filters that `query` takes, and at most how many bytes of a request."""
        parts, lists = len(query.parts(self._most_members(query))), self._kinds(query)
        kinds = sum(len(each or ()) for each in lists) * BYTES_PER_KIND
        members = len(query.members) * len(lists) * BYTES_PER_MEMBER
        return parts * len(lists), parts * (BYTES_PER_FILTER * len(lists) + kinds) + members

    def _put(self, group: _Group, query: Query) -> None:
        parts, size = self._cost(query)
        group.is_last = query.tier == LAST_TIER if not group.queries else group.is_last and query.tier == LAST_TIER
        group.filters += parts
        group.bytes += size
        group.queries[query.key] = query


def _shape(limits: RelayLimits) -> tuple[int | bool | tuple[int, ...], ...]:
    """What of the limits decides how queries are grouped and asked."""
    return (
        limits.max_subscriptions, limits.live_filters, limits.max_authors, limits.max_tag_values,
        limits.max_frame_bytes,
        limits.live_kinds, limits.refused_kinds, limits.refuses_zero, limits.needs_kinds, limits.refuses_kindless,
        limits.withholds, limits.ends_at_limit,
        limits.notes_by_author,
    )  # fmt: skip


def rank(query: Query) -> int:
    """Return which queries have a place rather than which others, the lowest first.

    Of later tiers those come first who are named at the relay, as all of them will hardly fit.
    """
    return 0 if not query.tier else 1 if is_named(query) else 1 + query.tier


def _subjects(group: _Group, query: Query) -> set[Subject]:
    return {query.subject, *(each.subject for each in group.queries.values())}


def _needs_as_much(cost: tuple[int, int], other: tuple[int, int] | None) -> bool:
    """Return True if neither filters nor bytes are less than those of the other."""
    return other is not None and cost[0] >= other[0] and cost[1] >= other[1]
