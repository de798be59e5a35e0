"""Whose events are wanted, from home over the hub to crawling hosts, on a real PostgreSQL."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.hub import plan_feed
from pipeline.hub.connection import HubConnection, HubRefused
from pipeline.hub.plan_feed import PlanFeed
from pipeline.hub.plan_sync import PlanSync
from pipeline.process.clock import ManualClock
from pipeline.process.logs import get_logger
from pipeline.store import plan_copy, relay_lists, users, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.database import Database
from pipeline.store.held_shares import OperatorOrders, put_relay
from pipeline.store.relay_candidates import candidates
from pipeline.store.relay_lists import RelayList
from pipeline.store.schema import open_database
from pipeline.store.wanted_authors import Change
from tests.fakes.postgres import Hub

HOUR_MS = 3_600_000


def key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


class World:
    """Home and one crawling host, each with its database and connection."""

    def __init__(self, hub: Hub, directory: Path, stack: ExitStack) -> None:
        self.clock = ManualClock(1_700_000_000_000 // HOUR_MS * HOUR_MS)
        self.home = stack.enter_context(open_database(directory / "home.db", self.clock))
        self.edge = stack.enter_context(open_database(directory / "edge.db", self.clock))
        self.home_connection = stack.enter_context(HubConnection.open(hub.home))
        self.edge_connection = stack.enter_context(HubConnection.open(hub.add_host("fra1")))
        self.feed, self.sync = self.new_feed(), self.new_sync()

    def new_feed(self) -> PlanFeed:
        return PlanFeed(self.clock, get_logger("test"))

    def new_sync(self) -> PlanSync:
        return PlanSync(self.clock, get_logger("test"))

    def want(self, numbers: Iterable[int]) -> None:
        with self.home.write() as tx:
            wanted_authors.acquire(tx, Authors().intern_all(tx, map(key, numbers)), self.clock.now_ms())

    def release(self, numbers: Iterable[int]) -> None:
        with self.home.write() as tx:
            wanted_authors.release(tx, Authors().intern_all(tx, map(key, numbers)))

    def push(self) -> None:
        while self.feed.turn(self.home_connection, self.home):
            pass

    def follow(self) -> None:
        self.clock.advance(60.0)
        while self.sync.turn(self.edge_connection, self.edge):
            pass

    def exchange(self) -> None:
        self.push()
        self.follow()


@pytest.fixture
def world(hub: Hub, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(hub, tmp_path, stack)


def state(database: Database) -> tuple[int, list[Change], list[Change]]:
    """The generation, and who is wanted and registered by it; nothing of those who are not any more."""
    with database.read() as tx:
        changes = wanted_authors.stream_since(tx, 0)
        found = (list(changes.authors), list(changes.registered))
    authors, registered = (
        sorted(
            # Other hosts know the hour.
            (replace(each, since=each.since // HOUR_MS * HOUR_MS) for each in part if each.wanted),
            key=lambda each: each.public_key,
        )
        for part in found
    )
    return changes.generation, authors, registered


def test_wanted_authors_and_users_arrive_and_leave(world: World) -> None:
    world.want(range(50))
    with world.home.write() as tx:
        users.register(tx, key(7), world.clock.now_ms())
        users.register(tx, key(99), world.clock.now_ms())
    world.exchange()
    assert state(world.edge) == state(world.home)
    assert [each.public_key for each in state(world.edge)[2]] == sorted([key(7), key(99)])
    world.release(range(10))
    with world.home.write() as tx:
        users.remove(tx, key(99), world.clock.now_ms())
    world.exchange()
    assert state(world.edge) == state(world.home)
    with world.edge.read() as tx:
        assert wanted_authors.count(tx) == len(state(world.home)[1])


def test_slices_of_one_generation_are_seen_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_feed, "SLICE", 7)
    monkeypatch.setattr("pipeline.hub.plan_sync.SLICE", 4)
    monkeypatch.setattr("pipeline.hub.plan_sync._FETCHED", 10)
    monkeypatch.setattr("pipeline.hub.plan_sync._TURN_S", 0.0)
    world.want(range(30))
    world.feed.turn(world.home_connection, world.home)
    world.follow()
    assert state(world.edge) == (0, [], []), "nothing is published"
    world.push()
    # A turn of no time does nothing; so each is one step.
    monkeypatch.setattr("pipeline.hub.plan_sync._TURN_S", 1e-9)
    seen = set()
    world.clock.advance(60.0)
    steps = 0
    while world.sync.turn(world.edge_connection, world.edge) or steps == 0:
        seen.add(len(state(world.edge)[1]))
        world.clock.advance(1.0)
        steps += 1
        assert steps < 1_000
    assert seen <= {0, 30}
    assert state(world.edge) == state(world.home)


def test_new_host_has_the_same_as_one_that_followed_all_along(world: World, hub: Hub, tmp_path: Path) -> None:
    for first in range(0, 60, 20):
        world.want(range(first, first + 30))
        world.release(range(first, first + 5))
        world.exchange()
    with open_database(tmp_path / "new.db", world.clock) as database:
        world.edge, world.sync = database, world.new_sync()
        world.edge_connection = HubConnection.open(hub.add_host("ams1"))
        world.follow()
        world.edge_connection.close()
        assert state(database) == state(world.home)


def test_author_who_was_never_wanted_is_not_told(world: World, hub: Hub) -> None:
    with world.home.write() as tx:
        users.block(tx, key(5), world.clock.now_ms())
    world.want([1])
    world.exchange()
    assert hub.rows("SELECT public_key FROM hub.plan_authors") == [(key(1),)]


def test_home_restored_from_an_older_copy_corrects_the_plan(world: World, tmp_path: Path) -> None:
    world.want(range(10))
    world.exchange()
    with open_database(tmp_path / "copy.db", world.clock) as copy:
        copied = world.home
        world.home = copy
        world.want(range(10))
        world.home = copied
        world.want(range(10, 20))
        world.release(range(3))
        world.exchange()
        followed = state(world.edge)[0]
        world.home, world.feed = copy, world.new_feed()
        world.home_connection.call("plan_v1")
        world.exchange()
        generation, authors, _ = state(world.edge)
        assert generation > followed
        assert [each.public_key for each in authors] == sorted(map(key, range(10)))
        assert all(each.generation == generation for each in authors if each.public_key in map(key, range(3)))
        world.want([30])
        world.exchange()
        assert state(world.edge) == state(copy)


def put_list(database: Database, author: int, event: bytes, *addresses: str) -> None:
    with database.write() as tx:
        numbers = [put_relay(tx, each, OperatorOrders(), 1) for each in addresses]
        (number,) = Authors().intern_all(tx, [key(author)])
        relay_lists.replace(tx, RelayList(number, event, int.from_bytes(event), tuple(numbers), tuple(numbers[:1])))


def named(database: Database) -> dict[bytes, tuple[list[str], list[str]]]:
    with database.read() as tx:
        found = list(relay_lists.changed_since(tx, 0, 0))
        addresses = {number: str(address) for number, address in tx.execute("SELECT id, address FROM relays")}
    return {
        each.public_key: (sorted(addresses[n] for n in each.writes), sorted(addresses[n] for n in each.reads))
        for each in found
        if each.writes
    }


def test_relay_lists_of_wanted_authors_arrive_by_address(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.hub.plan_feed._LISTS_SLICE", 2)
    monkeypatch.setattr("pipeline.hub.plan_sync._LISTS_SLICE", 2)
    one, two = "wss://one.example", "wss://two.example"
    with world.edge.write() as tx:
        put_relay(tx, two, OperatorOrders(), 1)
    world.want(range(5))
    for author in range(6):
        put_list(world.home, author, b"\x01", one, two)
    world.exchange()
    assert named(world.edge) == named(world.home) == {key(n): ([one, two], [one]) for n in range(5)}
    put_list(world.home, 3, b"\x02", two)
    world.want([5])
    world.exchange()
    assert named(world.edge) == named(world.home)
    assert named(world.edge)[key(3)] == ([two], [two])
    assert named(world.edge)[key(5)] == ([one, two], [one]), "known before the author was wanted"
    world.sync = world.new_sync()
    world.follow()
    with world.edge.read() as tx:
        assert [each.address for each in candidates(tx, discovered=True, limit=9)] == [two], "a list dials no relay"


def test_database_with_a_life_of_its_own_cannot_join(world: World) -> None:
    with world.edge.write() as tx:
        users.register(tx, key(1), world.clock.now_ms())
    with pytest.raises(HubRefused, match="new file"):
        world.follow()


def test_database_of_another_hub_cannot_join(world: World) -> None:
    with world.edge.write() as tx:
        plan_copy.put_followed(tx, plan_copy.FollowedPlan("another", 0))
    with pytest.raises(HubRefused, match="another hub"):
        world.follow()
