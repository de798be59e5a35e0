"""Gaps that no other sweep goes through are asked for again, and close once the relay gives what it holds."""

import random
from dataclasses import dataclass

import pytest

from pipeline.crawl.sync.gap_retries import DAY_S, MAX_A_DAY
from pipeline.crawl.sync.paging.slices import Gap
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, NegError, RelayMessage
from tests.simulation.simulation import START, Simulation
from tests.support.plans import event, key
from tests.support.stored_events import KindFirstEvents

AUTHORS = [key(n) for n in range(5)]
USERS = [key(100 + n) for n in range(5)]
OLD = START - 20 * DAY_S
UNLISTED = (27, 31_337, 40_000, 65_535)


def asked(sim: Simulation, low: int, high: int) -> list[Filter]:
    """The pages over exactly this time."""
    return [each for _, (each, *_) in sim.relay.requests if (each.since, each.until) == (low, high)]


def simulation() -> Simulation:
    sim = Simulation(random.Random(1))
    sim.want(AUTHORS, USERS)
    sim.connect()
    sim.run_until(60)
    return sim


def test_old_gap_closes_once_the_relay_gives_what_it_holds() -> None:
    sim = simulation()
    old = event(OLD, AUTHORS[0], 1, 1)
    sim.relay.publish(old, OLD)
    sim.crawl.gaps.open("authors/", OLD, OLD, Gap.DENSE_SECOND)
    sim.run_until(300)
    assert not list(sim.crawl.gaps)
    assert old.id in sim.delivered
    assert len(asked(sim, OLD, OLD)) == 1


def test_gap_that_is_found_again_is_tried_once_a_day() -> None:
    sim = simulation()
    sim.relay.neg_mood = lambda _, subscription: [NegError(subscription, "blocked: no", "blocked")]
    for number in range(700):
        sim.relay.publish(event(OLD, AUTHORS[0], 1, number), OLD)
    sim.crawl.gaps.open("authors/", OLD, OLD, Gap.DENSE_SECOND)
    (before,) = sim.crawl.gaps
    sim.run_until(0.5 * DAY_S)
    pages = len(asked(sim, OLD, OLD))
    sim.run_until(0.9 * DAY_S)
    assert len(asked(sim, OLD, OLD)) == pages > 0
    sim.run_until(1.5 * DAY_S)
    assert len(asked(sim, OLD, OLD)) == 2 * pages
    assert list(sim.crawl.gaps) == [before]


def test_tries_of_a_day_are_bounded_and_one_after_the_other() -> None:
    sim = simulation()
    for number in range(3 * MAX_A_DAY):
        sim.crawl.gaps.open("authors/", OLD + 10 * number, OLD + 10 * number, Gap.DENSE_SECOND)
    sim.run_until(3_600)
    assert len(sim.crawl.gaps) == 2 * MAX_A_DAY
    sim.run_until(3 * DAY_S)
    assert not list(sim.crawl.gaps)


@pytest.mark.parametrize("reason", [Gap.WITHHELD, Gap.KINDS_REFUSED, Gap.OVERSIZED])
def test_what_comes_back_whatever_is_asked_is_not_tried(reason: Gap) -> None:
    sim = simulation()
    sim.crawl.gaps.open("authors/", OLD, OLD, reason)
    sim.run_until(DAY_S)
    assert not asked(sim, OLD, OLD)
    assert len(sim.crawl.gaps) == 1


def test_refused_try_is_left_until_another_day() -> None:
    sim = simulation()

    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        is_try = filters[0].since == OLD
        return [Closed(subscription, "error: too old", "error")] if is_try else None

    sim.relay.mood = mood
    sim.crawl.gaps.open("authors/", OLD, OLD, Gap.DENSE_SECOND)
    sim.run_until(DAY_S // 2)
    assert len(asked(sim, OLD, OLD)) == 2
    assert len(sim.crawl.gaps) == 1
    sim.relay.mood = lambda _, __: None
    sim.run_until(1.5 * DAY_S)
    assert not list(sim.crawl.gaps)


@dataclass
class ShortListKindFirst(KindFirstEvents):
    """A store that is wrong where mentions are asked for without kinds, and takes ten kinds."""

    def page(self, wanted: Filter) -> list[Event]:
        return [] if len(wanted.kinds or ()) > 10 else KindFirstEvents.page(self, wanted)


def with_holes(others: int, store: type[KindFirstEvents] = ShortListKindFirst) -> Simulation:
    """Mentions of kinds that no list names, among others that nobody wants."""
    sim = Simulation(random.Random(1), audits=True)
    sim.relay.store = store(random.Random(1))
    sim.max_idle_turns = 4_000
    rng = random.Random(2)
    for number, kind in enumerate((1, 7, 30_023, *UNLISTED) * 5):
        at = START - rng.randrange(60, 80_000)
        sim.relay.publish(event(at, key(999), kind, number, [USERS[number % 5]]), START - 10)
    for number in range(others):
        sim.relay.publish(event(START - rng.randrange(60, 80_000), key(998), 1, 1_000 + number), START - 10)
    # No cursor waits for them: they are told as a gap.
    sim.beyond = {each.id for each in sim.relay.store.events if each.kind in UNLISTED}
    sim.want(AUTHORS, USERS)
    sim.connect()
    return sim


def whole_pages(sim: Simulation) -> int:
    return sum(each.to_value().keys() == {"since", "until", "limit"} for _, (each, *_) in sim.relay.requests)


def test_what_a_form_leaves_out_is_had_by_one_filter_for_everything() -> None:
    sim = with_holes(300)
    sim.run_until(1_000)
    assert sim.beyond <= sim.delivered
    assert Gap.HOLES not in {gap.reason for gap in sim.crawl.gaps}
    assert 0 < whole_pages(sim) <= 4


def test_huge_relay_is_not_read_through_for_events_a_form_omits() -> None:
    sim = with_holes(40 * 500)
    sim.run_until(1_000)
    assert Gap.HOLES in {gap.reason for gap in sim.crawl.gaps}
    assert 0 < whole_pages(sim) <= 3


@dataclass
class SilentToBroad(KindFirstEvents):
    """The same store behind a relay that answers filters with nothing but times as if it had nothing."""

    def page(self, wanted: Filter) -> list[Event]:
        is_broad = wanted.kinds is None and wanted.authors is None and wanted.ids is None and not wanted.tags
        return [] if is_broad else KindFirstEvents.page(self, wanted)


@pytest.mark.parametrize("others", [0, 40 * 500])
@pytest.mark.parametrize("store", [KindFirstEvents, SilentToBroad])
def test_unlisted_kinds_are_asked_explicitly_where_the_firehose_fails(
    store: type[KindFirstEvents], others: int
) -> None:
    """A relay that has too much, or does not answer; once, slowly, and not again with each resweep."""
    sim = with_holes(others, store)
    sim.run_until(1_500)
    named = {kind for _, (each, *_) in sim.relay.requests for kind in each.kinds or ()}
    assert sim.beyond <= sim.delivered
    assert (12_345 in named) == (others > 0 or store is SilentToBroad)
    assert not {gap.reason for gap in sim.crawl.gaps} & {Gap.HOLES, Gap.UNLISTED_KINDS}
