"""Windows against relays that hide, ignore or begin at the wrong end: found out, worked around, or counted."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.crawl.sync.asked_kinds import HIDDEN_KINDS, LISTED_KINDS
from pipeline.crawl.sync.paging.page_knowledge import CONTROLS, PageKnowledge
from pipeline.crawl.sync.paging.slices import Gap, Manners, PageResult
from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.query import Query, Subject
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from tests.simulation.naive_relay import fetch, result_of
from tests.support.plans import event, key, query

SINCE, UNTIL = 100_000, 110_000
AUTHORS = [key(n) for n in range(8)]
USERS = [key(100 + n) for n in range(3)]
ASKED = query(Subject.AUTHORS, AUTHORS)
Answer = Callable[[Filter], list[Event]]


def notes(count: int, seed: int = 1, kind: int = 1) -> list[Event]:
    rng = random.Random(seed)
    return [event(rng.randrange(SINCE + 10, UNTIL), rng.choice(AUTHORS), kind, number) for number in range(count)]


def matching(events: list[Event], page: Filter) -> list[Event]:
    return sorted((each for each in events if page.matches(each)), key=lambda each: (-each.created_at, each.id))


def test_a_relay_that_begins_with_the_oldest_is_divided_by_time() -> None:
    events = notes(200)
    window = Window(ASKED, SINCE, UNTIL)
    assert fetch(window, lambda page: matching(events, page)[::-1][:30], 40) == {each.id for each in events}
    assert window.gaps == 0


def test_events_in_order_of_arrival_are_divided_by_time() -> None:
    """The npm package `relays` answers so, cut off at the limit; a late arrival stands at the end of the store."""
    events = sorted(notes(200), key=lambda each: each.created_at)
    late = event(events[20].created_at, AUTHORS[0], 1, 1000)
    window = Window(ASKED, SINCE, UNTIL)
    got = fetch(window, lambda page: [each for each in [*events, late] if page.matches(each)][:30], 60)
    assert got == {each.id for each in [*events, late]}
    assert window.gaps == 0


def test_shuffled_pages_are_divided_by_time() -> None:
    rng = random.Random(5)
    events = notes(200)
    rng.shuffle(events)

    def shuffled(page: Filter) -> list[Event]:
        return rng.sample(found, len(found)) if (found := [each for each in events if page.matches(each)][:30]) else []

    window = Window(ASKED, SINCE, UNTIL)
    assert fetch(window, shuffled, 60) == {each.id for each in events}
    assert window.gaps == 0


def test_pages_sorted_after_truncation_are_detected_by_a_control_page() -> None:
    rng = random.Random(6)
    events = notes(200)
    rng.shuffle(events)

    def sorted_late(page: Filter) -> list[Event]:
        return sorted([each for each in events if page.matches(each)][:30], key=lambda each: -each.created_at)

    window = Window(ASKED, SINCE, UNTIL)
    assert fetch(window, sorted_late, 60) == {each.id for each in events}
    assert window.knowledge.proofs("authors:any") == 0


def test_what_arrives_between_a_page_and_its_control_is_no_disorder() -> None:
    events = notes(200)

    def growing(page: Filter) -> list[Event]:
        events.append(event(UNTIL - 20 + len(events) % 20, AUTHORS[1], 1, 1_000 + len(events)))
        return matching(events, page)[:30]

    window = Window(ASKED, SINCE, UNTIL, settled=UNTIL - 50)
    due = {each.id for each in events}
    assert due <= fetch(window, growing, 25)
    assert window.knowledge.proofs("authors:any") > 0


def test_oldest_first_relay_without_since_is_split_by_members_and_kinds() -> None:
    """Its pages are full of what is older, whatever is asked for."""
    events = notes(100) + [event(SINCE - number, AUTHORS[number % 8], 1, 1_000 + number) for number in range(1, 100)]

    def since_ignored(page: Filter) -> list[Event]:
        alike = Filter(authors=page.authors, kinds=page.kinds, until=page.until)
        return matching(events, alike)[::-1][:40]

    window = Window(ASKED, SINCE, UNTIL)
    assert fetch(window, since_ignored, 60) == {each.id for each in events if each.created_at >= SINCE}
    assert window.gaps == 0


def test_strangers_that_fill_whole_pages_hide_nothing_older() -> None:
    """Stores that look for a tag's value anywhere in the tags return what names a user in another tag, too."""
    strangers = [event(UNTIL - 1 - number, key(1_000 + number), 1, 1_000 + number) for number in range(500)]
    events = notes(60)
    window, got = Window(ASKED, SINCE, UNTIL), set[bytes]()
    while not window.is_done:
        assert window.pages < 120
        page = window.page()
        assert page.since is not None
        assert page.until is not None
        found = [each for each in strangers if page.since <= each.created_at <= page.until] + matching(events, page)
        sent = sorted(found, key=lambda each: -each.created_at)[:40]
        own = [each for each in sent if page.matches(each)]
        got.update(each.id for each in own)
        window.take(replace(result_of(page, own), strangers=len(sent) - len(own)))
    assert got == {each.id for each in events}
    assert window.gaps == 0


