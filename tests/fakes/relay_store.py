"""The events of a scripted relay and how it reads filters (NIP-01), written apart from the project's own code."""

import random
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.factories.events import SignedEvent
from tests.factories.workload import replaceable_key
from tests.fakes.behaviour import Behaviour, Filters, Order


class InvalidFilter(ValueError):
    """A filter that no relay understands."""


@dataclass(frozen=True, slots=True)
class Query:
    """One filter, ready to match; an absent condition is `None`."""

    ids: frozenset[str] | None
    authors: frozenset[str] | None
    kinds: frozenset[int] | None
    tags: tuple[tuple[str, frozenset[str]], ...]
    since: int
    until: int
    limit: int | None
    orders: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The values of the tag conditions as they were sent."""

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "Query":
        """Read a decoded filter object; raises `InvalidFilter`."""
        if not isinstance(value, dict):
            raise InvalidFilter("no object")
        numbers = {name: value.get(name) for name in ("since", "until", "limit")}
        if any(number is not None and type(number) is not int for number in numbers.values()):
            raise InvalidFilter("times and limit must be integers")
        since, until, limit = numbers.values()
        return cls(
            ids=_hex_set(value.get("ids")),
            authors=_hex_set(value.get("authors")),
            kinds=_kind_set(value.get("kinds")),
            tags=tuple((name[1:], _text_set(members)) for name, members in value.items() if name.startswith("#")),
            since=0 if since is None else since,
            until=1 << 62 if until is None else until,
            limit=limit,
            orders=tuple((name[1:], tuple(members)) for name, members in value.items() if name.startswith("#")),
        )

    @property
    def score(self) -> int:
        """How narrow it is by nostr-rs-relay's count."""
        return 2 * (self.ids is not None) + (self.authors is not None) + (self.kinds is not None) + len(self.tags)

    @property
    def unconditional(self) -> bool:
        """Whether it asks for everything."""
        return self.score == 0 and self.since == 0 and self.until == 1 << 62

    def selects(self, event: SignedEvent) -> bool:
        """Whether the event matches, times and limit left aside."""
        if self.kinds is not None and event.kind not in self.kinds:
            return False
        if self.authors is not None and event.pubkey not in self.authors:
            return False
        if self.ids is not None and event.id not in self.ids:
            return False
        return all(
            any(len(tag) > 1 and tag[0] == name and tag[1] in members for tag in event.tags)
            for name, members in self.tags
        )

    def matches(self, event: SignedEvent, *, ignore_times: bool = False) -> bool:
        """Whether a live event goes to a subscription with this filter."""
        return (ignore_times or self.since <= event.created_at <= self.until) and self.selects(event)


def _is_too_long(query: Query, behaviour: Behaviour) -> bool:
    """Whether the relay gives nothing to a filter since it names too many kinds or values."""
    most_values, most_kinds = behaviour.most_tag_values, behaviour.most_kinds
    values = max((len(members) for _, members in query.tags), default=0)
    return (most_values is not None and values > most_values) or (
        most_kinds is not None and len(query.kinds or ()) > most_kinds
    )


def _text_set(members: Any) -> frozenset[str]:
    if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
        raise InvalidFilter("must be a list of strings")
    return frozenset(members)


def _hex_set(members: Any) -> frozenset[str] | None:
    if members is None:
        return None
    texts = _text_set(members)
    if any(len(text) != 64 or text.strip("0123456789abcdef") for text in texts):
        raise InvalidFilter("must be 64 lowercase hex digits")
    return texts


def _kind_set(members: Any) -> frozenset[int] | None:
    if members is None:
        return None
    if not isinstance(members, list) or not all(type(member) is int for member in members):
        raise InvalidFilter("kinds must be integers")
    return frozenset(members)


def _rank(event: SignedEvent) -> tuple[int, str]:
    return (-event.created_at, event.id)


@dataclass(frozen=True, slots=True)
class Page:
    """What a REQ gets: the events in order of sending, and whether they are all there are."""

    events: Sequence[SignedEvent]
    complete: bool


