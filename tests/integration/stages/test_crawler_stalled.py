"""One crawler and relays that stand still: for a while, or in the middle of a message."""

import socket
import threading

import pytest

from pipeline.crawl import connection
from tests.fakes.proxy import CountingProxy
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Connected
from tests.integration.relay.peers import TEXT, Peer, accept_websocket, frame
from tests.integration.stages.support import World, wait_until
from tests.integration.stages.test_crawler import crawling, profiles, quick, wait_arrived, wait_live

__all__ = ["quick"]


def address_of(relay: ScriptedRelay) -> tuple[str, int]:
    host, _, port = relay.url.removeprefix("ws://").partition(":")
    return host, int(port)


def test_relay_that_stands_still_delays_no_other_and_goes_on(world: World) -> None:
    during, after = profiles(20, first=100), profiles(10, first=200)
    with ScriptedRelay() as still, ScriptedRelay() as other, CountingProxy(*address_of(still)) as proxy:
        with crawling(world, proxy.url, other.url):
            wait_live(still)
            wait_live(other)
            with proxy.held():
                still.publish(*during[:10])
                other.publish(*during[10:])
                wait_arrived(world, during[10:])
            wait_arrived(world, during[:10])
            still.publish(*after)
            wait_arrived(world, after)
        assert len(still.journal.of(Connected)) == 1


def test_relay_that_breaks_off_a_message_is_dialled_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PING_AFTER_S", 0.5)
    broken_off = frame(TEXT, b'["NOTICE","' + b"x" * 1_000 + b'"]')[:500]

    def breaks_off(conn: socket.socket, over: threading.Event) -> None:
        accept_websocket(conn, then=broken_off)
        over.wait()

    with Peer(breaks_off) as peer, ScriptedRelay(events=(stored := profiles(5))) as other:
        url = peer.address.url
        with crawling(world, url, other.url) as running:
            wait_arrived(world, stored)
            lost = "relay_connection_disconnections_counter_total"
            wait_until(lambda: running.metric(lost, address=url, reason="error") > 1, "two losses counted", 60)