def exclusive(events: list[Event], cap: int, *, until: bool = False) -> Answer:
    """A store that leaves out the second named by `since`, maybe the one named by `until` too."""

    def answer(page: Filter) -> list[Event]:
        found = [each for each in matching(events, page) if each.created_at != page.since]
        return [each for each in found if not until or each.created_at != page.until][:cap]

    return answer


@pytest.mark.parametrize("until", [False, True], ids=["since", "since and until"])
def test_a_relay_that_excludes_since_gives_a_dense_second_all_the_same(until: bool) -> None:
    dense = [event(SINCE + 500, AUTHORS[number % 8], 1, 1_000 + number) for number in range(100)]
    events = [*notes(50), *dense]
    window = Window(ASKED, SINCE, UNTIL)
    assert fetch(window, exclusive(events, 30, until=until), 60) == {each.id for each in events}
    assert (window.borders.excludes_since, window.borders.excludes_until, window.gaps) == (True, until, 0)
    again = Window(ASKED, SINCE, UNTIL, manners=Manners(excludes_since=True, excludes_until=until))
    assert fetch(again, exclusive(events, 30, until=until), 60) == {each.id for each in events}


def test_few_events_of_the_oldest_second_are_no_gap_if_it_gave_more() -> None:
    """They equal the largest page seen so far, and are told until a larger one of the same form comes."""
    last = [event(UNTIL - 5, AUTHORS[0], 1, number) for number in range(10)]
    window = Window(ASKED, SINCE, UNTIL)
    answers = iter(([*last], [], [*last], last[:0], [*last], [*last]))
    while not window.is_done and (page := next(answers, None)) is not None:
        window.take(result_of(window.page(), [each for each in page if window.page().matches(each)]))
    assert not window.missing or window.missing[0].returned == 10


def test_a_relay_that_ignores_until_is_asked_for_less_at_a_time() -> None:
    """Its pages always hold the newest; fewer members at a time leave room for what is older."""
    events = notes(100)

    def timeless(page: Filter) -> list[Event]:
        return matching(events, Filter(authors=page.authors, kinds=page.kinds))[:40]

    window = Window(ASKED, SINCE, UNTIL)
    assert fetch(window, timeless, 40) == {each.id for each in events}
    assert window.gaps == 0


def test_what_a_relay_without_until_cannot_give_is_counted() -> None:
    events = [event(UNTIL - number, AUTHORS[0], 1, number) for number in range(100)]
    alone = query(Subject.AUTHORS, AUTHORS[:1])
    window = Window(alone, SINCE, UNTIL)
    got = fetch(window, lambda page: matching(events, Filter(authors=page.authors, kinds=page.kinds))[:40], 60)
    assert len(got) == 40
    assert window.gap_reasons[Gap.IGNORES_TIMES] >= 1


