"""A relay that brings more of strangers than it may: all of it comes, later, and what is about users at once."""

import random

import pytest

from pipeline.crawl.sync.costs import BURST_S, GRACE_S, PACED_S, RelayCosts, Verified
from pipeline.crawl.sync.losses import LEAST_PAGE
from pipeline.crawl.sync.pacing import WHOLE_PATIENCE_S
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.settings.choices import CrawlMode
from tests.simulation.simulation import START, Simulation
from tests.support.plans import event, key
from tests.support.seeds import seeds

ALICE, BOB, STRANGER = key(1), key(2), key(3)
EVENT_BYTES = 100_000
RATE = 50_000


class CostlySimulation(Simulation):
    """A simulation in which strangers' events have bytes, and what they cost is known at once."""

    taken: dict[bytes, float]
    event_bytes = EVENT_BYTES

    def start(self) -> None:
        self.taken = {}
        # Each event that is published is a turn, too.
        self.max_idle_turns = 10_000
        self.crawl.pacing.costs = RelayCosts(lambda: RATE, self.mono)
        self.want([ALICE], [BOB])
        self.connect()

    def _on_event(self, session: object, message: object) -> None:
        before = len(self.delivered)
        super()._on_event(session, message)  # type: ignore[arg-type]  # handed through
        found: Event = message.event  # type: ignore[attr-defined]
        is_asked_for = message.subscription.startswith("P")  # type: ignore[attr-defined]
        if found.kind in GLOBAL_KINDS and not is_asked_for and self.crawl.costs.note_unasked(EVENT_BYTES, self.mono):
            self.crawl.on_costly()
        if len(self.delivered) > before and found.kind in GLOBAL_KINDS and found.pubkey == STRANGER:
            self.taken[found.id] = self.mono
            if self.crawl.costs.note(Verified(1, 0, 1, self.event_bytes), self.mono):
                self.crawl.on_costly()

    @property
    def taken_bytes(self) -> int:
        return len(self.taken) * self.event_bytes

    @property
    def live_filters(self) -> list[Filter]:
        return [each for name, filters in self.relay.open.items() if name.startswith("L") for each in filters]

    @property
    def is_live(self) -> bool:
        """Return True if global kinds are subscribed to."""
        return any(each.kinds == GLOBAL_KINDS and not each.authors for each in self.live_filters)


def costly(seed: int = 1) -> CostlySimulation:
    made = CostlySimulation(random.Random(seed))
    made.start()
    return made


def flood(sim: CostlySimulation, count: int, *, every_s: float, first_s: float = 60.0) -> list[Event]:
    """Let a stranger publish so many events, one after the other."""
    found = [event(START + int(first_s + n * every_s), STRANGER, kind=0, number=n) for n in range(count)]
    for number, each in enumerate(found):
        sim.at(first_s + number * every_s, lambda each=each: sim.relay.publish(each, sim.wall))  # type: ignore[misc]
    return found


@pytest.mark.parametrize("seed", seeds(2))
def test_everything_of_a_flood_comes_at_the_rate(seed: int) -> None:
    sim = costly(seed)
    found = flood(sim, 600, every_s=0.5)
    sim.run_until(400)
    assert not sim.is_live
    assert BURST_S * RATE <= sim.taken_bytes <= RATE * (BURST_S + GRACE_S + 400) + 20 * EVENT_BYTES
    sim.run_until(3_600)
    assert {each.id for each in found} <= sim.delivered


def test_what_is_asked_for_is_paced_by_pages_alone() -> None:
    """A relay that was away for long, or is new, has much to give: its live subscription stays."""
    sim = costly()
    sim.event_bytes = 2_000
    sim.disconnect()
    for number in range(4_000):
        sim.relay.publish(event(START - 900 + number // 5, STRANGER, kind=0, number=number), 0)
    sim.connect()
    sim.run_until(60)
    assert sim.crawl.costs.paced_since(sim.mono) is not None
    assert sim.is_live
    assert sim.taken_bytes <= RATE * (BURST_S + GRACE_S + 60)
    sim.run_until(900)
    assert sim.is_live
    assert len(sim.taken) == 4_000


def test_users_events_are_live_while_a_flood_is_not() -> None:
    sim = costly()
    flood(sim, 400, every_s=0.5)
    sim.run_until(300)
    assert {bool(each.authors or each.tags) for each in sim.live_filters} == {True}
    note = event(START + 300, ALICE, kind=0)
    sim.relay.publish(note, sim.wall)
    sim.run_until(301)
    assert note.id in sim.delivered


def test_global_kinds_are_live_again_once_the_burst_is_there_again() -> None:
    """And what came in between the last page and the subscription is had."""
    sim = costly()
    flood(sim, 400, every_s=0.5)
    quiet = flood(sim, 30, every_s=60, first_s=300)
    sim.run_until(300)
    assert [sim.is_live] == [False]
    sim.run_until(300 + PACED_S + BURST_S + 900)
    assert sim.is_live
    sim.run_until(3_600)
    assert {each.id for each in quiet} <= sim.delivered


def test_pages_of_strangers_hold_no_more_than_the_rate_allows_in_moments() -> None:
    sim = costly()
    flood(sim, 600, every_s=0.4)
    sim.run_until(1_200)
    pages = [each[0] for name, each in sim.relay.requests if name.startswith("P") and each[0].kinds == GLOBAL_KINDS]
    assert pages[-1].limit == LEAST_PAGE


def test_relay_asked_for_everything_is_asked_by_query_where_a_flood_lasts() -> None:
    sim = costly()
    sim.crawl.strategy.mode = CrawlMode.AUTO
    sim.crawl.strategy.is_firehose = sim.crawl.strategy.needs_firehose = True
    flood(sim, 4_000, every_s=0.5)
    sim.run_until(WHOLE_PATIENCE_S + 600)
    assert sim.crawl.strategy.pop_refusal() or not sim.crawl.strategy.is_firehose
