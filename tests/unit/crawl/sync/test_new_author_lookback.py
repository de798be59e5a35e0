"""The look-back for new authors at one relay: everybody once, in full chunks that all relays share."""

import random
from collections import Counter

import pytest

from pipeline.crawl.sync.members import Members
from pipeline.crawl.sync.planner import MAX_MEMBERS, Planner
from pipeline.crawl.sync.relay_lists import NOBODY, RelayLists
from pipeline.crawl.sync.strategy import NewAuthorLookback
from pipeline.store.relay_lists import Listed
from pipeline.store.wanted_authors import TIERS, Change
from tests.support.plans import changes
from tests.support.seeds import seeds

HERE = 7


def asked(lookback: NewAuthorLookback) -> Counter[bytes]:
    return Counter(key for chunk in lookback.chunks.values() for key in chunk.members.keys)


@pytest.mark.parametrize("seed", seeds(6))
def test_everyone_who_became_wanted_is_in_one_chunk_of_their_tier(seed: int) -> None:
    rng, planner, lists = random.Random(seed), Planner(), RelayLists()
    lookback, tiers = NewAuthorLookback(0), dict[bytes, int]()
    for generation in range(1, 30):
        new = {rng.randbytes(32): rng.randrange(TIERS) for _ in range(rng.choice([0, 1, 3, 249, 251, 800]))}
        planner.apply(changes(generation, [Change(each, True, 0, generation, tier) for each, tier in new.items()]))
        lists.apply(Listed(each, (HERE,), ()) for each in rng.sample(sorted(new), len(new) // 9))
        tiers |= new
        if rng.random() < 0.6:
            lookback.follow(planner.plan(), lists.at(HERE))
        for key in rng.sample(sorted(lookback.chunks), len(lookback.chunks) // 4):
            done = lookback.chunks[key].members.keys
            assert all(tiers.pop(each) == lookback.chunks[key].tier for each in done)
            lookback.done(key)
    lookback.follow(planner.plan(), lists.at(HERE))
    assert asked(lookback) == Counter(tiers.keys())
    for chunk in lookback.chunks.values():
        assert 0 < len(chunk.members) <= MAX_MEMBERS
        assert {tiers[key] for key in chunk.members.keys} == {chunk.tier}
        assert chunk.generation == chunk.members.newest


def test_relays_that_follow_at_different_times_hold_the_same_bytes() -> None:
    rng, planner = random.Random(1), Planner()
    relays = [NewAuthorLookback(0) for _ in range(3)]
    for generation in range(1, 13):
        new = [Change(rng.randbytes(32), True, 0, generation, TIERS - 1) for _ in range(2 * MAX_MEMBERS)]
        planner.apply(changes(generation, new))
        for number, lookback in enumerate(relays):
            if generation % (number + 2) == 0:
                lookback.follow(planner.plan(), NOBODY)
    assert [sum(asked(lookback).values()) for lookback in relays] == [24 * MAX_MEMBERS] * 3
    held = {id(chunk.members._records) for lookback in relays for chunk in lookback.chunks.values()}
    assert len(held) == 12


def test_those_who_are_named_at_the_relay_come_first() -> None:
    rng, planner, lists = random.Random(2), Planner(), RelayLists()
    keys = [rng.randbytes(32) for _ in range(3 * MAX_MEMBERS)]
    planner.apply(changes(1, [Change(each, True, 0, 1) for each in keys]))
    lists.apply(Listed(each, (HERE,), ()) for each in keys[-40:])
    first = next(iter(NewAuthorLookback.since(planner.plan(), 0, lists.at(HERE)).chunks.values()))
    assert {*first.members.keys[:40]} == {*keys[-40:]}
    assert isinstance(first.members, Members)
