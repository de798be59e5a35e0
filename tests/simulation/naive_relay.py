"""A relay that does with a filter whatever some relay was seen to do, as plainly as can be. No sockets, no clock."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from pipeline.crawl.sync.paging.slices import PageResult
from pipeline.crawl.sync.paging.window import Window
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter


class Chosen(Enum):
    """Which events a relay keeps of more than it returns at once."""

    NEWEST = auto()
    OLDEST = auto()
    INSERTED_FIRST = auto()


class Sent(Enum):
    """In which order it sends them."""

    AS_CHOSEN = auto()
    NEWEST_FIRST = auto()
    SHUFFLED = auto()


class Border(Enum):
    """How it reads `since` or `until`."""

    INCLUDED = auto()
    EXCLUDED = auto()
    IGNORED = auto()


@dataclass
class NaiveRelay:
    """`caps`: by whether kinds are named and whether tags are; `inserted` are the events in the order of arrival."""

    rng: random.Random
    inserted: list[Event]
    caps: dict[tuple[bool, bool], int] = field(default_factory=dict)
    chosen: Chosen = Chosen.NEWEST
    sent: Sent = Sent.AS_CHOSEN
    since: Border = Border.INCLUDED
    until: Border = Border.INCLUDED

    def page(self, asked: Filter) -> list[Event]:
        assert asked.limit is not None
        assert asked.since is not None
        assert asked.until is not None
        matching = [event for event in self.inserted if self._matches(event, asked, asked.since, asked.until)]
        if self.chosen is not Chosen.INSERTED_FIRST:
            matching.sort(key=lambda event: event.created_at, reverse=self.chosen is Chosen.NEWEST)
        found = matching[: min(asked.limit, self.caps.get((asked.kinds is not None, bool(asked.tags)), 500))]
        if self.sent is Sent.SHUFFLED:
            self.rng.shuffle(found)
        elif self.sent is Sent.NEWEST_FIRST:
            found.sort(key=lambda event: -event.created_at)
        return found

    def _matches(self, event: Event, asked: Filter, since: int, until: int) -> bool:
        if not replace(asked, since=None, until=None).matches(event):
            return False
        after = {Border.INCLUDED: event.created_at >= since, Border.EXCLUDED: event.created_at > since}
        before = {Border.INCLUDED: event.created_at <= until, Border.EXCLUDED: event.created_at < until}
        return after.get(self.since, True) and before.get(self.until, True)


def result_of(asked: Filter, page: list[Event]) -> PageResult:
    """What a session notes of a page."""
    assert asked.since is not None
    assert asked.until is not None
    inside = [event.created_at for event in page if asked.matches(event)]
    return PageResult(
        len(inside), min(inside, default=None), max(inside, default=None),
        newer=sum(event.created_at > asked.until for event in page),
        older=sum(event.created_at < asked.since for event in page),
        times=tuple(event.created_at for event in page),
    )  # fmt: skip


def fetch(window: Window, answer: Callable[[Filter], list[Event]], most_pages: int) -> set[bytes]:
    """Everything asked for that `window` gets; fails if it takes more than `most_pages`."""
    got: set[bytes] = set()
    while not window.is_done:
        assert window.pages < most_pages, "too many pages"
        asked = window.page()
        page = answer(asked)
        got.update(event.id for event in page if asked.matches(event))
        window.take(result_of(asked, page))
    return got
