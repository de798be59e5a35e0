"""A crawler of a host that shares the relays with others: it asks what its host holds, as long as it does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.nostr.address import parse_address
from pipeline.process import procfs
from pipeline.process.clock import since_boot_s
from pipeline.store import held_shares
from pipeline.store.held_shares import OperatorOrders, StoredRight
from stages import crawler
from tests.fakes.behaviour import Behaviour, Upgrade
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Connected
from tests.integration.stages.support import Running, World, wait_until
from tests.integration.stages.test_crawler import wait_live

LEASE_S = 3_600.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[World]:
    """Nobody answers at the hub's address: a crawler does not speak to it."""
    made = World(
        tmp_path,
        {"EVENTS_HUB": "postgresql://127.0.0.1:1/none", "EVENTS_ROLE": "crawler", "EVENTS_HOST": "fra1"},
    )
    yield made
    made.close()


def key_of(relay: ScriptedRelay) -> str:
    return parse_address(relay.url).host_key


def hold(host: World, version: int, *relays: ScriptedRelay, boot: str | None = None, asked_at: float = 0.0) -> None:
    """What the uplink writes: exactly these are held, by a right that was asked for now, or `asked_at`."""
    with host.database.write() as tx:
        for relay in relays:
            held_shares.put_relay(tx, relay.url, OperatorOrders(), 1)
        keys = {key_of(relay) for relay in relays}
        held_shares.change_hosts(tx, added=keys, removed=held_shares.hosts(tx) - keys)
        found = procfs.boot_id() if boot is None else boot
        held_shares.put_right(tx, StoredRight(found, asked_at or since_boot_s(), LEASE_S, version))


def followed(host: World) -> int:
    with host.database.read() as tx:
        return held_shares.followed(tx).get("crawler-0", -1)


def crawling(host: World) -> Running:
    return Running(host.context("crawler", {"EVENTS_CRAWLERS": "1"}), crawler.run)


def test_relay_is_asked_while_held_and_let_alone_afterwards(host: World) -> None:
    with ScriptedRelay() as one, ScriptedRelay() as two:
        hold(host, 1, one)
        with crawling(host):
            wait_live(one)
            hold(host, 2, one, two)
            wait_live(two)
            wait_until(lambda: followed(host) >= 2, "followed")
            hold(host, 3, two)
            one.wait_for_disconnection()
            wait_until(lambda: followed(host) >= 3, "followed")
            assert two.connections == 1
        assert len(one.journal.of(Connected)) == 1


@pytest.mark.parametrize("what", ["other boot", "over"])
def test_right_of_another_boot_or_an_earlier_time_asks_nothing(host: World, what: str) -> None:
    with ScriptedRelay() as relay:
        if what == "other boot":
            hold(host, 1, relay, boot="another")
        else:
            hold(host, 1, relay, asked_at=since_boot_s() - LEASE_S)
        with crawling(host):
            # Nothing is asked that is not covered, which it says.
            wait_until(lambda: followed(host) >= 1, "followed")
            assert relay.journal.of(Connected) == []
            hold(host, 2, relay)
            wait_live(relay)


def test_relay_that_refuses_this_host_is_told_to_the_hub(host: World) -> None:
    with ScriptedRelay(Behaviour(upgrade=Upgrade(403))) as relay:
        hold(host, 1, relay)
        with crawling(host):
            wait_until(lambda: bool(host.query("SELECT 1 FROM unfit_hosts")), "said")
    assert host.query("SELECT host_key, reason FROM unfit_hosts") == [(key_of(relay), "refused with 403")]
