"""Who became wanted lately: the same as by going through everybody, as far back as it is known."""

import random

import pytest

from pipeline.crawl.sync import newcomers
from pipeline.crawl.sync.members import Member, Members
from pipeline.crawl.sync.newcomers import Newcomers
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.planner import Planner
from pipeline.store.wanted_authors import TIERS, Change
from tests.support.plans import changes, key, member
from tests.support.seeds import seeds


def test_one_who_left_since_or_changed_tiers_is_found_as_now() -> None:
    one, two, three = key(1), key(2), key(3)
    lately: Newcomers = Newcomers()
    lately = lately.plus(1, {one: (0, member(one)), two: (3, member(two))})
    lately = lately.plus(2, {one: (0, None), two: (1, member(two, generation=2)), three: (3, member(three))})
    assert lately.since(0) == {1: [Members.of([member(two, generation=2)])], 3: [Members.of([member(three)])]}
    assert lately.since(2) == {}


def test_oldest_batches_are_forgotten_and_nothing_is_said_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "MOST", 3)
    lately: Newcomers = Newcomers()
    for generation in range(1, 6):
        new = key(generation)
        lately = lately.plus(generation, {new: (0, member(new, generation=generation))})
    assert lately.since(1) is None
    assert lately.since(2) == {0: [Members.of([member(key(number), generation=number)]) for number in (5, 4, 3)]}
    crowd = {key(number): (3, member(key(number), generation=6)) for number in range(10, 20)}
    assert lately.plus(6, crowd).since(5) is None
    assert lately.plus(6, crowd).since(6) == {}


def by_tier(plan: Plan, since: int) -> dict[int, list[Member]]:
    """In order of keys; nobody twice."""
    found = {tier: [each for part in parts for each in part] for tier, parts in plan.newer_authors(since).items()}
    return {tier: sorted(members, key=lambda each: each.public_key) for tier, members in found.items() if members}


def test_answers_share_the_bytes_of_what_was_taken_up() -> None:
    lately = Newcomers()
    for generation in range(1, 6):
        new = [member(key(100 * generation + number), generation=generation) for number in range(50)]
        lately = lately.plus(generation, {each.public_key: (3, each) for each in new})
    answers = [lately.since(generation) or {} for generation in range(4)]
    held = {id(part._records) for answer in answers for parts in answer.values() for part in parts}
    assert len(held) == 5


@pytest.mark.parametrize("seed", seeds(5))
def test_plan_names_the_same_newcomers_as_its_chunks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(newcomers, "MOST", 60)
    planner, people, known = Planner(), [rng.randbytes(32) for _ in range(80)], 0
    for generation in range(1, 80):
        chosen = rng.sample(people, rng.randrange(12))
        began = [Change(each, rng.random() < 0.7, 5_000, generation, rng.randrange(TIERS)) for each in chosen]
        planner.apply(changes(generation, began))
        plan = planner.plan()
        plain = Plan(plan.generation, plan.queries)
        for since in (generation, generation - 1, rng.randrange(generation)):
            known += plan.newcomers is not None and plan.newcomers.since(since) is not None
            assert by_tier(plan, since) == by_tier(plain, since)
    assert 80 < known < 3 * 79
