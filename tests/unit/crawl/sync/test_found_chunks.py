"""Who comes first at a relay, kept up with plans and lists: the same as from a fresh look-up."""

import random
from collections.abc import Callable

import pytest

from pipeline.crawl.sync import found_chunks
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.planner import Planner
from pipeline.crawl.sync.query import Query
from pipeline.crawl.sync.relay_lists import Named, RelayLists
from pipeline.store.relay_lists import Listed
from pipeline.store.wanted_authors import TIERS, Change
from tests.support.plans import changes
from tests.support.seeds import seeds

HERE, ELSEWHERE = 1, 2


def asked(named: Named, plan: Plan) -> list[Query]:
    return list(named.first(plan.live, plan.users))


def described(queries: list[Query]) -> list[tuple[str, list[object], int]]:
    return [(query.key, [*query.members], query.generation) for query in queries]


class World:
    """Some who are wanted, some of them users, and what their lists say."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.planner, self.lists = Planner(), RelayLists()
        self.keys = [rng.randbytes(32) for _ in range(3_000)]
        self.named = self.lists.at(HERE)

    def want(self, most: int) -> None:
        generation = self.planner.generation + 1
        some = self.rng.sample(self.keys, self.rng.randrange(1, most))
        authors = [
            Change(key, self.rng.random() < 0.8, 1000, generation, self.rng.choice((0, TIERS - 1))) for key in some
        ]
        users = [Change(key, self.rng.random() < 0.8, 1000, generation) for key in some[: len(some) // 8]]
        self.planner.apply(changes(generation, authors, users))

    def list(self, most: int) -> None:
        relays = ((), (HERE,), (HERE, ELSEWHERE), (ELSEWHERE,))
        some = self.rng.sample(self.keys, self.rng.randrange(1, most))
        said = [Listed(key, self.rng.choice(relays), self.rng.choice(relays)) for key in some]
        if changed := self.lists.apply(said).get(HERE):
            self.named = self.named.after(changed)


@pytest.mark.parametrize("most_stale", [50, 10_000])
@pytest.mark.parametrize("seed", seeds(12))
def test_what_is_kept_up_is_what_a_fresh_look_up_finds(
    seed: int, most_stale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_chunks, "_MOST_STALE", most_stale)
    world = World(random.Random(seed))
    steps: list[Callable[[int], None]] = [world.want, world.list]
    for step in steps:
        step(3_000)
    for _ in range(12):
        for step in world.rng.choices(steps, k=world.rng.randrange(1, 3)):
            step(world.rng.choice((2, 40, 1_500)))
        plan = world.planner.plan()
        kept = described(asked(world.named, plan))
        assert kept == described(asked(world.lists.at(HERE), plan))
        assert kept


def test_what_did_not_change_is_neither_looked_up_nor_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(random.Random(5))
    world.planner.apply(changes(1, [Change(key, True, 1000, 1) for key in world.keys]))
    world.lists.apply([Listed(key, (HERE,), ()) for key in world.keys])
    before = asked(world.named, world.planner.plan())
    looked_up: list[Query] = []
    look_up = Named.keys_among

    def counted(named: Named, query: Query) -> set[bytes]:
        looked_up.append(query)
        return look_up(named, query)

    monkeypatch.setattr(Named, "keys_among", counted)
    new, moved = world.rng.randbytes(32), world.keys[0]
    world.planner.apply(changes(2, [Change(new, True, 1000, 2)]))
    changed = world.lists.apply([Listed(new, (HERE,), ()), Listed(moved, (ELSEWHERE,), ())])
    world.named = world.named.after(changed[HERE])
    after = asked(world.named, world.planner.plan())
    assert len(looked_up) <= 3, "the chunks of two, of which one may be cut"
    same = {id(query) for query in before} & {id(query) for query in after}
    assert len(same) >= len(before) - 3
    assert {key for query in after for key in query.members.keys} == {*world.keys, new} - {moved}
