"""Who holds which relays, on a real PostgreSQL: the functions, and both sides that call them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from pipeline.hub.connection import HubConnection, HubRefused
from pipeline.hub.share_lease import ShareLease
from pipeline.hub.share_sync import LEASE_S, ShareSync
from pipeline.hub.share_wish import ShareWish
from pipeline.process.clock import ManualClock
from pipeline.process.logs import get_logger
from pipeline.store import held_shares
from pipeline.store.database import Database
from pipeline.store.held_shares import OperatorOrders, OrderedRelay
from pipeline.store.schema import open_database
from tests.fakes.postgres import Hub

LEASE_MS = 30_000
RELAYS = [OrderedRelay(f"wss://r{n}.example", f"r{n}.example", OperatorOrders(crawled_since=1_000)) for n in range(40)]
KEYS = [each.host_key for each in RELAYS]


@dataclass
class Caller:
    """A host as its connection sees it."""

    connection: HubConnection
    number: int = 0
    confirmed: int = 0

    def renew(self, *, takes: bool = True) -> tuple[set[str], set[str], bool]:
        self.number += 1
        ((_, went_back, held, leaving),) = self.connection.call(
            "renew_shares_v1", LEASE_MS, -1, self.number, self.confirmed, takes
        )
        self.confirmed = self.number
        return set(held), set(leaving), went_back


@contextmanager
def callers(hub: Hub, *hosts: str) -> Iterator[list[Caller]]:
    with ExitStack() as stack:
        yield [Caller(stack.enter_context(HubConnection.open(hub.add_host(host)))) for host in hosts]


@pytest.fixture
def home(hub: Hub) -> Iterator[HubConnection]:
    with HubConnection.open(hub.home) as connection:
        yield connection


def lapse(hub: Hub, host: str) -> None:
    hub.rows("UPDATE hub.share_leases SET until = 0 WHERE host = %s RETURNING 1", host)


def test_wished_share_is_taken_and_moves_only_after_release(hub: Hub, home: HubConnection) -> None:
    with callers(hub, "fra1", "ams1") as (fra, ams):
        home.call("wish_shares_v1", ["a", "b"], ["fra1", "ams1"])
        assert fra.renew() == ({"a"}, set(), False)
        assert ams.renew() == ({"b"}, set(), False)
        home.call("wish_shares_v1", ["a"], ["ams1"])
        assert ams.renew()[0] == {"b"}
        assert fra.renew() == (set(), {"a"}, False)
        fra.connection.call("release_shares_v1", ["a", "b"])
        assert ams.renew()[0] == {"a", "b"}, "b was not fra1's to release"


def test_share_of_a_lapsed_lease_is_taken_and_lost(hub: Hub, home: HubConnection) -> None:
    with callers(hub, "fra1", "ams1") as (fra, ams):
        home.call("wish_shares_v1", ["a", "b"], ["fra1", "fra1"])
        assert fra.renew()[0] == {"a", "b"}
        home.call("wish_shares_v1", ["a"], ["ams1"])
        lapse(hub, "fra1")
        assert ams.renew()[0] == {"a"}
        assert fra.renew() == ({"b"}, set(), False)


def test_relay_that_is_wanted_no_more_leaves_no_share(hub: Hub, home: HubConnection) -> None:
    with callers(hub, "fra1") as (fra,):
        home.call("wish_shares_v1", ["a"], ["fra1"])
        fra.renew()
        home.call("wish_shares_v1", ["a"], [None])
        assert fra.renew() == (set(), {"a"}, False)
        fra.connection.call("release_shares_v1", ["a"])
        assert home.call("shares_v1") == []


def test_nothing_is_taken_from_a_hub_that_went_back(hub: Hub, home: HubConnection) -> None:
    with callers(hub, "fra1") as (fra,):
        fra.number = 100
        assert fra.renew() == (set(), set(), False)
        home.call("wish_shares_v1", ["a"], ["fra1"])
        hub.rows("UPDATE hub.share_leases SET renewal = 90 RETURNING 1")
        assert fra.renew() == (set(), set(), True)
        assert fra.renew(takes=False) == (set(), set(), False)
        assert fra.renew()[0] == {"a"}


def set_clock(hub: Hub, ahead_ms: int) -> None:
    """Let the database's clock be ahead of the true time."""
    with psycopg.connect(hub.owner) as owner:
        owner.execute(
            "CREATE OR REPLACE FUNCTION hub.now_ms() RETURNS bigint LANGUAGE sql VOLATILE"
            f" AS 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {ahead_ms}'"
        )


