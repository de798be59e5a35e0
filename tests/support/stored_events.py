"""Relays that answer a filter out of a list, with the habits of real ones; no sockets, no clock."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.crawl.sync.paging.slices import PageResult
from pipeline.crawl.sync.paging.window import Window
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter, parse_filter


@dataclass
class StoredEvents:
    """What a relay has and how it hands it out; the newest first, silently no more than `cap` at once."""

    rng: random.Random
    events: list[Event] = field(default_factory=list)
    cap: int = 500
    quarter_above_cap: bool = False
    exclusive_until: bool = False
    shuffled: bool = False
    repeats: bool = False
    hidden_kinds: frozenset[int] = frozenset()
    arrived: int = 0
    """How many events of the last page came live, too."""

    def page(self, wanted: Filter) -> list[Event]:
        assert wanted.limit is not None, "without a limit some relays answer oldest first"
        until = None if wanted.until is None else wanted.until - self.exclusive_until
        span = Filter(wanted.ids, wanted.authors, wanted.kinds, wanted.tags, wanted.since, until)
        matching = [event for event in self.events if span.matches(event)]
        # Ties come in any order, but always in the same.
        matching.sort(key=lambda event: (-event.created_at, event.id))
        most = min(wanted.limit, self.cap)
        if self.quarter_above_cap and wanted.limit > self.cap:
            most = max(1, self.cap // 4)
        page = [event for event in matching[:most] if event.kind not in self.hidden_kinds]
        if self.shuffled:
            self.rng.shuffle(page)
        if self.repeats and page:
            page = sorted([*page, *self.rng.choices(page, k=3)], key=lambda event: -event.created_at)[: max(most, 1)]
        return page


def result_of(page: Iterable[Event], arrived: int = 0) -> PageResult:
    times = tuple(event.created_at for event in page)
    return PageResult(len(times), min(times, default=None), max(times, default=None), times=times, arrived=arrived)


def fetch(relay: StoredEvents, window: Window, most_pages: int) -> set[bytes]:
    """Everything that `window` gets out of `relay`; fails if it asks for more than `most_pages`."""
    got: set[bytes] = set()
    while not window.is_done:
        assert window.pages < most_pages, "too many pages"
        wanted = window.page()
        assert window.page() == wanted
        page = relay.page(wanted)
        assert all(wanted.matches(event) for event in page)
        got.update(event.id for event in page)
        window.take(result_of(page, relay.arrived))
    return got


@dataclass
class KindFirstEvents(StoredEvents):
    """A store that keeps mentions by kind, then time, and reads them as if by time alone where no kinds are named.

    With `until` it begins at a kind made of it, and does not apply it; with `since` a value ends at its first event
    that is older.
    """

    def page(self, wanted: Filter) -> list[Event]:
        if not wanted.tags or wanted.kinds is not None or wanted.ids is not None:
            return StoredEvents.page(self, wanted)
        found: dict[bytes, Event] = {}
        for name, values in wanted.tags:
            for value in values:
                found |= {event.id: event for event in self._walk(name, value, wanted)}
        newest = sorted(found.values(), key=lambda event: (-event.created_at, event.id))
        return newest[: min(wanted.limit or 0, self.cap)]

    def _walk(self, name: str, value: str, wanted: Filter) -> Iterator[Event]:
        selected = Filter(tags=((name, frozenset({value})),))
        ordered = sorted(filter(selected.matches, self.events), key=lambda event: (-event.kind, -event.created_at))
        for event in ordered:
            if wanted.until is not None and event.kind > wanted.until >> 16:
                continue
            if wanted.since is not None and event.created_at < wanted.since:
                return
            yield event


@dataclass
class ShortListEvents(StoredEvents):
    """A store that gives nothing at all to filters with longer lists than these."""

    most_kinds: int = 10
    most_values: int = 100
    most_authors: int = 500

    def page(self, wanted: Filter) -> list[Event]:
        is_long = (
            len(wanted.kinds or ()) > self.most_kinds
            or len(wanted.authors or ()) > self.most_authors
            or any(len(values) > self.most_values for _, values in wanted.tags)
        )
        return [] if is_long else StoredEvents.page(self, wanted)


@dataclass
class NarrowEvents(StoredEvents):
    """A store that gives nothing, without a word, to filters that select by kinds alone."""

    def page(self, wanted: Filter) -> list[Event]:
        is_narrow = wanted.ids is not None or wanted.authors is not None or wanted.tags
        return StoredEvents.page(self, wanted) if is_narrow else []


@dataclass
class FirstValueEvents(StoredEvents):
    """A store that searches only the first value of a tag condition."""

    def page(self, wanted: Filter) -> list[Event]:
        first = {name: value[:1] if name.startswith("#") else value for name, value in wanted.to_value().items()}
        return StoredEvents.page(self, parse_filter(first))
