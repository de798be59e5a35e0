"""What was refused for good: asked for in the same form once a day, and by a small probe in between."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from pipeline.crawl.sync.paging.slices import PageResult
from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.query import GLOBAL_QUERY
from pipeline.crawl.sync.refusal_probes import PAUSE_S, RefusalProbes
from pipeline.crawl.sync.sweep import Purpose, Sweep
from pipeline.crawl.sync.timing import FINAL_RETRY_S, PROBE_EVERY_S
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, RelayMessage
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from tests.simulation.simulation import START, Mood, Simulation, closing, cooperative
from tests.support.plans import event, key

ALICE, BOB, CAROL = key(1), key(2), key(3)
HOUR, DAY = 3_600, 86_400
RESTRICTED, AUTH = "restricted: members only", "auth-required: members only"


def crawl(mood: Mood) -> Simulation:
    """A crawl of a relay that is connected and has some events."""
    sim = Simulation(random.Random(1))
    sim.max_idle_turns = 4_000
    stored = [event(START - 600 * n - 60, ALICE, 1, n) for n in range(30)]
    sim.relay.store.events += stored
    sim.relay.stored_at |= {each.id: START - 1 for each in stored}
    sim.relay.mood = mood
    sim.want([ALICE, BOB], [CAROL])
    sim.connect()
    return sim


def asked_at(sim: Simulation, of: Callable[[Filter], bool] = lambda _: True) -> dict[Filter, list[float]]:
    """By the form of a page, when it was asked for (seconds since the start)."""
    times = defaultdict[Filter, list[float]](list)
    hear = sim.relay.hear

    def heard(frame: str) -> None:
        before = len(sim.relay.requests)
        hear(frame)
        for subscription, (page, *_) in sim.relay.requests[before:]:
            if subscription.startswith("P") and of(page):
                times[replace(page, since=None, until=None)].append(sim.mono - 100.0)

    sim.relay.hear = heard  # type: ignore[method-assign]
    return times


def is_probe(page: Filter) -> bool:
    return page.limit == 1


@pytest.mark.parametrize("text", [RESTRICTED, AUTH, "blocked: go away", "ERROR: bad req: unknown element"])
def test_page_refused_for_good_is_not_asked_in_the_same_form_within_a_day(text: str) -> None:
    sim = crawl(closing(text))
    pages = asked_at(sim, lambda page: not is_probe(page))
    sim.run_until(2 * DAY - HOUR)
    assert pages
    for times in pages.values():
        assert len(times) <= 2
        assert all(later - earlier >= FINAL_RETRY_S for earlier, later in pairwise(times))


def test_probes_are_few_and_small() -> None:
    sim = crawl(closing(AUTH))
    probes = asked_at(sim, is_probe)
    sim.run_until(DAY - HOUR)
    times = [time for each in probes.values() for time in each]
    sweeps = 4
    assert 23 * HOUR / PROBE_EVERY_S - 2 < len(times) / sweeps <= 23 * HOUR / PROBE_EVERY_S
    assert all(later - earlier >= PAUSE_S for earlier, later in pairwise(sorted(times)))
    assert all(len(page.authors or ()) <= 1 and all(len(values) == 1 for _, values in page.tags) for page in probes)


@pytest.mark.parametrize("refused_for", [10, 40 * 60, 10 * HOUR])
def test_relay_that_relents_is_served_within_half_an_hour(refused_for: int) -> None:
    sim = crawl(closing(AUTH))
    sim.run_until(refused_for)
    assert not sim.delivered
    sim.relay.mood = cooperative
    sim.run_until(refused_for + 1_800)
    assert sim.everything() <= sim.delivered
    assert {"authors/", "global/", "mentions/"} <= sim.cursors.keys()


def test_full_form_is_asked_ever_later_when_only_probes_are_answered() -> None:
    refuse = closing(AUTH, live=False)
    sim = crawl(lambda subscription, filters: None if is_probe(filters[0]) else refuse(subscription, filters))
    pages = asked_at(sim, lambda page: page.authors is not None and page.kinds is None and not is_probe(page))
    sim.run_until(DAY - HOUR)
    (times,) = pages.values()
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert 4 <= len(waits) <= 7
    assert all(later >= 1.9 * earlier for earlier, later in pairwise(waits))


def test_changed_form_is_asked_at_once() -> None:
    """Alice alone is refused; beside Bob she is not."""
    sim = Simulation(random.Random(1))

    def refuses_one(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        is_alone = any(each.limit and each.authors == frozenset({ALICE}) for each in filters)
        return [Closed(subscription, AUTH, "auth-required")] if is_alone else None

    note = event(START - 60, ALICE)
    sim.relay.store.events.append(note)
    sim.relay.stored_at[note.id] = START - 1
    sim.relay.mood = refuses_one
    sim.want([ALICE])
    sim.connect()
    sim.run_until(60)
    assert note.id not in sim.delivered
    sim.want([BOB])
    sim.run_until(70)
    assert note.id in sim.delivered


def test_sweep_that_has_no_page_left_needs_no_probe() -> None:
    window = Window(GLOBAL_QUERY, START - 100, START)
    sweep, probes = Sweep(GLOBAL_QUERY, Purpose.TAIL, window, START), RefusalProbes()
    probes.on_refused(sweep, RelayRefusal.AUTH_REQUIRED, 0.0)
    assert not probes.asks_otherwise(sweep)
    assert list(probes.due_times()) == [PROBE_EVERY_S]
    window.take(PageResult(0))
    assert not window.has_page
    assert probes.asks_otherwise(sweep)
    session = Session(LearnedLimits(RelayLimits()))
    probes.open_next(session, 2 * PROBE_EVERY_S)
    assert list(probes.due_times()) == []
    assert session.pages == 0
