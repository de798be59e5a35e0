"""What is made up for after absences: when, in which order, and what is still owed. Most of it in simulated time."""

import random
from dataclasses import replace
from functools import partial

import pytest

from pipeline.crawl.dial_queue import MAX_DIALS
from pipeline.crawl.sync.absences import (
    MAX_PLACES,
    RESWEEP_EVERY_S,
    WRAPS_DATED_BACK_S,
    WRAPS_EVERY_S,
    Absences,
    Places,
)
from pipeline.crawl.sync.forms.forms import FormVerdict, withheld_name
from pipeline.crawl.sync.store_identity import SAVE_EVERY_S, StoreIdentity
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GIFT_WRAP, RELAY_LIST
from pipeline.relay.limits import RelayLimits
from pipeline.relay.subscription import PageEnded
from pipeline.store.cursors import Cursor
from tests.simulation.simulation import START, Simulation, closing, cooperative
from tests.support.plans import event, key

ALICE, BOB, CAROL = key(1), key(2), key(3)
HOUR, DAY = 3_600, 86_400


def crawl(*, limits: RelayLimits | None = None) -> Simulation:
    sim = Simulation(random.Random(1), limits=limits)
    sim.want([ALICE, BOB], [CAROL])
    return sim


def come_in(sim: Simulation, late: Event) -> None:
    """An event comes to the relay while we are away."""
    sim.relay.store.events.append(late)
    sim.relay.stored_at[late.id] = sim.wall


def away(sim: Simulation, at: float, seconds: float, *late: Event) -> None:
    """The relay is away from `at` on, and takes these events in."""
    sim.at(at, sim.disconnect)
    for each in late:
        sim.at(at + seconds / 2, partial(come_in, sim, each))
    sim.at(at + seconds, sim.connect)


def is_tail(cursor: Cursor) -> bool:
    return cursor.query.startswith(("authors/", "mentions/", "global/"))


def wrap_pages(sim: Simulation) -> list[Filter]:
    return [page for _, (page, *_) in sim.relay.requests if page.kinds == frozenset({GIFT_WRAP})]


def reswept_from(sim: Simulation) -> list[int]:
    """From when on, before the start, pages for authors reach that are no tails, nor of the newer part of a sweep."""
    return [
        START - page.since
        for _, (page, *_) in sim.relay.requests
        if page.authors and page.limit and page.since is not None and page.since < START - 2.5 * DAY
    ]


def test_what_came_while_we_were_away_is_had_however_it_is_dated() -> None:
    sim = crawl()
    sim.connect()
    late = [event(START - age, ALICE, number=age) for age in (HOUR, 10 * HOUR, 2 * DAY)]
    away(sim, 2 * HOUR, 8, *late)
    sim.run_until(2 * HOUR + 8 + 120)
    assert {each.id for each in late} <= sim.delivered


def test_gift_wraps_are_asked_for_at_once_then_not_for_ten_minutes() -> None:
    sim = crawl()
    sim.connect()
    sim.run_until(HOUR)
    sim.relay.requests.clear()
    wrap = event(START - 40 * HOUR, key(9), kind=GIFT_WRAP, mentions=[CAROL])
    away(sim, 2 * HOUR, 8, wrap)
    for number in range(5):
        away(sim, 2 * HOUR + 60 * (number + 1), 8)
    sim.run_until(2 * HOUR + 10)
    assert wrap.id in sim.delivered
    (first,) = wrap_pages(sim)
    assert first.tags == (("p", frozenset({CAROL.hex()})),)
    assert first.since is not None
    assert abs(first.since - (START + 2 * HOUR - WRAPS_DATED_BACK_S)) <= 60
    sim.run_until(2 * HOUR + WRAPS_EVERY_S - 10)
    assert len(wrap_pages(sim)) == 1
    sim.run_until(2 * HOUR + WRAPS_EVERY_S + 60)
    assert len(wrap_pages(sim)) == 2


def test_gift_wraps_are_not_asked_for_where_that_is_refused() -> None:
    sim = crawl(limits=RelayLimits(refused_kinds=(GIFT_WRAP,)))
    sim.connect()
    away(sim, 2 * HOUR, 8)
    sim.run_until(2 * HOUR + 60)
    assert wrap_pages(sim) == []


def test_gift_wraps_are_not_asked_for_where_they_are_withheld() -> None:
    sim = crawl()
    sim.crawl.audit.knowledge.note(withheld_name(GIFT_WRAP), FormVerdict.WITHHELD, START, 1)
    sim.connect()
    away(sim, 2 * HOUR, 8)
    sim.run_until(2 * HOUR + 60)
    assert wrap_pages(sim) == []


