"""A tree of chunks that follows changes: the same cut as from scratch, and new objects only where something changed."""

import random

import pytest

from pipeline.crawl.sync.chunk_tree import ChunkTree
from pipeline.crawl.sync.members import Member, Members
from pipeline.crawl.sync.planner import MAX_MEMBERS, Planner, chunks
from pipeline.store.wanted_authors import Change
from tests.support.plans import changes, member
from tests.support.seeds import seeds


def people(rng: random.Random, count: int) -> list[bytes]:
    """Random keys, and many that begin alike, as mined ones do."""
    return [rng.randbytes(32) if rng.random() < 0.7 else b"\x00\x01" + rng.randbytes(30) for _ in range(count)]


@pytest.mark.parametrize("seed", seeds(4))
def test_tree_that_followed_changes_is_cut_as_one_from_scratch(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    most = rng.choice([1, 3, 10])
    tree = ChunkTree(most)
    members: dict[bytes, Member] = {}
    for _ in range(60):
        put = {key: member(key) for key in people(rng, rng.choice([0, 1, 1, 5, 60]))}
        gone = set(rng.sample(sorted(members), min(len(members), rng.choice([0, 1, 1, 5, 60])))) - put.keys()
        absent = rng.randbytes(32)
        tree.change({**put, **dict.fromkeys(gone), absent: None})
        members = {key: each for key, each in (members | put).items() if key not in gone}
        assert list(tree.chunks()) == list(chunks([Members.of(members.values())], most))
        assert len(tree) == len(members)
        assert [each for _, chunk in tree.chunks() for each in chunk] == [members[key] for key in sorted(members)]


def test_change_of_one_member_leaves_all_other_chunks_the_same_objects() -> None:
    rng = random.Random(1)
    tree = ChunkTree(MAX_MEMBERS)
    tree.change({key: member(key) for key in people(rng, 5_000)})
    before = {id(chunk) for _, chunk in tree.chunks()}
    one = rng.randbytes(32)
    for change in (member(one), None):
        tree.change({one: change})
        after = {id(chunk) for _, chunk in tree.chunks()}
        assert len(after - before) <= 2
        before = after


def test_plan_after_one_change_has_one_new_query_of_authors() -> None:
    rng = random.Random(2)
    planner = Planner()
    planner.apply(changes(1, [Change(key, True, 5_000, 1) for key in people(rng, 4_000)]))
    before = planner.plan()
    planner.apply(changes(2, [Change(rng.randbytes(32), True, 6_000, 2)]))
    after = planner.plan()
    known = {id(query) for query in before.queries}
    assert 1 <= sum(id(query) not in known for query in after.queries) <= 2
    known = {id(query) for query in before.lists}
    assert 1 <= sum(id(query) not in known for query in after.lists) <= 2


def test_views_of_a_plan_are_made_once_for_all_relays() -> None:
    plan = Planner().plan()
    assert plan.whole is plan.whole
    assert plan.with_lists is plan.with_lists
    assert plan.live_keys is plan.live_keys
    assert plan.live_keys == {query.key for query in plan.live}
