"""Windows against simulated relays: every event is had, or the loss is counted; and it ends."""

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from pipeline.crawl.sync.asked_kinds import HIDDEN_KINDS, LISTED_KINDS
from pipeline.crawl.sync.paging import slices
from pipeline.crawl.sync.paging.borders import Borders
from pipeline.crawl.sync.paging.empty_pages import EmptyPages
from pipeline.crawl.sync.paging.missing import MissingRecord
from pipeline.crawl.sync.paging.page_knowledge import CONTROLS, PageKnowledge
from pipeline.crawl.sync.paging.pager import Pager
from pipeline.crawl.sync.paging.slice_stack import SliceStack
from pipeline.crawl.sync.paging.slices import Manners, PageResult
from pipeline.crawl.sync.paging.window import PAGE_LIMIT, Window
from pipeline.crawl.sync.query import GLOBAL_QUERY, Query, Subject
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from tests.support.plans import event, key, query
from tests.support.seeds import seeds
from tests.support.stored_events import StoredEvents, fetch, result_of

SINCE, UNTIL = 1_000, 2_000
AUTHORS = [key(n) for n in range(12)]
USERS = [key(100 + n) for n in range(3)]
KINDS = (0, 1, 2, 3, 7, 10_002)
QUERIES = {
    "global": GLOBAL_QUERY,
    "authors": query(Subject.AUTHORS, AUTHORS),
    "mentions": query(Subject.MENTIONS, USERS),
    "one author": query(Subject.AUTHORS, AUTHORS[:1]),
    "profiles": query(Subject.PROFILES, USERS + AUTHORS),
}


def world(rng: random.Random, count: int, seconds: int, dense: int) -> list[Event]:
    """Events over a number of seconds, and some seconds with many of them; some outside the window."""
    times = [rng.randrange(UNTIL - seconds, UNTIL + 50) for _ in range(count)]
    for _ in range(dense):
        times += [rng.randrange(UNTIL - seconds, UNTIL + 1)] * rng.randrange(2, 40)
    times += [rng.choice((SINCE, SINCE - 1, UNTIL, UNTIL + 1)) for _ in range(8)]
    return [
        event(at, rng.choice(AUTHORS), rng.choice(KINDS), number, rng.sample(USERS, rng.randrange(3)))
        for number, at in enumerate(times)
    ]


def random_relay(rng: random.Random) -> StoredEvents:
    events = world(rng, rng.randrange(200), rng.choice((20, 300, 1_000)), rng.randrange(4))
    cap = rng.choice((5, 7, 20, 100, 500))
    return StoredEvents(
        rng, events, cap=cap, quarter_above_cap=cap >= 20 and rng.random() < 0.3,
        exclusive_until=rng.random() < 0.4, shuffled=rng.random() < 0.3, repeats=rng.random() < 0.3,
    )  # fmt: skip


def proven(form: str, proofs: int = CONTROLS) -> PageKnowledge:
    knowledge = PageKnowledge()
    for _ in range(proofs):
        knowledge.prove(form)
    return knowledge


@dataclass
class BusyEvents(StoredEvents):
    """A store to which events come while it is read, some of them dated back, and are in the page beyond its cap.

    `at_once` come in every third page; `is_live`: they come live, too.
    """

    authors: tuple[bytes, ...] = ()
    now: int = 0
    pages: int = 0
    at_once: int = 3
    is_live: bool = False
    stops_after: int = 1 << 30

    def page(self, wanted: Filter) -> list[Event]:
        page = StoredEvents.page(self, wanted)
        self.pages += 1
        self.arrived = 0
        if self.pages % 3 == 1 and self.pages <= self.stops_after:
            dates = [self.now - 300 * (n % 3 == 2) for n in range(self.at_once)]
            first = 10_000 + self.at_once * self.pages
            came = [
                event(at, self.authors[(first + n) % len(self.authors)], 3, first + n) for n, at in enumerate(dates)
            ]
            self.events += came
            also = [each for each in came if wanted.matches(each)]
            page += also
            self.arrived = len(also) * self.is_live
        return page


def wanted_of(relay: StoredEvents, asked: Query, since: int, until: int) -> set[bytes]:
    span = asked.filter(since=since, until=until)
    return {each.id for each in relay.events if span.matches(each)}


