"""The plan: everybody wanted is asked about once, in chunks that a small change leaves alone."""

import random

import pytest

from pipeline.crawl.sync.asked_kinds import PROFILE_KINDS
from pipeline.crawl.sync.members import Member, Members
from pipeline.crawl.sync.plan import LAST_TIER
from pipeline.crawl.sync.planner import MAX_MEMBERS, Planner, chunks
from pipeline.crawl.sync.query import Query, Subject
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.store.wanted_authors import Change
from tests.support.plans import changes, event, key, member, plan_for, query
from tests.support.seeds import seeds

Chunks = dict[str, frozenset[bytes]]


def cut(keys: set[bytes]) -> Chunks:
    """The chunks of `keys`, after checking that they hold each key once, under the bits that it begins with."""
    found = {
        prefix: frozenset(each.public_key for each in chunk)
        for prefix, chunk in chunks([Members.of(map(member, keys))])
    }
    assert sum(map(len, found.values())) == len(keys)
    assert frozenset[bytes]().union(*found.values()) == keys
    for prefix, chunk in found.items():
        assert 1 <= len(chunk) <= MAX_MEMBERS
        assert all(f"{int.from_bytes(each):0256b}".startswith(prefix) for each in chunk)
    return found


def changed(before: Chunks, after: Chunks) -> tuple[dict[str, frozenset[bytes]], dict[str, frozenset[bytes]]]:
    gone = {prefix: chunk for prefix, chunk in before.items() if after.get(prefix) != chunk}
    come = {prefix: chunk for prefix, chunk in after.items() if before.get(prefix) != chunk}
    return gone, come


def people(rng: random.Random, count: int) -> list[bytes]:
    """Random keys, and many that begin alike, as mined ones do."""
    mined = key(0, bits="00000000")[:2]
    return [rng.randbytes(32) if rng.random() < 0.7 else mined + rng.randbytes(30) for _ in range(count)]