class MemoryStore:
    """Events newest first, at equal time lowest id first. Not thread-safe.

    With `replaces` only the newest version of a replaceable event is kept; otherwise whatever was ever added is.
    """

    def __init__(self, *, replaces: bool = False, seed: int = 0) -> None:
        self._replaces = replaces
        self._rng = random.Random(seed)
        self._ordered: list[SignedEvent] = []
        self._by_id: dict[str, SignedEvent] = {}
        self._by_author: dict[str, list[SignedEvent]] = defaultdict(list)
        self._versions: dict[tuple[str, int, str], SignedEvent] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._by_id

    def __iter__(self) -> Iterator[SignedEvent]:
        return iter(list(self._ordered))

    def add(self, event: SignedEvent) -> str:
        """Keep an event; returns why not (`duplicate`, `replaced`), or nothing."""
        why = self._index(event)
        if not why:
            insort(self._ordered, event, key=_rank)
        return why

    def add_all(self, events: Iterable[SignedEvent]) -> int:
        """Keep many; returns how many were new."""
        added = [event for event in events if not self._index(event)]
        self._ordered = sorted((event for event in (*self._ordered, *added) if event.id in self._by_id), key=_rank)
        return len(added)

    def _index(self, event: SignedEvent) -> str:
        if event.id in self._by_id:
            return "duplicate"
        key = replaceable_key(event) if self._replaces else None
        if key is not None:
            rival = self._versions.get(key)
            if rival is not None and _rank(rival) < _rank(event):
                return "replaced"
            if rival is not None:
                self._remove(rival)
            self._versions[key] = event
        self._by_id[event.id] = event
        self._by_author[event.pubkey].append(event)
        return ""

    def _remove(self, event: SignedEvent) -> None:
        del self._by_id[event.id]
        self._by_author[event.pubkey].remove(event)
        at = bisect_left(self._ordered, _rank(event), key=_rank)
        if at < len(self._ordered) and self._ordered[at].id == event.id:
            del self._ordered[at]

    def page(self, queries: Sequence[Query], behaviour: Behaviour) -> Page:
        """The stored part of the answer to a REQ with these filters."""
        found: dict[str, SignedEvent] = {}
        complete = True
        for query in queries:
            limit = behaviour.limit_of(query.limit)
            selected = self._select(query, behaviour, limit)
            complete &= limit is None or 0 < limit >= len(selected)
            found |= {event.id: event for event in selected[:limit]}
        events = list(found.values())
        if behaviour.shared_limit:
            limits = [limit for query in queries if (limit := behaviour.limit_of(query.limit)) is not None]
            events = sorted(events, key=_rank)[: min(limits, default=None)]
        if behaviour.order is Order.SHUFFLED:
            self._rng.shuffle(events)
        return Page([event for event in events if event.kind not in behaviour.withheld_kinds], complete)

    def _select(self, query: Query, behaviour: Behaviour, limit: int | None) -> list[SignedEvent]:
        """What matches in the order that the limit goes by, at most one more than the limit."""
        if limit == 0 or query.score < behaviour.min_filter_score:
            return []
        if query.unconditional and behaviour.empty_filter_matches_nothing:
            return []
        if _is_too_long(query, behaviour):
            return []
        if behaviour.first_value_only:
            query = replace(query, tags=tuple((name, frozenset(order[:1])) for name, order in query.orders))
        if behaviour.kinds_for_times and query.kinds is None and query.tags:
            return sorted(self._by_kind(query), key=_rank)[: None if limit is None else limit + 1]
        until = query.until - 1 if behaviour.until_exclusive else query.until
        candidates = self._candidates(
            query,
            since=0 if behaviour.ignores_since else query.since + behaviour.since_exclusive,
            until=1 << 62 if behaviour.ignores_until else until,
        )
        if behaviour.order is Order.ARRIVAL:
            within = set(candidates)
            candidates = [event for event in self._by_id.values() if event in within]
        oldest = behaviour.order is Order.OLDEST or (behaviour.oldest_without_limit and query.limit is None)
        selected = []
        for event in reversed(candidates) if oldest else candidates:
            if query.selects(event):
                selected.append(event)
                if limit is not None and len(selected) > limit:
                    break
        return selected

    def selects_withheld(self, queries: Sequence[Query], behaviour: Behaviour) -> bool:
        """Whether any of these filters selects what is withheld, whatever the limit."""
        withheld = [event for event in self._ordered if event.kind in behaviour.withheld_kinds]
        return any(query.matches(event) for query in queries for event in withheld)

    def _by_kind(self, query: Query) -> Iterable[SignedEvent]:
        """What a walk down kinds finds that takes the time asked for as the kind to begin at."""
        found: dict[str, SignedEvent] = {}
        for name, order in query.orders:
            for value in order:
                one = replace(query, tags=((name, frozenset({value})),))
                for event in sorted(
                    filter(one.selects, self._ordered), key=lambda each: (-each.kind, -each.created_at)
                ):
                    if event.kind > query.until >> 16:
                        continue
                    if event.created_at < query.since:
                        break
                    found[event.id] = event
        return found.values()

    def _candidates(self, query: Query, *, since: int, until: int) -> Sequence[SignedEvent]:
        """Every event within the times that may match, newest first."""
        if query.ids is not None:
            few: Iterable[SignedEvent] = (self._by_id[event_id] for event_id in query.ids if event_id in self._by_id)
        elif query.authors is not None and len(query.authors) * 4 < len(self._by_author):
            few = (event for author in query.authors for event in self._by_author.get(author, ()))
        else:
            first = bisect_left(self._ordered, -until, key=lambda event: -event.created_at)
            last = bisect_right(self._ordered, -since, key=lambda event: -event.created_at)
            return self._ordered[first:last]
        return sorted((event for event in few if since <= event.created_at <= until), key=_rank)

    def count(self, queries: Filters | Sequence[Query]) -> int:
        """How many events match any of the filters, limits left aside."""
        read = [query if isinstance(query, Query) else Query.read(query) for query in queries]
        return sum(any(query.matches(event) for query in read) for event in self._ordered)
