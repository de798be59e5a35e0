"""A machine that strangers name under hundreds of names is dialled a few times."""

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic

import pytest

from pipeline.relay.dial import DialPolicy
from pipeline.relay.dial_gate import PER_ADDRESS, PER_PREFIX
from pipeline.relay.resolve import SocketAddress
from pipeline.store import relay_mentions, users
from pipeline.store.authors import Authors
from stages import crawler
from tests.fakes.relay import ScriptedRelay
from tests.fakes.tcp import TcpServer, hang_up
from tests.integration.stages.support import Running, World, wait_until

NAMES = 120
SETTINGS = {"EVENTS_CRAWLERS": "1", "EVENTS_DISCOVER_RELAYS": "true", "EVENTS_BOOTSTRAP_RELAYS": ""}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawler, "_TURN_S", 0.01)
    monkeypatch.setattr(crawler, "_LOOK_AT_RELAYS_S", 0.1)
    monkeypatch.setattr(crawler, "_LOOK_SHARE", 1.0)


def resolving(monkeypatch: pytest.MonkeyPatch, places: dict[str, str]) -> None:
    """Let names lead to loopback addresses, by their registered domain."""

    def resolve(host: str, port: int) -> Sequence[SocketAddress]:
        return [(places[".".join(host.split(".")[-2:])], port)]

    policy = functools.partial(DialPolicy, resolver=resolve)
    monkeypatch.setattr(crawler, "DialPolicy", lambda **given: policy(**(given | {"allow_private": True})))


def name(world: World, urls: Sequence[str], *, count: int) -> None:
    """Let two strangers name all of `urls`, and `count` registered users a part each."""
    now = world.clock.now_ms()
    with world.database.write() as tx:
        namings = [(stranger, url, False) for stranger in (9_001, 9_002) for url in urls]
        for user in range(count):
            key = user.to_bytes(32)
            users.register(tx, key, now)
            namings += [(Authors().intern(tx, key), url, True) for url in urls[user::count]]
        for author, url, is_user in namings:
            relay_mentions.record_mention(tx, url, source="relay-list", author=author, is_user=is_user, now=now)


@pytest.mark.parametrize("is_subdomain", [False, True], ids=["domains", "subdomains"])
def test_listener_under_many_names_is_dialled_a_few_times(
    world: World, monkeypatch: pytest.MonkeyPatch, is_subdomain: bool
) -> None:
    """An honest relay among them, at an address of its own, is connected all the same."""
    with ScriptedRelay() as honest, TcpServer(hang_up) as victim:
        hosts = [f"r{n}.victim.example" if is_subdomain else f"victim{n}.example" for n in range(NAMES)]
        places = {".".join(host.split(".")[-2:]): victim.address for host in hosts}
        resolving(monkeypatch, places | {"honest.example": honest.address})
        name(world, [f"ws://{host}:{victim.port}" for host in hosts], count=12)
        name(world, [f"ws://relay.honest.example:{honest.port}"], count=0)
        began = monotonic()
        with Running(world.context("crawler", SETTINGS), crawler.run) as running:
            wait_until(lambda: running.metric("event_service_dial_failures_total", reason="crowded") >= 40)
            connected = "SELECT count(*) FROM relays WHERE state = 'connected'"
            wait_until(lambda: world.value(connected) == 1)
            wait_until(lambda: victim.accepted >= PER_ADDRESS.burst / 2)
            accepted = victim.accepted
            assert accepted <= PER_ADDRESS.burst + PER_ADDRESS.per_minute * (monotonic() - began) / 60
        told = world.query(
            "SELECT DISTINCT substr(last_error, 1, 8), resolved FROM relays WHERE last_error LIKE 'crow%'"
        )
        assert told == [("crowded:", victim.address)]


def test_network_under_many_addresses_is_dialled_a_few_times(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        victims = [stack.enter_context(TcpServer(hang_up, address=f"127.77.7.{n}")) for n in range(1, 80)]
        places = {f"victim{n}.example": victim.address for n, victim in enumerate(victims)}
        resolving(monkeypatch, places)
        name(world, [f"ws://victim{n}.example:{victim.port}" for n, victim in enumerate(victims)], count=8)
        began = monotonic()
        with Running(world.context("crawler", SETTINGS), crawler.run) as running:
            wait_until(lambda: running.metric("event_service_dial_failures_total", reason="crowded") >= 20)
            wait_until(lambda: sum(victim.accepted for victim in victims) >= PER_PREFIX.burst / 2)
            # Whoever hangs up is dialled again, within the same bounds.
            accepted = sum(victim.accepted for victim in victims)
            assert accepted <= PER_PREFIX.burst + PER_PREFIX.per_minute * (monotonic() - began) / 60