@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("size", [3, MAX_MEMBERS, 700])
def test_one_member_more_or_less_changes_one_chunk_or_splits_or_merges_it(size: int, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    keys = set(people(rng, size))
    before, splits, merges = cut(keys), 0, 0
    for _ in range(100):
        # Around one size, so that the same chunk is split and merged again and again.
        more = rng.random() < 0.5 if abs(len(keys) - size) < 3 else len(keys) < size
        one = people(rng, 1)[0] if more else rng.choice(sorted(keys))
        keys ^= {one}
        after = cut(keys)
        gone, come = changed(before, after)
        assert len(gone) <= 1 or len(come) <= 1
        assert frozenset[bytes]().union(*gone.values()) ^ frozenset[bytes]().union(*come.values()) == {one}
        widest = min((*gone, *come), key=len)
        assert all(prefix.startswith(widest) for prefix in (*gone, *come))
        splits += len(come) > len(gone)
        merges += len(gone) > len(come)
        before = after
    assert min(splits, merges) > 0 or size != MAX_MEMBERS


def test_a_chunk_is_split_when_it_is_full() -> None:
    keys = people(random.Random(1), MAX_MEMBERS + 1)
    assert list(cut(set(keys[1:]))) == [""]
    assert len(cut(set(keys))) > 1


def test_members_that_share_all_but_their_last_bits_are_cut_all_the_same() -> None:
    alike = {key(number, bits="1" * 56) for number in range(600)}
    assert len(cut(alike)) >= 3


def test_nobody_makes_no_chunk() -> None:
    assert cut(set()) == {}


def test_the_cut_does_not_depend_on_the_order_of_arrival() -> None:
    rng = random.Random(1)
    keys = people(rng, 900)
    first = cut(set(keys))
    rng.shuffle(keys)
    assert cut(set(keys)) == first


def test_plan_orders_profiles_global_kinds_mentions_authors() -> None:
    users = [key(n) for n in range(3)]
    authors = [key(n) for n in range(10)]
    plan = plan_for(authors, users)
    assert [each.key for each in plan.queries] == ["profiles/", "global/", "mentions/", "authors/"]
    profiles, everything, mentions, by_author = plan.queries
    hexes = frozenset(each.hex() for each in users)
    assert profiles.filter(limit=9) == Filter(authors=frozenset(users), kinds=PROFILE_KINDS, limit=9)
    assert everything.filter(since=5) == Filter(kinds=GLOBAL_KINDS, since=5)
    assert mentions.filter(until=7) == Filter(tags=(("p", hexes),), until=7)
    assert by_author.filter(kinds=frozenset({1})) == Filter(authors=frozenset(authors), kinds=frozenset({1}))
    assert [each.is_live for each in plan.queries] == [False, True, True, True]
    assert plan_for().queries == (everything,)


def test_the_plan_follows_changes() -> None:
    """Also the one back and forth within one reading, which comes as one change."""
    planner = Planner()
    alice, bob = key(1), key(2)
    planner.apply(
        changes(3, [Change(alice, True, 5_999, 2), Change(bob, False, 0, 3)], [Change(alice, True, 5_000, 1)])
    )
    assert (planner.generation, planner.plan().generation) == (3, 3)
    authors = planner.plan().queries[-1]
    assert [*authors.members] == [Member(alice, 5, 2)]
    assert authors.generation == 2
    planner.apply(changes(6, [Change(alice, True, 9_000, 6), Change(bob, True, 8_000, 5)]))
    assert [*planner.plan().queries[-1].members] == [Member(alice, 9, 6), Member(bob, 8, 5)]
    planner.apply(
        changes(8, [Change(alice, False, 9_000, 7), Change(bob, False, 8_000, 8)], [Change(alice, False, 0, 8)])
    )
    assert [each.key for each in planner.plan().queries] == ["global/"]


def test_what_did_not_change_is_equal_so_that_nothing_is_asked_anew() -> None:
    planner = Planner()
    planner.apply(changes(1, [Change(key(n, bits=f"{n % 8:03b}"), True, 0, 1) for n in range(1500)]))
    before = planner.plan()
    planner.apply(changes(2, [Change(key(8, bits="000"), True, 0, 2)]))
    different = set(planner.plan().queries) - set(before.queries)
    assert len(different) == 1


def test_parts_hold_every_member_once() -> None:
    whole = query(Subject.AUTHORS, [key(n) for n in range(250)], "01")
    assert whole.parts(250) == [whole]
    for most in (1, 7, 125, 249):
        parts = whole.parts(most)
        assert all(len(part.members) <= most and part.key == whole.key for part in parts)
        assert [each for part in parts for each in part.members] == list(whole.members)
    assert Query(Subject.GLOBAL, "").parts(1) == [Query(Subject.GLOBAL, "")]


def test_the_queries_ask_for_what_is_relevant_and_for_nothing_else() -> None:
    user, friend, stranger = key(1), key(2), key(3)
    queries = plan_for([user, friend], [user]).queries
    live = [each.filter(limit=0) for each in queries if each.is_live]

    def asked(**kwargs: object) -> bool:
        return any(each.matches(event(5, **kwargs)) for each in live)  # type: ignore[arg-type]  # passed on as they are

    assert all(asked(author=stranger, kind=kind) for kind in GLOBAL_KINDS)
    assert asked(author=user)
    assert asked(author=friend, kind=30_023)
    assert asked(author=stranger, mentions=[friend, user])
    assert not asked(author=stranger, mentions=[friend])
    assert not asked(author=stranger)


def test_authors_of_each_tier_are_cut_by_themselves_the_first_tier_first() -> None:
    planner, rng = Planner(), random.Random(1)
    tiers = [set(people(rng, count)) for count in (300, 20, 0, 400)]
    began = [Change(each, True, 0, 1, tier) for tier, keys in enumerate(tiers) for each in sorted(keys)]
    planner.apply(changes(1, began))
    asked = [each for each in planner.plan().queries if each.subject is Subject.AUTHORS]
    assert [each.tier for each in asked] == sorted(each.tier for each in asked)
    for tier, keys in enumerate(tiers):
        found = [each for each in asked if each.tier == tier]
        assert [member.public_key for each in found for member in each.members] == sorted(keys)
        bits = [f"{int.from_bytes(member.public_key):0256b}" for each in found for member in each.members[:1]]
        assert all(first.startswith(each.bits) for first, each in zip(bits, found, strict=True))
    assert len({each.key for each in asked}) == len(asked)


def test_many_of_a_later_tier_change_no_chunk_of_those_before_them() -> None:
    planner, rng = Planner(), random.Random(1)
    planner.apply(changes(1, [Change(each, True, 0, 1, tier) for tier in (0, 2) for each in people(rng, 400)]))
    before = {each.key: each for each in planner.plan().queries}
    planner.apply(changes(2, [Change(each, True, 0, 2, 3) for each in people(rng, 9_000)]))
    after = {each.key: each for each in planner.plan().queries}
    assert all(after[key] is each for key, each in before.items() if each.members)
    assert {after[key].tier for key in after.keys() - before.keys()} == {3}


def test_author_who_changes_tiers_is_in_one() -> None:
    planner = Planner()
    planner.apply(changes(1, [Change(key(number), True, 0, 1, 3) for number in range(9)]))
    planner.apply(changes(2, [Change(key(4), True, 0, 2, 1), Change(key(5), False, 0, 2, 3)]))
    found = [(each.tier, member) for each in planner.plan().live for member in each.members]
    assert [each for each in found if each[1].public_key == key(4)] == [(1, Member(key(4), 0, 2))]
    assert len(found) == 8


def test_queries_for_users_are_no_part_of_the_others() -> None:
    users, others = [key(n) for n in range(3)], [key(n) for n in range(10)]
    plan = plan_for(others, users)
    assert [each.public_key for query in plan.users for each in query.members] == users
    assert not {each.key for each in plan.users} & {each.key for each in plan.queries}
    assert plan.with_lists.users == plan.users


def test_plan_with_a_former_last_tier_has_all_else_as_it_is_now() -> None:
    planner = Planner()
    planner.apply(changes(1, [Change(key(1), True, 0, 1, LAST_TIER), Change(key(2), True, 0, 1, 0)]))
    former = planner.plan()
    planner.apply(changes(2, [Change(key(3), True, 0, 2, LAST_TIER), Change(key(4), True, 0, 2, 0)]))
    newest = planner.plan()
    held = newest.with_last_tier_of(former)
    named = {each.public_key for query in held.queries for each in query.members}
    assert named == {key(1), key(2), key(4)}
    assert held.newest is newest
    assert held.last_tier == former.last_tier
    assert held.last_tier_generation == 1 < newest.last_tier_generation
    lists = {
        each.public_key for query in held.with_lists.queries for each in query.members if query not in held.queries
    }
    assert lists == {key(1), key(2), key(4)}
    assert held.with_lists.newest == newest.with_lists


def test_plan_whose_last_tier_did_not_change_is_the_same_object() -> None:
    planner = Planner()
    planner.apply(changes(1, [Change(key(1), True, 0, 1, LAST_TIER)]))
    former = planner.plan()
    planner.apply(changes(2, [Change(key(2), True, 0, 2, 0)]))
    newest = planner.plan()
    assert newest.with_last_tier_of(former) is newest
    assert newest.newest is newest
