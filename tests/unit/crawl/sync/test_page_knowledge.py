"""What one window learns of a relay's pages serves all others at once, and costs few requests."""

import random

import pytest

from pipeline.crawl.sync.asked_kinds import LISTED_KINDS
from pipeline.crawl.sync.paging.kind_lists import USUAL_KINDS
from pipeline.crawl.sync.paging.page_knowledge import CONTROL_EVERY, CONTROLS, MAX_CONTROL_EVERY, PageKnowledge
from pipeline.crawl.sync.paging.slices import Gap, Manners, PageResult
from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.query import Subject
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from tests.simulation.naive_relay import result_of
from tests.support.plans import event, key, query

SINCE, UNTIL = 100_000, 200_000
FORM = "authors:any"
PEOPLE = [[key(n) for n in range(4)], [key(10 + n) for n in range(4)]]
QUERIES = [query(Subject.AUTHORS, people) for people in PEOPLE]


def notes(people: list[bytes], count: int) -> list[Event]:
    rng = random.Random(count)
    return [event(rng.randrange(SINCE + 9_000, UNTIL), rng.choice(people), 1, number) for number in range(count)]


def newest(events: list[Event], page: Filter, cap: int = 500) -> list[Event]:
    return sorted((each for each in events if page.matches(each)), key=lambda each: -each.created_at)[:cap]


def test_pages_are_controlled_ever_more_rarely() -> None:
    known = PageKnowledge()
    for _ in range(CONTROLS):
        assert known.wants_control(FORM, 500)
        known.note_size(FORM, 500)
        known.prove(FORM)
    asked = [number for number in range(1, 1_000) if known.wants_control(FORM, 500)]
    assert asked[:3] == [CONTROL_EVERY, 3 * CONTROL_EVERY, 7 * CONTROL_EVERY]
    assert asked[-1] - asked[-2] <= MAX_CONTROL_EVERY
    assert known.wants_control("mentions:any", 500), "each form by itself"
    known.disprove(FORM)
    assert (known.proofs(FORM), known.failures(FORM)) == (0, 1)
    assert known.wants_control(FORM, 500)
    assert not known.wants_control(FORM, 100), "hardly one that was cut off"


def test_control_that_nobody_answers_is_asked_for_again() -> None:
    """Its page was not cut off, or the window that asked for it is gone."""
    known = PageKnowledge()
    asked = [number for number in range(50) if known.wants_control(FORM, 500)]
    assert asked[:CONTROLS] == list(range(CONTROLS))
    assert CONTROLS < len(asked) <= CONTROLS + 50 // CONTROL_EVERY


def test_windows_side_by_side_need_no_controls_each() -> None:
    """A relay of many chunks would be asked for the same proof by each of them."""
    events = [*notes(PEOPLE[0], 3_000), *notes(PEOPLE[1], 3_000)]
    manners = Manners()
    windows = [Window(each, SINCE, UNTIL, manners=manners) for each in QUERIES]
    got: set[bytes] = set()
    while any(not window.is_done for window in windows):
        for window in windows:
            if not window.is_done:
                page = newest(events, window.page())
                got |= {each.id for each in page}
                window.take(result_of(window.page(), page))
    assert got == {each.id for each in events}
    # Twelve full pages, two that show the end, its check, and few controls.
    assert sum(window.pages for window in windows) <= 12 + 2 + 2 + 2 + CONTROLS


def test_order_that_one_window_disproves_is_believed_by_no_other() -> None:
    """What comes sorted was not chosen by time: the other window had believed that, and begins again."""
    rng = random.Random(3)
    events = [*notes(PEOPLE[0], 300), *notes(PEOPLE[1], 300)]
    rng.shuffle(events)

    def sorted_late(page: Filter) -> list[Event]:
        return sorted([each for each in events if page.matches(each)][:30], key=lambda each: -each.created_at)

    known = PageKnowledge()
    first, second = (Window(each, SINCE, UNTIL, manners=Manners(pages=known)) for each in QUERIES)
    got: set[bytes] = set()

    def ask(window: Window) -> None:
        page = sorted_late(window.page())
        got.update(each.id for each in page)
        window.take(result_of(window.page(), page))

    for _ in range(CONTROLS):
        known.prove(FORM)
    known.note_size(FORM, 30)
    ask(second)
    known.disprove(FORM)
    while not (first.is_done and second.is_done):
        for window in (first, second):
            if not window.is_done:
                ask(window)
    assert got == {each.id for each in events}


def test_end_of_a_long_span_takes_one_page_and_one_check() -> None:
    """The page that has nothing but the second seen before shows as much as an empty one below it would."""
    events, known = notes(PEOPLE[0], 100), proven()
    known.note_size(FORM, 500)
    window, asked = Window(QUERIES[0], SINCE, UNTIL, manners=Manners(pages=known)), list[Filter]()
    while not window.is_done:
        asked.append(window.page())
        window.take(result_of(window.page(), newest(events, window.page())))
    assert [len(page.kinds or ()) for page in asked] == [0, 0, len(LISTED_KINDS)]
    assert asked[2].until == min(each.created_at for each in events) - 1


@pytest.mark.parametrize(("most", "checks"), [(320, [(181,), (181,)]), (100, [(10, 71, 100), (10,)])])
def test_form_is_checked_in_full_once_where_that_takes_several_requests(
    most: int, checks: list[tuple[int, ...]]
) -> None:
    known = PageKnowledge()
    for check in checks:
        window = Window(QUERIES[0], SINCE, UNTIL, manners=Manners(pages=known, max_kinds=most))
        window.take(PageResult(0))
        for kinds in check:
            assert len(window.page().kinds or ()) == kinds
            window.take(PageResult(0))
        assert window.is_done
    assert known.checked == {FORM}


def test_rest_of_all_kinds_is_asked_for_where_the_usual_ones_were_left_out() -> None:
    known = PageKnowledge(checked={FORM})
    window = Window(QUERIES[0], SINCE, UNTIL, manners=Manners(pages=known, max_kinds=100, answers_kindless=True))
    window.take(PageResult(0))
    assert window.page().kinds == USUAL_KINDS
    window.take(PageResult(1, SINCE, SINCE, times=(SINCE,)))
    asked = [window.page().kinds or frozenset()]
    window.take(PageResult(0))
    asked.append(window.page().kinds or frozenset())
    assert asked[0] | asked[1] == LISTED_KINDS - USUAL_KINDS


def test_refused_check_of_all_kinds_is_made_with_the_usual_ones() -> None:
    window = Window(QUERIES[0], SINCE, UNTIL)
    window.take(PageResult(0))
    window.drop_optional()
    assert window.page().kinds == USUAL_KINDS
    window.drop_optional()
    assert window.is_done
    assert {each.gap for each in window.missing} == {Gap.UNCHECKED}


def proven() -> PageKnowledge:
    known = PageKnowledge()
    for _ in range(CONTROLS):
        known.prove(FORM)
    return known