def bound(relay: StoredEvents, asked: Query) -> int:
    """No page without a step down or a second left behind; a second costs a page for each part of it at most."""
    seconds = len({each.created_at for each in relay.events})
    # Of a dense second every event may have to be looked for by kinds, halved eight times.
    return 20 + 3 * seconds * (2 * len(asked.members) + len(asked.kinds or ()) + 2) + 20 * len(relay.events)


@pytest.mark.parametrize("seed", seeds(40))
def test_every_event_is_had_or_a_gap_is_counted(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent caps, a quarter of the cap for asking too much, shuffled pages, exclusive `until`, repeated events.

    Whoever is asked for first.
    """
    print(f"seed {seed}")
    rng = random.Random(seed)
    for name, asked in QUERIES.items():
        relay = random_relay(rng)
        limit, members = rng.choice((PAGE_LIMIT, 100, 5, 2)), rng.choice((250, 3))
        window = Window(
            asked,
            SINCE,
            UNTIL,
            limit=limit,
            manners=Manners(excludes_until=relay.exclusive_until and rng.random() < 0.5),
            max_members=members,
        )
        if rng.random() < 0.5:
            monkeypatch.setattr(slices, "MAX_COMPANIONS", rng.choice((0, 2, 50)))
            window.put_first({each.public_key for each in asked.members if rng.random() < 0.3})
        got = fetch(relay, window, bound(relay, asked))
        # The second `until` itself is beyond what an exclusive relay gives before it is known for one.
        missed = wanted_of(relay, asked, SINCE, UNTIL - relay.exclusive_until) - got
        assert not missed or window.gaps, (name, limit, relay)
        assert not window.borders.excludes_until or relay.exclusive_until


@pytest.mark.parametrize("seed", seeds(10))
def test_with_a_page_limit_of_one_nothing_is_lost_silently(seed: int) -> None:
    """A NIP-11 document may say so, and its word narrows what is asked for."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    for asked in QUERIES.values():
        relay = replace(random_relay(rng), cap=500, quarter_above_cap=False)
        window = Window(asked, SINCE, UNTIL, limit=1)
        got = fetch(relay, window, bound(relay, asked))
        assert window.gaps or not wanted_of(relay, asked, SINCE, UNTIL - relay.exclusive_until) - got


def test_second_at_a_bisection_border_is_repeated_where_until_excludes() -> None:
    """A full page of one second falls whatever the order is; what follows it shows that the order is none."""
    rng = random.Random(1)
    relay = StoredEvents(rng, exclusive_until=True, shuffled=True, cap=5)
    relay.events = [event(1_937, AUTHORS[number], 1, number) for number in range(7)]
    relay.events += [event(1_100 + 20 * number, AUTHORS[0], 1, 100 + number) for number in range(30)]
    first = [each for each in relay.events if each.created_at == 1_937][:5]
    window = Window(QUERIES["authors"], SINCE, UNTIL, limit=5)
    window.page()
    window.take(result_of(first))
    got = {each.id for each in first} | fetch(relay, window, bound(relay, QUERIES["authors"]))
    assert window.gaps or not wanted_of(relay, QUERIES["authors"], SINCE, UNTIL - 1) - got


@pytest.mark.parametrize("seed", seeds(20))
def test_spans_respect_the_relays_maximum_and_nothing_is_lost_silently(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    for asked in QUERIES.values():
        relay = random_relay(rng)
        most = rng.choice((70, 500, (UNTIL - SINCE) // 3))
        window = Window(asked, SINCE, UNTIL, manners=Manners(max_span=most))
        got: set[bytes] = set()
        while not window.is_done:
            assert window.pages < bound(relay, asked) + 4 * (UNTIL - SINCE) // most
            page = window.page()
            assert page == window.page(), "the same until its result is told"
            assert page.since is not None
            assert page.until is not None
            assert page.until - page.since <= most
            found = relay.page(page)
            got |= {each.id for each in found}
            window.take(result_of(found))
        assert window.gaps or not wanted_of(relay, asked, SINCE, UNTIL - relay.exclusive_until) - got


def test_progress_is_known_between_two_short_spans() -> None:
    window = Window(QUERIES["authors"], SINCE, UNTIL, manners=Manners(max_span=200, believes_empty=True))
    left: list[tuple[int, int] | None] = []
    while not window.is_done:
        window.page()
        window.take(result_of([]))
        left.append(window.remaining)
    assert None not in left[:-1]
    assert len(left) >= (UNTIL - SINCE) // 200


@pytest.mark.parametrize("seed", seeds(10))
def test_events_that_are_deleted_or_come_in_between_pages_do_no_harm(seed: int) -> None:
    """What was there all the time is had; the relay may be taken for an exclusive one, which costs a second more."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    relay = replace(random_relay(rng), cap=rng.choice((7, 20)), quarter_above_cap=False)
    asked = QUERIES["authors"]
    window, got, number = Window(asked, SINCE, UNTIL), set[bytes](), 10_000
    original = {each.id for each in relay.events}
    most = bound(relay, asked) * 2 + 500
    while not window.is_done:
        assert window.pages < most
        page = relay.page(window.page())
        got.update(each.id for each in page)
        window.take(result_of(page))
        if page and rng.random() < 0.5:
            # The oldest, which names the second to ask for again, is the one whose loss could mislead.
            relay.events.remove(min(page, key=lambda each: each.created_at) if rng.random() < 0.5 else rng.choice(page))
        if rng.random() < 0.3 and number < 10_200:
            number += 1
            relay.events.append(event(rng.randrange(SINCE, UNTIL), rng.choice(AUTHORS), 1, number))
    there = original & wanted_of(relay, asked, SINCE, UNTIL - relay.exclusive_until)
    assert window.gaps or not there - got


def test_an_inclusive_relay_whose_event_was_deleted_does_not_go_in_circles() -> None:
    """Asked for one second more, it answers with that second only, full; it is not an exclusive one after all."""
    author = AUTHORS[:1]
    asked = query(Subject.AUTHORS, author)
    window = Window(asked, SINCE, UNTIL, limit=5)
    window.take(PageResult(5, 1_500, 1_900))
    window.take(PageResult(5, 1_400, 1_499))  # the event at 1,500 is gone
    assert window.page().until == 1_501
    window.take(PageResult(5, 1_501, 1_501))  # others came in at 1,501 meanwhile
    assert window.page().until == 1_500
    window.take(PageResult(5, 1_400, 1_499))
    assert window.page().until == 1_400, "it goes on"


def test_an_exclusive_relay_is_found_out_by_the_second_that_it_leaves_out() -> None:
    rng = random.Random(1)
    relay = StoredEvents(rng, [event(at, AUTHORS[0]) for at in range(1_100, 1_130)], cap=10, exclusive_until=True)
    window = Window(QUERIES["authors"], SINCE, UNTIL)
    assert len(fetch(relay, window, 20)) == 30
    assert window.borders.excludes_until
    again = Window(QUERIES["authors"], SINCE, UNTIL, manners=Manners(excludes_until=True))
    assert len(fetch(relay, again, 20)) == 30
    assert again.pages < window.pages


def test_few_events_take_few_pages() -> None:
    """A tail over an idle quarter of an hour is one page when nothing happened, and two when something did."""
    rng = random.Random(1)
    for count, proofs, most in ((0, 0, 1), (1, 0, 2), (40, 0, 3), (40, CONTROLS, 2)):
        events = [event(1_100 + 7 * n, AUTHORS[n % 12]) for n in range(count)]
        window = Window(QUERIES["authors"], SINCE, UNTIL, manners=Manners(pages=proven("authors:any", proofs)))
        assert len(fetch(StoredEvents(rng, events), window, 10)) == count
        assert window.pages <= most
        assert (window.gaps, window.dense_seconds) == (0, 0)


def test_many_events_take_hardly_more_pages_than_they_fill() -> None:
    rng = random.Random(1)
    events = [event(rng.randrange(SINCE, SINCE + 100_000), rng.choice(AUTHORS), 1, n) for n in range(10_000)]
    window = Window(QUERIES["authors"], SINCE, SINCE + 100_000)
    assert len(fetch(StoredEvents(rng, events), window, 50)) == 10_000
    assert window.pages <= 27
    assert window.gaps == 0


def test_a_dense_second_is_taken_apart_by_kinds_or_by_authors() -> None:
    rng = random.Random(1)
    by_kind = [event(1_500, AUTHORS[n % 12], (0, 2, 3, 10_002)[n % 4], n) for n in range(400)]
    by_author = [event(1_500, AUTHORS[n % 12], 1, n) for n in range(400)]
    for asked, events in ((GLOBAL_QUERY, by_kind), (QUERIES["authors"], by_author)):
        window = Window(asked, SINCE, UNTIL)
        assert len(fetch(StoredEvents(rng, events, cap=150), window, 60)) == 400
        assert (window.gaps, window.dense_seconds) == (0, 1)


def test_a_second_that_cannot_be_taken_apart_is_a_gap() -> None:
    rng = random.Random(1)
    events = [event(1_500, AUTHORS[0], 1, n) for n in range(60)] + [event(1_400, AUTHORS[0])]
    window = Window(QUERIES["authors"], SINCE, UNTIL)
    assert len(fetch(StoredEvents(rng, events, cap=50), window, 60)) == 51
    assert (window.gaps, window.dense_seconds) == (1, 1)


@pytest.mark.parametrize(("at_once", "is_live"), [(3, False), (15, True)])
@pytest.mark.parametrize("seed", seeds(6))
def test_what_arrives_in_a_page_makes_no_full_page_look_smaller(seed: int, at_once: int, is_live: bool) -> None:
    """A relay that serves what is new under a page's id, too: a page has some more than the cap now and then.

    Many more, as from a slow one, show by what comes live.
    """
    print(f"seed {seed}")
    rng = random.Random(seed)
    members, second = [key(n) for n in range(60)], UNTIL - 40
    relay = BusyEvents(
        rng, cap=20, authors=tuple(members), now=UNTIL - 10, at_once=at_once, is_live=is_live, stops_after=40
    )
    kinds = sorted({0, 3, 10002})
    relay.events = [event(second, rng.choice(members), rng.choice(kinds), n) for n in range(600)]
    times = [rng.randint(SINCE, UNTIL) for _ in range(100)]
    relay.events += [event(at, rng.choice(members), rng.choice(kinds), 600 + n) for n, at in enumerate(times)]
    asked = query(Subject.PROFILES, members)
    held = wanted_of(relay, asked, SINCE, UNTIL - 10)
    window = Window(asked, SINCE, UNTIL, settled=UNTIL - 130)
    got = fetch(relay, window, 4_000)
    assert held <= got


def test_a_few_events_in_one_second_of_one_author_are_no_gap() -> None:
    """A thread posted at once is common; every relay hands out more than that in one page."""
    events = [event(1_500, AUTHORS[0], 1, n) for n in range(4)]
    window = Window(QUERIES["authors"], SINCE, UNTIL)
    assert len(fetch(StoredEvents(random.Random(1), events), window, 99)) == 4
    assert window.gaps == 0
    assert window.pages <= 3


def test_pages_ask_for_what_they_must_and_no_more() -> None:
    window = Window(QUERIES["authors"], SINCE, UNTIL, limit=77, max_members=5)
    asked: Counter[bytes] = Counter()
    for _ in range(3):
        page = window.page()
        assert (page.since, page.until, page.limit, page.kinds) == (SINCE, UNTIL, 77, None)
        asked.update(page.authors or ())
        window.take(PageResult(0))
    assert asked == Counter(AUTHORS)
    assert window.is_done


@pytest.mark.parametrize(("since", "until", "pages"), [(5, 4, 0), (5, 5, 1), (-100, 5, 1), (-100, -50, 0)])
def test_odd_spans(since: int, until: int, pages: int) -> None:
    window = Window(GLOBAL_QUERY, since, until)
    assert fetch(StoredEvents(random.Random(1), []), window, 2) == set()
    assert window.pages == pages


def test_an_empty_page_without_kinds_may_hide_older_events() -> None:
    """A registered user who gets many gift wraps would lose the mentions before them."""
    wraps = [event(1_900 - n // 5, key(n), 1059, n, USERS[:1]) for n in range(600)]
    mention = event(1_100, AUTHORS[0], 1, 0, USERS[:1])
    relay = StoredEvents(random.Random(1), [*wraps, mention], hidden_kinds=frozenset({4, 1059}))
    window = Window(QUERIES["mentions"], SINCE, UNTIL)
    assert mention.id in fetch(relay, window, 100) or window.gaps


@pytest.mark.parametrize("seed", seeds(30))
@pytest.mark.parametrize("name", ["authors", "mentions"])
def test_hidden_events_in_a_row_hide_no_others_in_parts_of_a_long_window(name: str, seed: int) -> None:
    """A relay counts them to its cap; a part of the time may seem to hold few events, or none."""
    rng = random.Random(seed)
    low, high = 10_000, 17_200
    shown = [
        event(rng.randrange(low, high), rng.choice(AUTHORS), rng.choice((1, 7, 9802, 30311)), n, USERS[:1])
        for n in range(rng.choice((20, 100, 300)))
    ]
    first = rng.randrange(low + 400, high)
    hidden = [event(first - n, rng.choice(AUTHORS), 4, n, USERS[:1]) for n in range(rng.choice((70, 150, 300)))]
    relay = StoredEvents(rng, [*shown, *hidden], cap=60, hidden_kinds=frozenset({4, 1059}))
    window = Window(QUERIES[name], low, high, manners=Manners(pages=PageKnowledge()))
    middle = rng.choice((13_600, 15_400, 16_300))
    lower = window.lower_part(low, middle - 1)
    window.give_up_below(middle)
    got = fetch(relay, window, 200) | fetch(relay, lower, 200)
    assert not {each.id for each in shown} - got
    assert window.pages + lower.pages <= 60


def test_checks_name_as_many_kinds_as_the_relay_takes_by_then() -> None:
    """It may be seen to take more while a window is gone through, and is not asked by ten kinds for ever."""

    def checks(allowed: int) -> int:
        window = Window(QUERIES["authors"], SINCE, UNTIL + 10_000, manners=Manners(max_kinds=10))
        window.allow_kinds(allowed)
        fetch(StoredEvents(random.Random(1), []), window, 99)
        return window.pages

    assert checks(200) < checks(10) == checks(0)


def test_those_put_first_are_asked_for_first_and_the_others_afterwards() -> None:
    people = [key(n) for n in range(100)]
    window = Window(query(Subject.AUTHORS, people), SINCE, UNTIL)
    window.put_first(set(people[::10]))
    assert window.page().authors == frozenset(people[::10])
    first = window.is_first
    window.take(PageResult(0))
    assert (first, window.is_first) == (True, False)
    assert window.page().authors == frozenset(people) - set(people[::10])
    assert window.remaining == (SINCE, UNTIL), "a former process need not know in which order"
    window.take(PageResult(0))
    assert window.is_done


def test_what_was_had_in_another_way_is_left_out_of_both_parts() -> None:
    people = [key(n) for n in range(100)]
    for first, had, asked in (
        (people[::10], (SINCE, UNTIL - 10), [(UNTIL - 9, UNTIL)] * 2),
        (people[::10], (SINCE + 10, UNTIL - 10), [(UNTIL - 9, UNTIL), (SINCE, SINCE + 9)] * 2),
        (people[::10], (SINCE, UNTIL), []),
    ):
        window, pages, firsts = Window(query(Subject.AUTHORS, people), SINCE, UNTIL), [], []
        window.put_first(set(first))
        window.leave_out(*had)
        while not window.is_done:
            page = window.page()
            pages.append((page.since, page.until))
            firsts.append(window.is_first)
            assert (page.authors == frozenset(first)) == window.is_first
            window.take(PageResult(0))
        assert pages == asked
        assert firsts == [True] * (len(asked) // 2) + [False] * (len(asked) // 2)
        assert not window.is_first


def test_few_others_come_along_with_those_put_first() -> None:
    people = [key(n) for n in range(slices.MAX_COMPANIONS + 1)]
    window = Window(query(Subject.AUTHORS, people), SINCE, UNTIL)
    window.put_first({people[0], key(10_000)})
    assert window.is_first
    assert window.page().authors == frozenset(people)
    other = Window(query(Subject.AUTHORS, people), SINCE, UNTIL)
    other.put_first({key(10_000)})
    assert not other.is_first


def test_page_of_skipped_undated_events_is_bisected_down_to_a_second() -> None:
    """Else everything older than a full page of them would be taken for had."""
    at, cap = 1_234, 3
    window, asked = Window(GLOBAL_QUERY, SINCE, UNTIL), set()
    while not window.is_done:
        page = window.page()
        assert page.since is not None
        assert page.until is not None
        asked.add((page.since, page.until))
        if page.since <= at <= page.until:
            window.take(PageResult(cap, skipped=((page.since, page.until),), undated=cap))
        else:
            window.take(PageResult(0))
    assert (at, at) in asked
    assert window.pages < 60
    assert (slices.Gap.OVERSIZED, at, at) in [(each.gap, each.low, each.high) for each in window.missing]


def test_full_page_of_malformed_undated_events_hides_nothing_older() -> None:
    """They lie in one second, and what is well-formed in another."""
    at, older, cap = 1_800, 1_234, 500
    window, had = Window(GLOBAL_QUERY, SINCE, UNTIL), set()
    while not window.is_done:
        page = window.page()
        assert page.since is not None
        assert page.until is not None
        if page.since <= at <= page.until:
            window.take(PageResult(cap, malformed=((page.since, page.until),), undated=cap))
        elif page.since <= older <= page.until:
            had.add(older)
            window.take(PageResult(1, older, older, times=(older,)))
        else:
            window.take(PageResult(0))
    assert had == {older}
    assert (slices.Gap.MALFORMED, at, at) in [(each.gap, each.low, each.high) for each in window.missing]


def test_page_of_few_malformed_undated_events_is_not_divided() -> None:
    """Each of thousands would take a dozen requests."""
    window = Window(GLOBAL_QUERY, SINCE, UNTIL)
    window.page()
    window.take(PageResult(2, malformed=((SINCE, UNTIL),), undated=2))
    assert window.is_done
    assert [(each.gap, each.low, each.high) for each in window.missing] == [(slices.Gap.MALFORMED, SINCE, UNTIL)]


def test_part_of_a_window_shares_nothing_that_changes() -> None:
    """Their pages come in any order."""
    window = Window(GLOBAL_QUERY, SINCE, UNTIL)
    lower = window.lower_part(SINCE, SINCE + 100)
    mutable = (list, dict, set, Counter, Borders, EmptyPages, MissingRecord, SliceStack)
    shared = [
        name
        for name in Pager.__slots__
        if isinstance(getattr(window, name), mutable) and getattr(window, name) is getattr(lower, name)
    ]
    assert set(shared) <= {"_known_gaps"}


@pytest.mark.parametrize("name", ["authors", "mentions"])
def test_lists_of_kinds_that_are_left_grow_with_what_the_relay_takes(name: str) -> None:
    """The page that is under way stays as it is, and nothing is asked for twice or left out."""
    events = [
        event(1_500 + n % 400, AUTHORS[n % 12], kind, n, USERS[:1]) for n, kind in enumerate(sorted(LISTED_KINDS))
    ]
    relay = StoredEvents(random.Random(1), events)
    window = Window(QUERIES[name], SINCE, UNTIL, manners=Manners(max_kinds=10, refuses_kindless=True))
    first = window.page()
    window.allow_kinds(320)
    assert window.page() == first
    assert fetch(relay, window, 20) == {each.id for each in events}


def test_listed_kinds_are_asked_for_before_those_of_no_list() -> None:
    manners = Manners(max_kinds=320, has_holes=True, names_all=True)
    window = Window(QUERIES["mentions"], SINCE, UNTIL, manners=manners)
    for kinds in (LISTED_KINDS - HIDDEN_KINDS, HIDDEN_KINDS):
        assert window.page().kinds == kinds
        window.take(PageResult(0))


@pytest.mark.parametrize("has_left_out", [False, True])
def test_short_empty_page_is_checked_where_something_was_left_out(has_left_out: bool) -> None:
    """What a relay hides may have filled the page, so that it shows nothing of the rest."""
    manners = Manners(max_kinds=320, answers_kindless=True, withholds=True, gives_shown=True)
    window = Window(QUERIES["mentions"], UNTIL - 100, UNTIL, manners=manners)
    assert window.page().kinds is None
    window.take(PageResult(0, has_left_out=has_left_out))
    assert window.is_done != has_left_out
    assert not has_left_out or window.page().kinds == LISTED_KINDS