def test_relay_that_ignores_since_ends_the_window_at_an_older_event() -> None:
    events = notes(100) + [event(SINCE - number, AUTHORS[0], 1, number) for number in range(1, 500)]

    def since_ignored(page: Filter) -> list[Event]:
        return matching(events, Filter(authors=page.authors, kinds=page.kinds, until=page.until))[:40]

    window = Window(ASKED, SINCE, UNTIL)
    assert fetch(window, since_ignored, 8) == {each.id for each in events if each.created_at >= SINCE}


def hiding(events: list[Event], cap: int) -> Answer:
    return lambda page: [each for each in matching(events, page)[:cap] if each.kind not in HIDDEN_KINDS]


def test_hidden_events_that_fill_whole_pages_hide_no_others() -> None:
    """Kinds that are listed come by name, others from parts of the time."""
    asked = query(Subject.MENTIONS, USERS)
    wraps = [event(UNTIL - 1 - number, key(number), 1059, number, USERS[:1]) for number in range(2_000)]
    older = [
        event(UNTIL - 4_000 - number, AUTHORS[0], kind, number, USERS[:1]) for number, kind in enumerate((1, 7, 1234))
    ]
    window = Window(asked, SINCE, UNTIL, manners=Manners(answers_kindless=True))
    assert fetch(window, hiding([*wraps, *older], 100), 150) == {each.id for each in older}


def test_a_relay_that_answers_named_kinds_only_is_found_out() -> None:
    """nostr-rs-relay's `limit_scrapers`; what it may have of other kinds is a gap."""
    events = [*notes(60), *notes(10, 2, kind=4)]
    window = Window(ASKED, SINCE, UNTIL)
    got = fetch(window, lambda page: matching(events, page)[:100] if page.kinds else [], 30)
    assert got == {each.id for each in events}
    assert window.needs_kinds
    assert window.gap_reasons[Gap.UNLISTED_KINDS] == 1


def test_an_empty_relay_is_neither_suspected_nor_asked_for_long() -> None:
    window = Window(ASKED, SINCE, UNTIL)
    assert fetch(window, lambda _: [], 3) == set()
    assert (window.needs_kinds, window.gaps) == (False, 0)


def test_lists_of_kinds_are_as_short_as_the_relay_wants_them() -> None:
    lists: list[int] = []

    def answer(page: Filter) -> list[Event]:
        lists.append(len(page.kinds or ()))
        return []

    fetch(Window(query(Subject.AUTHORS, AUTHORS[:3]), SINCE, UNTIL, manners=Manners(max_kinds=50)), answer, 20)
    assert max(lists) == 50
    assert sum(lists) == len(LISTED_KINDS)


def test_what_remains_is_told_and_left_out_by_a_window_that_resumes() -> None:
    events = notes(300)
    window = Window(ASKED, SINCE, UNTIL)
    for _ in range(4):
        page = matching(events, window.page())[:50]
        times = [each.created_at for each in page]
        window.take(PageResult(len(page), min(times), max(times)))
    remaining = window.remaining
    assert remaining is not None
    low, high = remaining
    assert (low, high < UNTIL) == (SINCE, True)
    later = Window(ASKED, SINCE, UNTIL + 500)
    later.resume(low, high, UNTIL - 100)
    got = fetch(later, lambda page: matching(events, page)[:50], 20)
    assert got == {each.id for each in events if each.created_at <= high or each.created_at >= UNTIL - 100}


def test_a_resumed_span_that_does_not_fit_changes_nothing() -> None:
    window = Window(ASKED, SINCE, UNTIL)
    window.resume(SINCE, UNTIL + 5, UNTIL + 10)
    assert window.remaining == (SINCE, UNTIL)


def test_a_query_in_parts_tells_no_remaining_span() -> None:
    window = Window(Query(Subject.AUTHORS, "", ASKED.members), SINCE, UNTIL, max_members=3)
    assert window.remaining is None


def untold(events: list[Event], window: Window, got: set[bytes]) -> list[Event]:
    """What was not had, and what no gap covers."""
    spans = [(gap.low, gap.high) for gap in window.missing]
    return [
        each for each in events if each.id not in got and not any(low <= each.created_at <= high for low, high in spans)
    ]


