"""Relays that answer a filter out of a list, with the habits of real ones (nostr-facts §3); no sockets, no clock."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.crawl.slices import PageResult
from pipeline.crawl.windows import Window
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter


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


def result_of(page: Iterable[Event]) -> PageResult:
    times = [event.created_at for event in page]
    return PageResult(len(times), min(times, default=None), max(times, default=None))


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
        window.take(result_of(page))
    return got
