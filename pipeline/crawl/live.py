"""Which live subscriptions one relay is to have: queries packed into as few as its limits allow, and moved rarely."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.crawl.plan import Query
from pipeline.nostr.filter import Filter
from pipeline.relay.limits import Limits

_BYTES_PER_FILTER = 200
_BYTES_PER_MEMBER = 67


@dataclass(slots=True)
class _Group:
    filters: int = 0
    bytes: int = 0
    queries: dict[str, Query] = field(default_factory=dict)


class LiveGroups:
    """The grouping of queries into live subscriptions, stable over plan changes. Does no I/O."""

    __slots__ = ("_changed", "_groups", "_limits", "left_out")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._groups: dict[str, _Group] = {}
        self._changed: set[str] = set()
        self.left_out: tuple[str, ...] = ()

    def arrange(self, queries: Iterable[Query], limits: Limits) -> None:
        """Fit `queries` into subscriptions; those that a relay has no room for are `left_out`."""
        wanted = {query.key: query for query in queries if query.is_live}
        if limits != self._limits:
            self._changed.update(self._groups)
            self._groups.clear()
            self._limits = limits
        grouped: set[str] = set()
        for key, group in list(self._groups.items()):
            self._refresh(key, group, wanted)
            grouped.update(group.queries)
        self.left_out = tuple(key for key, query in wanted.items() if key not in grouped and not self._place(query))

    def take_changed(self) -> dict[str, list[Filter] | None]:
        """The subscriptions to open or replace with their filters, and to close with `None`, since the last call."""
        changed = {key: self.filters(key) for key in sorted(self._changed)}
        self._changed.clear()
        return changed

    def reopen(self, key: str | None = None) -> None:
        """Mark one subscription, or all, as not open."""
        self._changed.update(self._groups if key is None else (key,))

    def filters(self, key: str) -> list[Filter] | None:
        """What the subscription `key` asks for; `None` if there is none of that name."""
        group = self._groups.get(key)
        if group is None:
            return None
        # `limit: 0`: nothing stored; no `since`, which relays would apply to back-dated arrivals too.
        return [
            part.filter(limit=0) for query in group.queries.values() for part in query.parts(self._limits.max_members)
        ]

    def queries_of(self, key: str) -> tuple[str, ...]:
        """The keys of the queries in subscription `key`."""
        group = self._groups.get(key)
        return () if group is None else tuple(group.queries)

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

    def _place(self, query: Query) -> bool:
        for key, group in self._groups.items():
            if self._fits(group, query):
                self._put(group, query)
                self._changed.add(key)
                return True
        if len(self._groups) >= max(1, self._limits.max_subscriptions - 1) or not self._fits(_Group(), query):
            return False
        key = next(name for name in map(str, range(len(self._groups) + 1)) if name not in self._groups)
        self._groups[key] = group = _Group()
        self._put(group, query)
        self._changed.add(key)
        return True

    def _fits(self, group: _Group, query: Query) -> bool:
        parts = len(query.parts(self._limits.max_members))
        size = parts * _BYTES_PER_FILTER + len(query.members) * _BYTES_PER_MEMBER
        return group.filters + parts <= self._limits.max_filters and group.bytes + size <= self._limits.max_frame_bytes

    def _put(self, group: _Group, query: Query) -> None:
        parts = len(query.parts(self._limits.max_members))
        group.filters += parts
        group.bytes += parts * _BYTES_PER_FILTER + len(query.members) * _BYTES_PER_MEMBER
        group.queries[query.key] = query