class OldestFirst:
    """A relay that ignores `since` and begins with the oldest, seven at a time; its first page comes newest first."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.pages = 0

    def page(self, asked: Filter) -> list[Event]:
        self.pages += 1
        found = matching(self.events, replace(asked, since=None))[::-1][:7]
        return found[::-1] if self.pages == 1 else found


def without_controls() -> Manners:
    """A relay of which as many controls are under way as are asked for."""
    known = PageKnowledge()
    for _ in range(CONTROLS):
        known.wants_control("authors:any", 7)
    return Manners(pages=known)


def test_control_that_rises_disproves_a_page_that_fell_by_chance() -> None:
    """It has nothing more of its time than the page had: a relay that ignores `since` sends the same again."""
    events = notes(80)
    window = Window(ASKED, SINCE, UNTIL)
    got = fetch(window, OldestFirst(events).page, 2_000)
    assert not untold(events, window, got)
    assert window.gap_reasons[Gap.IGNORES_TIMES]


def test_control_that_repeats_its_page_leaves_a_gap_if_no_older_follows() -> None:
    """All of the page lies in one second, which falls whatever the order is."""
    events = [
        event(second, AUTHORS[0], 1, n) for second, count in ((UNTIL - 500, 7), (UNTIL - 20, 10)) for n in range(count)
    ]
    window = Window(query(Subject.AUTHORS, AUTHORS[:1]), SINCE, UNTIL)
    got = fetch(window, OldestFirst(events).page, 60)
    assert len(got) == 7
    assert not untold(events, window, got)


def test_relay_that_ignores_since_and_returns_the_newest_has_no_gap() -> None:
    """Older events follow its pages, so that those chose no oldest; controls show nothing and stay few."""
    events = notes(600)
    window = Window(ASKED, SINCE, UNTIL)
    got = fetch(window, lambda page: matching(events, replace(page, since=None))[:30], 40)
    assert got == {each.id for each in events}
    assert window.gaps == 0


def test_page_newer_than_asked_for_disproves_those_that_fell_before() -> None:
    """Times are ignored, and the first to arrive fell by chance."""
    times = [*range(UNTIL - 10, UNTIL - 40, -10), *[UNTIL - 60] * 4, UNTIL - 5, UNTIL - 15, UNTIL - 70]
    events = [event(at, AUTHORS[0], 1, number) for number, at in enumerate(times)]
    window = Window(query(Subject.AUTHORS, AUTHORS[:1]), SINCE, UNTIL, manners=without_controls())
    got = fetch(window, lambda page: matching(events[:7], replace(page, since=None, until=None)), 200)
    assert not untold(events, window, got)


def test_full_page_that_rises_disproves_unproven_ones_that_fell() -> None:
    """In order of arrival, and the first page fell by chance while no control was asked for."""
    events = notes(300)
    pages: list[Filter] = []

    def as_arrived(page: Filter) -> list[Event]:
        pages.append(page)
        found = [each for each in events if page.matches(each)][:7]
        return found if len(pages) > 1 else sorted(found, key=lambda each: -each.created_at)

    window = Window(ASKED, SINCE, UNTIL, manners=without_controls())
    got = fetch(window, as_arrived, 400)
    assert not untold(events, window, got)
    assert window.gaps == 0


def test_page_longer_than_what_is_noted_of_it_is_followed_by_what_is_older() -> None:
    """A relay that ignores `limit`: all that is noted may be of one second, at which the next page must not stay."""
    events = [*(event(UNTIL, AUTHORS[0], 1, number) for number in range(60)), *notes(40)]
    window, got = Window(ASKED, SINCE, UNTIL), set[bytes]()
    while not window.is_done:
        assert window.pages < 20, "too many pages"
        asked = window.page()
        page = matching(events, asked)
        got |= {each.id for each in page}
        result = result_of(asked, page)
        window.take(replace(result, times=result.times[:50]))
    assert got == {each.id for each in events}
