"""Long sweeps whose pages are asked for side by side."""

import random
from dataclasses import replace

import pytest

from pipeline.crawl.sync import sweep
from pipeline.crawl.sync.strands import MAX_STRANDS
from pipeline.nostr.event import Event
from pipeline.relay.limits import RelayLimits
from tests.simulation.simulation import START, Simulation
from tests.support.plans import event, key
from tests.support.seeds import seeds

ALICE = key(1)
DAY = 86_400


def history(rng: random.Random, count: int) -> list[Event]:
    """Notes of the last day, as far as a new author is looked back for."""
    return [event(START - 1 - rng.randrange(DAY - 60), ALICE, 1, number) for number in range(count)]


def crawl(seed: int, *, count: int = 900, trait: str = "") -> tuple[Simulation, set[bytes]]:
    rng = random.Random(seed)
    sim = Simulation(rng)
    sim.relay.store.cap = 20
    if trait:
        assert hasattr(sim.relay.store, trait)
        setattr(sim.relay.store, trait, True)
    notes = history(rng, count)
    for each in notes:
        sim.relay.publish(each, 0)
    sim.want([ALICE])
    return sim, {each.id for each in notes}


def author_pages(sim: Simulation) -> int:
    """How many pages of the long sweep, or of a strand, were asked for."""
    return sum(name.startswith("P") and filters[0].authors is not None for name, filters in sim.relay.requests)


def run_through_losses(sim: Simulation, rng: random.Random, losses: int, between_s: tuple[float, float]) -> None:
    """Lose the connection or the process so many times on the way, then let it come to its end."""
    at = 0.0
    for _ in range(losses):
        sim.connect()
        at += rng.uniform(*between_s)
        sim.run_until(at)
        sim.restart() if rng.random() < 0.7 else sim.disconnect()
    sim.connect()
    sim.run_until(at + 900)


def test_pages_of_one_long_sweep_are_open_side_by_side() -> None:
    sim, wanted = crawl(1, count=2_000)
    sim.connect()
    together: list[int] = []
    at = 0.0
    while not wanted <= sim.delivered:
        before, at = author_pages(sim), at + 0.05
        sim.run_until(at)
        together.append(author_pages(sim) - before)
    long = together[together.index(3) :]
    assert len(long) >= 10
    assert sum(long) / len(long) >= 2.7
    sim.run_until(600)
    assert {"authors/", "mentions/"} & set(sim.cursors) == {"authors/"} & set(sim.cursors)
    assert sim.cursors["authors/"].complete_until >= START
    assert sim.progress == {}, "what is complete has no progress"


def test_sweep_that_names_kinds_in_many_lists_is_parted_by_lists() -> None:
    """A relay without kindless filters that takes few kinds at once."""
    sim = Simulation(random.Random(2), limits=RelayLimits(max_kinds=4, refuses_kindless=True))
    notes = [event(START - 60 * number - 60, ALICE, (1, 6, 7, 30023)[number % 4], number) for number in range(400)]
    for each in notes:
        sim.relay.publish(each, 0)
    sim.want([ALICE])
    sim.connect()
    together: list[int] = []
    at = 0.0
    while "authors/" not in sim.cursors:
        before, at = author_pages(sim), at + 0.05
        sim.run_until(at)
        together.append(author_pages(sim) - before)
    assert {each.id for each in notes} <= sim.delivered
    long = together[together.index(3) :]
    assert len(long) >= 5
    assert sum(long) / len(long) >= 2.5
    assert sim.progress == {}


@pytest.mark.parametrize("seed", seeds(3))
def test_restarts_lose_nothing_of_what_is_parted_by_lists(seed: int) -> None:
    rng = random.Random(seed)
    sim = Simulation(random.Random(2), limits=RelayLimits(max_kinds=4, refuses_kindless=True))
    sim.relay.store.cap = 20
    notes = [event(START - 60 * number - 60, ALICE, (1, 6, 7, 30023)[number % 4], number) for number in range(400)]
    for each in notes:
        sim.relay.publish(each, 0)
    sim.want([ALICE])
    run_through_losses(sim, rng, 5, (0.2, 4.0))
    assert {each.id for each in notes} <= sim.delivered
    assert sim.progress == {}


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("trait", ["", "exclusive_until", "shuffled"])
def test_restarts_in_the_middle_lose_nothing(seed: int, trait: str) -> None:
    """What was saved of the whole and of its strands is left out, and nothing else is."""
    sim, wanted = crawl(seed, trait=trait)
    rng = random.Random(seed)
    run_through_losses(sim, rng, 6, (0.5, 8.0))
    assert wanted <= sim.delivered
    assert sim.cursors["authors/"].complete_until >= START
    assert sim.progress == {}


def test_restart_goes_on_where_every_strand_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SAVE_EVERY_S", 0.1)
    sim, wanted = crawl(3)
    sim.connect()
    at = 0.0
    while len(sim.delivered) < 0.6 * len(wanted):
        at += 0.05
        sim.run_until(at)
    names = {name for name in sim.progress if "|" in name}
    assert 0 < len(names) <= MAX_STRANDS
    sim.restart()
    left = [(row.since, row.until) for row in sim.progress.values()]
    before = len(sim.relay.requests)
    sim.connect()
    while "authors/" not in sim.cursors:
        at += 0.05
        sim.run_until(at)
    assert wanted <= sim.delivered
    asked = [filters[0] for name, filters in sim.relay.requests[before:] if name.startswith("P") and filters[0].authors]
    spans = [(page.since, page.until) for page in asked if page.since and page.since < START - 900 and page.until]
    assert spans
    assert all(any(low <= since and until <= high for low, high in left) for since, until in spans)


def test_what_is_no_longer_wanted_ends_with_its_strands() -> None:
    sim, wanted = crawl(4)
    sim.connect()
    at = 0.0
    while len(sim.delivered) < 0.3 * len(wanted):
        at += 0.05
        sim.run_until(at)
    sim.want(gone=[ALICE])
    sim.run_until(at + 120)
    assert sim.session is not None
    assert sim.session.pages == 0
    assert "lookback:authors/" not in sim.progress


def test_second_restart_before_progress_is_saved_keeps_unfinished_strands() -> None:
    """Strands that were resumed are saved as of the second process, the whole still as of the first."""
    sim, wanted = crawl(3)
    sim.connect()
    at = 0.0
    while not {"initial:authors/", "initial:authors/|1"} <= sim.progress.keys():
        at += 0.05
        sim.run_until(at)
    sim.progress = {name: replace(row, started=row.started + 2 * ("|" in name)) for name, row in sim.progress.items()}
    sim.restart()
    sim.connect()
    sim.run_until(at + 900)
    assert wanted <= sim.delivered
    assert sim.progress == {}
