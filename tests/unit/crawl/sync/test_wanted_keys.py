"""Whose events are wanted, looked up in the chunks of a plan: exactly those, whatever came, went and came back."""

import random

import pytest

from pipeline.crawl.sync import planner as planner_module
from pipeline.crawl.sync import wanted_keys
from pipeline.crawl.sync.members import SIZE, Members
from pipeline.crawl.sync.planner import Planner
from pipeline.crawl.sync.wanted_keys import KeyFilter, WantedKeys
from pipeline.rules.relevance import Relevance
from pipeline.store.wanted_authors import TIERS, Change, WantedChanges
from tests.support.plans import changes
from tests.support.seeds import seeds


def people(rng: random.Random) -> list[bytes]:
    """Random keys, such as begin alike as mined ones do, the first and the last of all."""
    alike = [b"\x00\x01" + rng.randbytes(30) for _ in range(60)]
    nearly = [bytes(31) + bytes([number]) for number in range(20)]
    return [*(rng.randbytes(32) for _ in range(200)), *alike, *nearly, b"\xff" * 32]


@pytest.mark.parametrize("full_at", [5_000_000, 40])
@pytest.mark.parametrize("seed", seeds(6))
def test_planner_and_sets_agree_about_everybody(seed: int, full_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(wanted_keys, "_FILTER_MOST", full_at)
    monkeypatch.setattr(planner_module, "_CHANGES_AT_ONCE", rng.choice([1, 7, 1_000]))
    everybody = people(rng)
    planner, kept, crawler = Planner(), Relevance(), Relevance()
    for generation in range(1, 60):
        chosen = rng.sample(everybody, rng.choice([0, 1, 5, 100]))
        began = [Change(each, rng.random() < 0.7, 5_000, generation, rng.randrange(TIERS)) for each in chosen]
        users = [Change(each, rng.random() < 0.7, 5_000, generation) for each in rng.sample(everybody, 3)]
        change = changes(generation, began, users)
        has_ceased = planner.apply(change)
        wanted = planner.wanted(planner.plan(), has_ceased=has_ceased)
        crawler.follow(wanted)
        assert has_ceased == kept.apply(change)
        for each in (*everybody, *everybody, rng.randbytes(32)):
            assert (each in crawler.authors) == (each in kept.authors)
            assert (each in crawler.registered) == (each in kept.registered)


def test_a_snapshot_does_not_follow_later_changes() -> None:
    planner, one, other = Planner(), b"\x01" * 32, b"\x02" * 32
    planner.apply(changes(1, [Change(one, True, 0, 1)]))
    before = planner.wanted(planner.plan(), has_ceased=False)
    planner.apply(changes(2, [Change(one, False, 0, 2), Change(other, True, 0, 2)]))
    after = planner.wanted(planner.plan(), has_ceased=True)
    assert (one in before.authors, other in before.authors) == (True, False)
    assert (one in after.authors, other in after.authors) == (False, True)


def test_answers_that_are_remembered_are_bounded_and_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted_keys, "_REMEMBERED", 5)
    planner, rng = Planner(), random.Random(3)
    keys = [rng.randbytes(32) for _ in range(40)]
    planner.apply(changes(1, [Change(each, True, 0, 1) for each in keys[:20]]))
    authors = planner.wanted(planner.plan(), has_ceased=False).authors
    assert isinstance(authors, WantedKeys)
    for _ in range(3):
        assert [each in authors for each in keys] == [True] * 20 + [False] * 20
        assert len(authors._answers) <= 5


def test_filter_finds_all_that_was_added_and_few_others() -> None:
    rng, known = random.Random(4), KeyFilter()
    keys = [rng.randbytes(32) for _ in range(2_000)]
    known.add(keys)
    assert all(map(known.may_have, keys))
    assert sum(known.may_have(rng.randbytes(32)) for _ in range(2_000)) < 20


def test_a_million_changes_are_read_as_they_come_and_never_held_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_module, "_CHANGES_AT_ONCE", 10)
    alive: list[int] = [0]
    most = [0]

    class Counted(Change):
        def __init__(self, key: bytes) -> None:
            super().__init__(key, True, 0, 1)
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self) -> None:
            alive[0] -= 1

    rng = random.Random(5)
    planner = Planner()
    planner.apply(WantedChanges(1, (Counted(rng.randbytes(32)) for _ in range(1_000)), iter(())))
    assert sum(len(query.members) for query in planner.plan().live) == 1_000
    assert most[0] <= 25


def test_an_author_costs_a_record_and_a_share_of_its_chunk() -> None:
    planner, rng = Planner(), random.Random(6)
    planner.apply(changes(1, [Change(rng.randbytes(32), True, 0, 1) for _ in range(3_000)]))
    plan = planner.plan()
    found = [query.members for query in plan.queries if query.members]
    assert sum(len(each.records) for each in found) == 3_000 * SIZE
    # What is asked for in other ways, or looked up, shares the bytes.
    lists = [query.members for query in plan.lists]
    index = [records for tree in planner._authors for records in tree.index()[1]]
    assert {id(each) for each in lists} == {id(each) for each in found}
    assert {id(each) for each in index} == {id(each._records) for each in found}
    assert all(isinstance(each, Members) for each in found)
