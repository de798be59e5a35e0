"""The walk of an audit against relays that may do anything with a page: all is had, or what is not is unproven."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from pipeline.audit.walk import MAX_PAGES, Aspect, FormHabits, Kindless, Question, Walk
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from tests.simulation.naive_relay import Border, Chosen, NaiveRelay, Sent
from tests.support.plans import event, key
from tests.support.seeds import seeds
from tests.support.stored_events import KindFirstEvents, ShortListEvents, StoredEvents

SINCE, UNTIL = 10_000, 20_000
ALICE, BOB, USER = key(1), key(2), key(3)
AUTHOR = Question(Aspect.AUTHOR, ALICE, SINCE, UNTIL)
MENTION = Question(Aspect.MENTION, USER, SINCE, UNTIL)
LIMIT = 500

Answer = Callable[[Filter], Sequence[Event]]


def go(question: Question, answer: Answer, knowledge: FormHabits | None = None) -> Walk:
    walk = Walk(question, FormHabits() if knowledge is None else knowledge)
    while walk.part is not None:
        asked = walk.filter()
        page = answer(replace(asked, limit=LIMIT))
        walk.take(len(page), [each for each in page if asked.matches(each)])
    return walk


def notes(count: int, *, at: int | None = None, by: bytes = ALICE, kind: int = 1) -> list[Event]:
    return [event(SINCE + 7 * n if at is None else at, by, kind, n, [USER]) for n in range(count)]


def ids(events: Sequence[Event]) -> set[bytes]:
    return {each.id for each in events}


@pytest.mark.parametrize("question", [AUTHOR, MENTION], ids=lambda each: each.subject.value)
@pytest.mark.parametrize("seed", seeds(25))
def test_whatever_a_walk_does_not_get_is_unproven(question: Question, seed: int) -> None:
    rng = random.Random(seed)
    cap = rng.choice((7, 20, 100, 500))
    relay = NaiveRelay(
        rng, [], {(kinds, tags): cap for kinds in (False, True) for tags in (False, True)},
        rng.choice(list(Chosen)), rng.choice(list(Sent)),
        rng.choice((Border.INCLUDED, Border.EXCLUDED)), rng.choice((Border.INCLUDED, Border.EXCLUDED)),
    )  # fmt: skip
    knowledge = FormHabits()
    for number in range(4):
        times = [rng.randrange(SINCE - 500, UNTIL + 500) for _ in range(rng.choice((0, 3, 30, 150)))]
        times += [rng.randrange(SINCE, UNTIL)] * rng.choice((0, 0, 30))
        rng.shuffle(times)
        kinds = rng.choice(((1,), (1, 7, 30_023, 4, 1059, 60_000)))
        by = ALICE if rng.random() < 0.8 else BOB
        relay.inserted = [
            event(at, by, rng.choice(kinds), 1_000 * number + n, [USER] if rng.random() < 0.7 else [])
            for n, at in enumerate(times)
        ]
        walk = go(question, relay.page, knowledge)
        wanted = [each for each in relay.inserted if question.selects(each)]
        assert set(walk.events) <= ids(wanted)
        missed = [each for each in wanted if each.id not in walk.events]
        assert all(any(part.since <= each.created_at <= part.until for part in walk.unproven) for each in missed)
        assert walk.pages <= MAX_PAGES


def test_what_fits_a_page_takes_few_pages_and_then_one() -> None:
    relay, knowledge = StoredEvents(random.Random(1), notes(40)), FormHabits()
    first = go(AUTHOR, relay.page, knowledge)
    assert (len(first.events), first.unproven, knowledge.kindless) == (40, [], Kindless.WHOLE)
    assert first.pages == 6, "the whole and its halves, and the same by name"
    relay.events = notes(30)
    assert go(AUTHOR, relay.page, knowledge).pages == 1


def test_capped_pages_are_halved_until_none_can_be_cut_off() -> None:
    relay = StoredEvents(random.Random(1), notes(900), cap=100)
    walk = go(AUTHOR, relay.page)
    assert set(walk.events) == ids(relay.events)
    assert not walk.unproven


def test_kindless_answers_with_holes_are_replaced_by_kinds() -> None:
    rng = random.Random(1)
    mentions = [event(SINCE + n, BOB, kind, n, [USER]) for n, kind in enumerate([1, 7, 9735, 1111, 30_023] * 20)]
    relay = KindFirstEvents(rng, mentions)
    knowledge = FormHabits()
    walk = go(MENTION, relay.page, knowledge)
    assert (set(walk.events), walk.unproven) == (ids(mentions), [])
    assert knowledge.kindless is Kindless.HOLES
    assert set(go(MENTION, relay.page, knowledge).events) == ids(mentions)


def test_no_filter_names_more_kinds_than_careful_stores_answer() -> None:
    relay = ShortListEvents(random.Random(1), notes(10), most_kinds=10)
    assert set(go(AUTHOR, relay.page, FormHabits(Kindless.HOLES)).events) == ids(relay.events)


def test_relay_that_ignores_times_leaves_the_walk_unproven_after_few_pages() -> None:
    relay = NaiveRelay(random.Random(1), notes(900), since=Border.IGNORED, until=Border.IGNORED)
    walk = go(AUTHOR, relay.page)
    assert {each.why for each in walk.unproven} == {"most of a page was not asked for"}
    assert walk.pages < 50


def test_dense_second_of_one_kind_is_unproven() -> None:
    relay = StoredEvents(random.Random(1), notes(30, at=SINCE + 50), cap=10)
    walk = go(AUTHOR, relay.page)
    assert any(each.since <= SINCE + 50 <= each.until for each in walk.unproven)
    assert all(each.since >= SINCE + 49 and each.until <= SINCE + 51 for each in walk.unproven)


def test_dense_second_of_many_kinds_is_divided_by_kinds() -> None:
    events = [event(SINCE + 50, ALICE, kind, kind) for kind in (0, 1, 3, 5, 6, 7, 16, 1984, 9735, 10_002, 30_023)]
    relay = StoredEvents(random.Random(1), events, cap=8)
    walk = go(AUTHOR, relay.page)
    assert set(walk.events) == ids(events)


def test_refused_page_is_unproven_and_others_count() -> None:
    walk = Walk(AUTHOR, FormHabits(Kindless.WHOLE))
    walk.refuse("restricted: no")
    assert walk.part is None
    assert [(each.since, each.until, each.why) for each in walk.unproven] == [(SINCE, UNTIL, "restricted: no")]


def test_refusal_for_lack_of_kinds_is_followed_by_kinds() -> None:
    knowledge = FormHabits()
    walk = Walk(AUTHOR, knowledge)
    walk.refuse("blocked: can't handle empty filters", lacks_kinds=True)
    assert walk.part is not None
    assert walk.part.kinds is not None
    assert not walk.unproven
    assert knowledge.kindless is Kindless.HOLES


def test_what_does_not_match_the_question_is_no_part_of_the_answer() -> None:
    walk = Walk(AUTHOR, FormHabits(Kindless.WHOLE))
    walk.take(3, [event(SINCE, BOB), event(SINCE - 1, ALICE), event(SINCE, ALICE)])
    assert [each.pubkey for each in walk.events.values()] == [ALICE]
    assert all(each.created_at >= SINCE for each in walk.events.values())


def test_abandoned_walk_says_what_it_did_not_come_to() -> None:
    walk = Walk(AUTHOR, FormHabits())
    walk.abandon("restricted: no")
    assert [(each.since, each.until) for each in walk.unproven] == [(SINCE, UNTIL)]
    walk.abandon("again")
    assert len(walk.unproven) == 1