@pytest.mark.parametrize("ahead_ms", [3_600_000, -3_600_000])
def test_lease_neither_ends_nor_lasts_by_a_step_of_the_clock(hub: Hub, home: HubConnection, ahead_ms: int) -> None:
    with callers(hub, "fra1", "ams1") as (fra, ams):
        home.call("wish_shares_v1", ["a"], ["fra1"])
        assert fra.renew()[0] == {"a"}
        home.call("wish_shares_v1", ["a"], ["ams1"])
        set_clock(hub, ahead_ms)
        assert ams.renew()[0] == set(), "fra1 may still ask"
        ((left,),) = hub.rows("SELECT until - hub.now_ms() FROM hub.share_leases WHERE host = 'fra1'")
        assert isinstance(left, int)
        assert 0 < left <= LEASE_MS


def test_hub_that_went_back_is_known_by_the_next_process(hub: Hub, home: HubConnection, tmp_path: Path) -> None:
    """What the hub confirmed is remembered over restarts."""
    home.call("wish_shares_v1", ["r0.example"], ["fra1"])

    def renewed(database: Database) -> ShareSync:
        sync = ShareSync(ManualClock(), lambda: 100.0, "boot", list, get_logger("test"))
        sync.turn(edge, database)
        return sync

    with HubConnection.open(hub.add_host("fra1")) as edge, open_database(tmp_path / "x.db", ManualClock()) as database:
        assert renewed(database).lease.trusted_at == 0
        assert renewed(database).lease.trusted_at == 0
        hub.rows("UPDATE hub.share_leases SET renewal = 1 RETURNING 1")
        assert renewed(database).lease.trusted_at > 0


def test_unfit_host_loses_the_wish_for_a_day_and_longer_each_time(hub: Hub, home: HubConnection) -> None:
    with callers(hub, "fra1") as (fra,):
        home.call("wish_shares_v1", ["a"], ["fra1"])
        fra.renew()
        for days in (1, 2, 4):
            for _ in range(2):
                fra.connection.call("report_unfit_v1", "a", "refused with 403")
            assert fra.renew()[:2] == (set(), {"a"})
            ((host, key, until, reason),) = home.call("unfit_v1")
            ((now,),) = hub.rows("SELECT hub.now_ms()")
            assert (host, key, reason) == ("fra1", "a", "refused with 403")
            assert 0 <= now - until + days * 86_400_000 < 3_600_000
            hub.rows("UPDATE hub.unfit SET until = hub.now_ms() - 1 RETURNING 1")
            home.call("wish_shares_v1", ["a"], ["fra1"])
        fra.connection.call("report_unfit_v1", "unknown", "never held")
        assert len(hub.rows("SELECT 1 FROM hub.unfit")) == 1


def test_share_has_one_holder_whatever_many_do_at_once(hub: Hub, home: HubConnection) -> None:
    hosts = ["fra1", "ams1", "nyc1"]
    errors: list[BaseException] = []

    def move(caller: Caller, turns: int) -> None:
        try:
            for _ in range(turns):
                _, leaving, _ = caller.renew()
                caller.connection.call("release_shares_v1", sorted(leaving))
        except BaseException as error:
            errors.append(error)

    with callers(hub, *hosts) as found:
        threads = [threading.Thread(target=move, args=(each, 30)) for each in found]
        for thread in threads:
            thread.start()
        for turn in range(20):
            home.call("wish_shares_v1", KEYS, [hosts[(turn + n) % 3] for n in range(len(KEYS))])
        for thread in threads:
            thread.join()
        assert errors == []
        for each in found * 2:
            move(each, 1)
        held = [each.renew()[0] for each in found]
    assert sorted(key for each in held for key in each) == sorted(KEYS)


@pytest.mark.parametrize("function", ["wish_shares_v1", "wish_relays_v1"])
def test_crawling_host_cannot_decide_who_crawls(hub: Hub, function: str) -> None:
    with callers(hub, "fra1") as (fra,), pytest.raises(HubRefused, match="permission denied"):
        fra.connection.call(function, *([["a"]] * (2 if function == "wish_shares_v1" else 3)))


