"""What an operator orders from the past, in simulated time: complete, behind all else, and resumed."""

import random
from collections.abc import Iterable

import pytest

from pipeline.crawl.sync.backfill_jobs import PAUSE_S
from pipeline.crawl.sync.paging.slices import Gap
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.store.backfills import Backfill, BackfillProgress
from tests.simulation.simulation import RELAY, START, Simulation, closing, cooperative
from tests.support.plans import event, key

ALICE, BOB, CAROL = key(1), key(2), key(3)
DAY = 86_400
SINCE, UNTIL = START - 400 * DAY, START - 100 * DAY


def job(*authors: bytes, number: int = 1) -> Backfill:
    return Backfill(number, SINCE, UNTIL, authors, START * 1000)


class Past(Simulation):
    """A relay with a past, and a crawl that was ordered to fetch some of it."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(random.Random(seed))
        self.told: list[BackfillProgress] = []
        self.relay.store.cap = 50
        self.past = [event(SINCE + n * DAY // 4, (ALICE, BOB)[n % 2], 1, n) for n in range(1_100)]
        for each in self.past:
            self.relay.publish(each, 0)
        self.want([ALICE, BOB], [CAROL])

    def order(self, *jobs: Backfill) -> None:
        self.crawl.backfill_jobs.ordered = jobs
        self.crawl.set_plan(self.plan)

    def run_until(self, seconds: float) -> None:
        super().run_until(seconds)
        self.told += self.crawl.backfill_jobs.take_unreported()

    def within(self, authors: Iterable[bytes] = (ALICE, BOB)) -> set[bytes]:
        return {each.id for each in self.past if each.pubkey in authors and SINCE <= each.created_at <= UNTIL}

    def pages(self) -> list[Filter]:
        asked = [filters[0] for name, filters in self.relay.requests if name.startswith("P")]
        return [each for each in asked if each.until is not None and each.until <= UNTIL + 1]


def test_all_that_is_wanted_of_the_time_is_fetched_and_nothing_else() -> None:
    sim = Past()
    sim.connect()
    sim.run_until(60)
    assert not sim.delivered & sim.within()
    sim.order(job())
    sim.run_until(400)
    assert sim.within() <= sim.delivered
    beyond = {each.id for each in sim.past if each.created_at > UNTIL and each.created_at < START - DAY}
    assert not beyond & sim.delivered
    last = sim.told[-1]
    assert (last.job, last.relay, last.parts, last.done, last.incomplete, last.is_over) == (1, RELAY, 3, 3, 0, True)
    assert last.events >= len(sim.within())


def test_it_is_polite_one_page_at_a_time_with_a_pause() -> None:
    sim = Past()
    sim.connect()
    sim.run_until(60)
    sim.order(job(ALICE))
    sim.run_until(60 + 5 * PAUSE_S)
    assert 1 <= len(sim.pages()) <= 7


def test_only_some_authors_are_asked_for_where_it_is_about_them() -> None:
    sim = Past()
    sim.connect()
    sim.order(job(ALICE))
    sim.run_until(300)
    assert sim.within([ALICE]) <= sim.delivered
    assert all(each.authors == frozenset({ALICE}) for each in sim.pages())
    assert sim.told[-1].is_over


def test_a_restart_goes_on_where_it_was() -> None:
    sim = Past()
    sim.connect()
    sim.order(job())
    sim.run_until(15)
    before, had = len(sim.pages()), sim.within() & sim.delivered
    assert had
    assert [each.is_over for each in sim.told[-1:]] == [False]
    sim.restart()
    sim.connect()
    sim.order(job())
    sim.run_until(400)
    assert sim.within() <= sim.delivered
    assert sim.told[-1].is_over
    again = [each for each in sim.pages()[before:] if each.since == SINCE and each.until == UNTIL and each.authors]
    assert not again, "what was had is not fetched again"


def test_a_cancelled_one_ends_and_another_takes_its_turn() -> None:
    sim = Past()
    sim.connect()
    sim.order(job(), job(BOB, number=2))
    sim.run_until(10)
    sim.order(job(BOB, number=2))
    sim.run_until(300)
    assert sim.within([BOB]) <= sim.delivered
    assert not sim.within([ALICE]) <= sim.delivered
    assert [each for each in sim.told if each.job == 2][-1].is_over


@pytest.mark.parametrize("reason", ["error: not now", "restricted: members only"])
def test_what_a_relay_refuses_again_and_again_is_left_as_incomplete(reason: str) -> None:
    sim = Past()
    sim.connect()
    sim.run_until(60)
    sim.relay.mood = lambda name, filters: (
        closing(reason)(name, filters) if (filters[0].until or START) <= UNTIL + 1 else cooperative(name, filters)
    )
    sim.order(job(ALICE))
    sim.run_until(8 * 3_600)
    last = sim.told[-1]
    assert (last.is_over, last.done, last.incomplete) == (True, 1, 1)


def test_live_events_and_tails_go_on_meanwhile() -> None:
    sim = Past()
    sim.connect()
    sim.order(job())
    fresh: list[Event] = []
    for at in range(5, 300, 20):
        fresh.append(event(START + at, ALICE))
        sim.at(at, lambda each=fresh[-1]: sim.relay.publish(each, sim.wall))  # type: ignore[misc]
    sim.at(150, sim.disconnect)
    sim.at(170, sim.connect)
    sim.run_until(400)
    assert {each.id for each in fresh} <= sim.delivered
    assert sim.within() <= sim.delivered


def test_gap_that_it_goes_through_closes() -> None:
    sim = Past()
    sim.connect()
    sim.run_until(60)
    sim.crawl.gaps.open("authors/", SINCE + DAY, SINCE + DAY, Gap.OVERSIZED)
    sim.crawl.gaps.open("authors/", UNTIL + DAY, UNTIL + DAY, Gap.OVERSIZED)
    sim.order(job())
    sim.run_until(400)
    assert [gap.since for gap in sim.crawl.gaps] == [UNTIL + DAY]