def test_last_days_are_swept_hourly_however_often_the_relay_is_lost() -> None:
    sim = crawl()
    sim.connect()
    sim.run_until(2 * HOUR)
    sim.relay.requests.clear()
    for number in range(40):
        away(sim, 2 * HOUR + 90 * number, 8)
    sim.run_until(3 * HOUR - 60)
    assert len(set(reswept_from(sim))) == 1
    assert sim.crawl.absences.since, "what came after its beginning is owed"
    late = event(START - 20 * HOUR, ALICE, number=7)
    come_in(sim, late)
    sim.disconnect()
    sim.connect()
    sim.run_until(3 * HOUR + 300)
    assert late.id in sim.delivered
    assert len(set(reswept_from(sim))) == 2
    assert not sim.crawl.absences.since


def test_a_first_connection_is_no_absence_and_a_new_process_is_one() -> None:
    sim = crawl()
    sim.connect()
    sim.run_until(HOUR)
    assert not sim.crawl.absences.since
    assert wrap_pages(sim) == []
    sim.disconnect()
    late = event(START - 30 * HOUR, BOB, number=3)
    come_in(sim, late)
    sim.restart()
    sim.want([ALICE, BOB], [CAROL])
    sim.connect()
    sim.run_until(HOUR + 120)
    assert late.id in sim.delivered
    assert len(wrap_pages(sim)) == 1


def test_an_absence_of_weeks_is_made_up_for_from_days_before_it() -> None:
    sim = crawl()
    sim.connect()
    late = event(START - 2 * DAY, ALICE, number=1)
    away(sim, 2 * HOUR, 20 * DAY, late)
    sim.run_until(2 * HOUR + 20 * DAY + 120)
    assert late.id in sim.delivered


def test_absence_not_made_up_for_is_owed_by_the_next_process() -> None:
    sim = crawl()
    sim.connect()
    sim.run_until(2 * HOUR)
    sim.disconnect()
    late = event(START - 2 * DAY, ALICE, number=1)
    come_in(sim, late)
    sim.run_until(20 * DAY)
    busy = closing("error: busy", live=False)
    sim.relay.mood = lambda name, filters: busy(name, filters) if (filters[0].since or START) < START else None
    sim.connect()
    sim.run_until(20 * DAY + HOUR)
    assert late.id not in sim.delivered
    owed = sim.crawl.absences.since
    assert owed < START + DAY < min(cursor.complete_until for cursor in sim.cursors.values() if is_tail(cursor))
    sim.restart()
    sim.crawl.absences.recall(owed)
    sim.relay.mood = cooperative
    sim.connect()
    sim.run_until(20 * DAY + 2 * HOUR)
    assert late.id in sim.delivered
    assert not sim.crawl.absences.since


def test_without_resweeps_nothing_stays_owed() -> None:
    sim = crawl()
    sim.settings = replace(sim.settings, resweep_every=0)
    sim.restart()
    sim.connect()
    sim.run_until(HOUR)
    away(sim, 2 * HOUR, 8)
    sim.run_until(3 * HOUR)
    assert not sim.crawl.absences.since


def test_a_relay_with_another_store_is_swept_again() -> None:
    """Told by twenty events that it gave and does not have any more."""
    identity = StoreIdentity()
    given = [event(START - n, ALICE, number=n) for n in range(StoreIdentity.SAMPLE)]
    for each in given[:-1]:
        identity.note(each)
    identity.note(event(START, ALICE, kind=0))
    sim = crawl()
    sim.connect()
    identity.on_connected()
    assert sim.session is not None
    identity.open(sim.session, 0.0)
    assert not sim.session.outgoing, "nineteen say too little, and replaceable events nothing"
    identity.note(given[-1])
    identity.on_connected()
    identity.open(sim.session, 0.0)
    assert len(sim.session.outgoing) == 1

    def ended(came: int) -> PageEnded:
        return PageEnded(StoreIdentity.KEY, None, "", came, None, None, ids=frozenset(each.id for each in given[:came]))

    assert not identity.is_other(ended(20))
    assert not identity.is_other(ended(10))
    assert identity.is_other(ended(9))
    assert not identity.is_other(ended(0)), "it is told once"


def test_a_relay_that_gives_few_events_again_and_again_has_no_sample() -> None:
    few = [event(START - n, ALICE, number=n) for n in range(StoreIdentity.SAMPLE - 1)]
    identity, recalled = StoreIdentity(), StoreIdentity()
    for each in (*few, *few):
        identity.note(each)
    recalled.recall([each.id for each in (*few, *few)])
    for one in (identity, recalled):
        assert not one.take_sample(0.0)
        one.on_connected()
        sim = crawl()
        sim.connect()
        assert sim.session is not None
        one.open(sim.session, 0.0)
        assert not sim.session.outgoing