@dataclass
class Host:
    """A crawling host: its database, and what keeps its shares."""

    connection: HubConnection
    database: Database
    clock: ManualClock
    crawlers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sync = ShareSync(
            self.clock, self.clock.monotonic, "boot", lambda: self.crawlers, get_logger("test"), ShareLease(LEASE_S)
        )

    def turn(self) -> None:
        self.sync.lease.renew_at = 0.0
        self.connection.call("report_v1", "1", self.clock.now_ms(), 0, 0)
        self.sync.turn(self.connection, self.database)

    def hosts(self) -> frozenset[str]:
        with self.database.read() as tx:
            return held_shares.hosts(tx)


@contextmanager
def crawling_hosts(hub: Hub, directory: Path, clock: ManualClock, *names: str) -> Iterator[list[Host]]:
    with ExitStack() as stack:
        yield [
            Host(
                stack.enter_context(HubConnection.open(hub.add_host(name))),
                stack.enter_context(open_database(directory / f"{name}.db", clock)),
                clock,
            )
            for name in names
        ]


def wish_of(relays: Sequence[OrderedRelay], clock: ManualClock) -> ShareWish:
    return ShareWish(clock, lambda _: relays, get_logger("test"))


def test_relays_are_shared_out_and_move_when_a_host_leaves(hub: Hub, home: HubConnection, tmp_path: Path) -> None:
    clock = ManualClock()
    with (
        open_database(tmp_path / "home.db", clock) as database,
        crawling_hosts(hub, tmp_path, clock, "fra1", "ams1") as hosts,
    ):
        wish = wish_of(RELAYS, clock)

        def everyone(*turning: Host) -> None:
            for _ in range(3):
                for each in turning:
                    each.turn()
                clock.advance(5.0)
                wish.turn(home, database)

        everyone(*hosts)
        assert sorted(key for each in hosts for key in each.hosts()) == sorted(KEYS)
        assert all(len(each.hosts()) > len(KEYS) / 5 for each in hosts)
        hosts[0].sync.leave(hosts[0].connection, hosts[0].database)
        hub.rows("UPDATE hub.hosts SET is_draining = true WHERE host = 'fra1' RETURNING 1")
        everyone(hosts[1])
        assert hosts[1].hosts() == set(KEYS)
        assert hosts[0].hosts() == frozenset()


def test_share_comes_with_its_relays_cursors_and_limits(hub: Hub, home: HubConnection, tmp_path: Path) -> None:
    clock = ManualClock()
    orders = OperatorOrders(by_operator=True, ask="query", spelling="wss://r0.example/", crawled_since=5_000)
    ordered = [OrderedRelay("wss://r0.example", "r0.example", orders)]
    hub.rows("INSERT INTO hub.cursors VALUES ('wss://r0.example', 'authors/0', 1600000000, 4) RETURNING 1")
    hub.rows("INSERT INTO hub.limits VALUES ('wss://r0.example', '{\"max\":1}') RETURNING 1")
    with (
        open_database(tmp_path / "home.db", clock) as database,
        crawling_hosts(hub, tmp_path, clock, "fra1") as (host,),
    ):
        wish = wish_of(ordered, clock)
        host.turn()
        wish.turn(home, database)
        host.turn()
        assert host.hosts() == {"r0.example"}
        with host.database.read() as tx:
            known = tx.execute("SELECT operator, ask, crawled_since, limits, source FROM relays").fetchall()
            moved = tx.execute(
                "SELECT address, query, complete_until, generation FROM cursors JOIN relays ON id = relay"
            )
            assert known == [("added", "query", 5_000, '{"max":1}', "hub")]
            assert moved.fetchall() == [("wss://r0.example", "authors/0", 1_600_000_000, 4)]
            right = held_shares.right(tx)
        assert right is not None
        assert (right.boot, right.lease_s) == ("boot", LEASE_S)
        wish.choose = lambda _: []
        clock.advance(10.0)
        wish.turn(home, database)
        host.turn()
        assert host.hosts() == frozenset()
        host.turn()
        assert home.call("shares_v1") == []
