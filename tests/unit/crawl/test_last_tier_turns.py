"""The last tier is followed at once while that is cheap, in gathered steps while a crowd grows, and never backwards."""

import random
from collections import Counter

import pytest

from pipeline.crawl.last_tier_turns import BUDGET, LastTierTurns, live_bytes
from pipeline.crawl.plan_turns import ROUNDS
from pipeline.crawl.sync.plan import LAST_TIER, Plan
from pipeline.crawl.sync.planner import Planner
from pipeline.relay.limits import BYTES_PER_MEMBER, RelayLimits
from pipeline.store.wanted_authors import Change
from tests.support.plans import changes
from tests.support.seeds import seeds

ROOM = live_bytes(RelayLimits())
TICK_S = 0.1


class World:
    """What is wanted, and what each connected relay was told to ask for."""

    def __init__(self, relays: int = 12, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.planner = Planner()
        self.turns = LastTierTurns()
        self.relays = list(range(relays))
        self.now = 1_000.0
        self.asked: dict[int, Plan] = {}
        self.sent: Counter[int] = Counter()
        self.plan = self.planner.plan()
        self.tick()
        for relay in self.relays:
            self.asked[relay] = self.turns.plan_for(relay, self.plan)

    def want(self, count: int, tier: int = LAST_TIER) -> None:
        generation = self.planner.generation + 1
        began = [Change(self.rng.randbytes(32), True, 0, generation, tier) for _ in range(count)]
        self.planner.apply(changes(generation, began))
        self.plan = self.planner.plan()

    def tick(self) -> list[int]:
        taken = self.turns.take(self.plan, self.relays, lambda _: ROOM, self.now)
        for relay in taken:
            self.post(relay)
            self.sent[relay] += 1
        self.now += TICK_S
        return taken

    def post(self, relay: int) -> None:
        """Let a relay follow the newest plan, as it does whenever there is one."""
        before, plan = self.asked.get(relay), self.turns.plan_for(relay, self.plan)
        assert plan.newest is self.plan
        assert before is None or plan.last_tier_generation >= before.last_tier_generation
        self.asked[relay] = plan

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.tick()

    @property
    def states(self) -> set[int]:
        return {hash(plan.last_tier) for plan in self.asked.values()}

    @property
    def is_even(self) -> bool:
        return all(self.turns.plan_for(relay, self.plan).last_tier == self.plan.last_tier for relay in self.relays)


def test_first_change_is_followed_by_all_within_one_round() -> None:
    world = World()
    world.want(2_000)
    world.run(ROUNDS * TICK_S)
    assert world.is_even
    assert set(world.sent.values()) == {1}


def test_change_of_earlier_tiers_alone_is_not_held_up() -> None:
    world = World()
    world.want(300, LAST_TIER - 1)
    for relay in world.relays:
        assert world.turns.plan_for(relay, world.plan).queries == world.plan.queries
    assert not world.tick()
    assert not world.turns.is_uneven


def test_connection_that_waits_has_the_newest_of_all_other_tiers() -> None:
    world = World()
    world.want(2_000)
    world.tick()
    world.want(300, 0)
    waiting = [relay for relay in world.relays if not world.sent[relay]]
    held = world.turns.plan_for(waiting[0], world.plan)
    assert held.last_tier == ()
    assert sum(len(query.members) for query in held.live) == 300
    assert held.generation == world.plan.generation


def test_storm_costs_no_more_than_the_budget() -> None:
    world = World()
    seconds, bytes_sent = 60, 0
    for _ in range(seconds * 2):
        world.want(500)
        for _ in range(5):
            for relay in world.tick():
                asked = sum(len(query.members) for query in world.asked[relay].last_tier)
                bytes_sent += min(ROOM, BYTES_PER_MEMBER * asked)
    # Overdrawn by one turn at most, since what it costs is known by then.
    assert bytes_sent <= BUDGET.burst + seconds * BUDGET.per_minute / 60 + ROOM
    assert bytes_sent > BUDGET.burst
    assert not world.is_even


def test_after_a_storm_all_are_even_again() -> None:
    world = World()
    for _ in range(20):
        world.want(1_000)
        world.run(0.5)
    world.run(len(world.relays) * ROOM / (BUDGET.per_minute / 60) * 3 + 10)
    assert world.is_even
    assert not world.turns.is_uneven
    assert world.states == {hash(world.plan.last_tier)}


@pytest.mark.parametrize("seed", seeds(5))
def test_connections_follow_one_of_two_states_and_never_an_earlier_one(seed: int) -> None:
    print(f"seed {seed}")
    world = World(relays=30, seed=seed)
    for _ in range(150):
        chance = world.rng.random()
        if chance < 0.3:
            world.want(world.rng.choice((1, 500)), world.rng.randrange(LAST_TIER + 1))
        elif chance < 0.5:
            relay = world.rng.choice(world.relays)
            world.turns.begin(relay)
            world.post(relay)
        elif chance < 0.7:
            for relay in world.relays:
                world.post(relay)
        world.tick()
        for relay in world.relays:
            world.post(relay)
        assert len(world.states) <= 2


def test_connection_that_begins_asks_for_the_current_state() -> None:
    world = World()
    world.want(2_000)
    world.tick()
    (*_, last) = world.relays
    assert world.turns.plan_for(last, world.plan).last_tier == ()
    world.turns.begin(last)
    assert world.turns.plan_for(last, world.plan).last_tier == world.plan.last_tier
    world.run(ROUNDS * TICK_S)
    assert not world.sent[last]


def test_turns_are_over_when_all_that_wait_are_gone() -> None:
    world = World()
    world.want(2_000)
    world.tick()
    assert world.turns.is_uneven
    for relay in world.relays:
        world.turns.begin(relay)
    assert not world.turns.is_uneven