def test_sample_outlives_the_process_and_is_written_seldom() -> None:
    identity = StoreIdentity()
    given = [event(START - n, ALICE, number=n) for n in range(3 * StoreIdentity.SAMPLE)]
    assert identity.take_sample(0.0) is None
    for each in given[: StoreIdentity.SAMPLE]:
        assert identity.take_sample(0.0) is None
        identity.note(each)
    sample = identity.take_sample(0.0)
    assert sample == tuple(each.id for each in given[: StoreIdentity.SAMPLE])
    for each in given:
        identity.note(each)
    assert identity.take_sample(SAVE_EVERY_S - 1.0) is None
    newer = identity.take_sample(SAVE_EVERY_S)
    assert newer == tuple(each.id for each in given[-StoreIdentity.SAMPLE :])
    later = StoreIdentity()
    later.recall(newer)
    assert later.take_sample(0.0) is None
    later.on_connected()
    assert later.is_other(PageEnded(StoreIdentity.KEY, None, "", 0, None, None))
    assert later.take_sample(0.0) == (), "that of the other store is forgotten at once"


def test_relay_back_with_another_store_after_a_restart_is_swept_for_days() -> None:
    sim = crawl()
    given = [event(START - 60 * n - 60, ALICE, number=n) for n in range(StoreIdentity.SAMPLE)]
    for each in given:
        come_in(sim, each)
    sim.connect()
    sim.run_until(2 * HOUR)
    sample = sim.crawl.identity.take_sample(0.0)
    assert sample is not None
    sim.restart()
    sim.crawl.identity.recall(sample)
    sim.relay.store.events.clear()
    other = event(START - 4 * DAY, ALICE, number=99)
    come_in(sim, other)
    sim.connect()
    sim.run_until(4 * HOUR)
    assert other.id in sim.delivered


def test_places_go_to_the_longest_absent_first_and_are_never_more() -> None:
    places = Places(2)
    assert places.take(1, 100)
    assert places.take(2, 100)
    assert not places.take(3, 100)
    assert not places.take(4, 50)
    places.leave(1)
    assert not places.take(3, 100), "one waits that was away for longer"
    assert places.take(4, 50)
    assert places.take(2, 100), "whoever has one keeps it"
    places.leave(2)
    assert places.take(3, 100)
    places.leave(9)


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_absences_at_once_take_no_more_than_their_places(seed: int) -> None:
    rng, places = random.Random(seed), Places()
    waiting, held = {number: rng.randrange(1_000) for number in range(1_000)}, set[int]()
    while waiting:
        for number, since in list(waiting.items()):
            if places.take(number, since):
                del waiting[number]
                held.add(number)
        assert 0 < len(held) <= MAX_PLACES <= MAX_DIALS
        done = rng.sample(sorted(held), rng.randint(1, len(held)))
        for number in done:
            held.discard(number)
            places.leave(number)


def test_query_is_owed_until_a_resweep_after_the_last_absence_completes() -> None:
    absences = Absences(1, Places())
    assert not absences.is_owed(None)
    absences.on_back(11_000, 12_000)
    assert absences.is_owed(None)
    assert absences.is_owed(11_999)
    assert not absences.is_owed(12_000)
    absences.on_begun("authors/", 12_010)
    absences.on_back(12_020, 12_030)
    assert absences.is_owed(12_010), "what the one under way has passed"
    assert absences.wait_s("authors/", 12_010, 12_030) == RESWEEP_EVERY_S - 20
    assert absences.wait_s("authors/", 99_999, 12_030) == 0, "a clock was wrong"
    assert absences.wait_s("mentions/", None, 12_030) == 0
    assert (absences.since, absences.back_at) == (11_000, 12_030)
    absences.settle()
    assert not absences.is_owed(None)


def test_relay_lists_are_fetched_once_however_old_where_that_is_wanted() -> None:
    """All else comes first, and those who are wanted later are fetched alone."""
    sim = crawl()
    old = event(START - 900 * DAY, ALICE, kind=RELAY_LIST)
    come_in(sim, old)
    come_in(sim, event(START - 800 * DAY, ALICE, kind=1))
    sim.connect()
    sim.run_until(HOUR)
    assert old.id not in sim.delivered, "this relay is not asked for lists"
    sim.crawl.fetches_lists = True
    sim.want([ALICE, BOB], [CAROL])
    sim.run_until(2 * HOUR)
    assert old.id in sim.delivered

    def asked() -> list[Filter]:
        return [page for _, (page, *_) in sim.relay.requests if page.kinds == frozenset({RELAY_LIST}) and page.authors]

    before = len(asked())
    assert asked()[0].since == 0
    sim.disconnect()
    sim.connect()
    sim.run_until(30 * HOUR)
    assert len(asked()) == before
