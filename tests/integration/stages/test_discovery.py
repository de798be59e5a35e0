"""From addresses in events to relays that are dialled: by the saver that extracts them and the crawler that chooses."""

import functools
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

import pytest
from websockets.sync.server import Server, ServerConnection, serve

from pipeline.crawl import reconnect, selection
from pipeline.crawl.crowding import CrowdBounds
from pipeline.nostr.address import InvalidAddress, Network, RelayAddress, parse_address
from pipeline.process.rate import Rate
from pipeline.relay import dial_gate
from pipeline.relay.dial import DialPolicy
from pipeline.relay.resolve import SocketAddress
from pipeline.store import relay_mentions, relays
from pipeline.store.relays import OperatorOverride
from stages import crawler, saver
from tests.corpus import needs_real, real_addresses
from tests.corpus.addresses import drawn
from tests.factories.events import authors
from tests.fakes.behaviour import NOSTR_RELAY, Behaviour
from tests.fakes.command_relay import CommandRelay
from tests.fakes.net import free_port
from tests.fakes.publisher import PatientPublisher
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import HttpRequest
from tests.fakes.socks import SocksProxy, onion_host
from tests.integration.relay.peers import make_tls
from tests.integration.stages.support import Running, World, wait_until
from tests.tools.completeness.foreign.registry import QUICK, Listed

(ALICE,) = authors(77, 1)
NOW = int(time())
_LIST = 90


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawler, "_TURN_S", 0.01)
    monkeypatch.setattr(crawler, "_LOOK_AT_RELAYS_S", 0.1)
    monkeypatch.setattr(crawler, "_LOOK_SHARE", 1.0)
    monkeypatch.setattr(reconnect, "_AFTER_LOSS_S", 0.1)


@contextmanager
def crawling(world: World, **settings: Any) -> Iterator[Running]:
    env = {"EVENTS_BOOTSTRAP_RELAYS": "", "EVENTS_CRAWLERS": "1", "EVENTS_DISCOVER_RELAYS": "true", **settings}
    with Running(world.context("crawler", env), crawler.run) as running:
        yield running


def states(world: World) -> dict[str, str]:
    return dict(world.query("SELECT address, state FROM relays WHERE crawled_since IS NOT NULL"))


def test_relays_added_and_removed_by_hand_are_dialled_and_dropped(world: World) -> None:
    """Beside the running crawler, whoever names them."""

    def decide(override: OperatorOverride) -> None:
        with world.database.write() as tx:
            relays.set_operator(tx, relay.url, override, world.clock.now_ms())

    with ScriptedRelay() as relay, crawling(world, EVENTS_DISCOVER_RELAYS="false"):
        decide(OperatorOverride.ADDED)
        wait_until(lambda: states(world).get(relay.url) == "connected")
        decide(OperatorOverride.REMOVED)
        wait_until(lambda: states(world)[relay.url] == "disconnected")
        with world.database.write() as tx:
            for author in range(5):
                relay_mentions.record_mention(
                    tx, relay.url, source="relay-list", author=author, is_user=True, now=world.clock.now_ms()
                )
        decide(OperatorOverride.ADDED)
        wait_until(lambda: states(world)[relay.url] == "connected")


def test_address_is_dialled_as_written_and_after_a_404_as_others_write_it(world: World) -> None:
    """The operator's spelling is wrong, what most authors write too; metrics and rows keep the canonical form."""
    event = ALICE.sign("found", kind=0, created_at=NOW)
    with ScriptedRelay(Behaviour(only_path="/relay//"), events=[event]) as relay:
        canonical = f"{relay.url}/relay"
        with world.database.write() as tx:
            for author, spelling in enumerate(("/relay?", "/relay?", "/relay//")):
                relay_mentions.record_mention(
                    tx, relay.url + spelling, source="hint", author=author, is_user=False, now=world.clock.now_ms()
                )
        with crawling(world, EVENTS_BOOTSTRAP_RELAYS=f"{relay.url}/relay/") as running:
            wait_until(lambda: world.inbox_size() == 1)
            wait_until(lambda: states(world) == {canonical: "connected"})
            wait_until(lambda: running.metric("received_events_counter_total", address=canonical) >= 1)
        paths = [entry.path for entry in relay.journal.of(HttpRequest) if entry.status == 404]
        assert paths[:2] == ["/relay/", "/relay?"]


def ask_whole(world: World, url: str) -> None:
    """Have a relay that is crawled by query asked whole from now on."""

    def asked() -> str:
        return str(world.query("SELECT asked FROM relays")[0][0])

    wait_until(lambda: states(world).get(url) == "connected" and asked() == "query")
    with world.database.write() as tx:
        assert relays.set_ask(tx, url, "whole")
    wait_until(lambda: asked() == "whole")


@pytest.mark.parametrize("behaviour", [Behaviour(), NOSTR_RELAY], ids=["plain", "nostr-relay"])
def test_strategy_is_chosen_beside_the_running_crawler_and_reported(world: World, behaviour: Behaviour) -> None:
    with ScriptedRelay(behaviour) as relay, crawling(world, EVENTS_BOOTSTRAP_RELAYS=relay.url) as running:
        ask_whole(world, relay.url)
        relay.wait_for_req(lambda req: req.filters[0].get("since") == 1 and len(req.filters) == 1)
        relay.publish(ALICE.sign("anybody", kind=0, created_at=NOW))
        wait_until(lambda: world.inbox_size() == 1)
        wait_until(lambda: running.metric("event_service_firehose_relays") == 1)


@pytest.mark.long
@pytest.mark.parametrize("peer", QUICK, ids=lambda peer: peer.name)
def test_foreign_relays_that_are_asked_whole_bring_everything_live(world: World, tmp_path: Path, peer: Listed) -> None:
    if not peer.is_installed:
        pytest.skip(f"{peer.name}: not installed")
    what = peer.variant()
    with (
        CommandRelay(what.command, tmp_path / "relay", env=what.env) as relay,
        PatientPublisher(relay.url) as publisher,
        crawling(world, EVENTS_BOOTSTRAP_RELAYS=relay.url) as running,
    ):
        # An empty relay is not believed before it was asked for each kind.
        publisher.publish([ALICE.sign("stored", kind=0, created_at=NOW - 60)])
        ask_whole(world, relay.url)
        wait_until(lambda: running.metric("event_service_firehose_relays") == 1)
        wait_until(lambda: world.inbox_size() == 1)
        publisher.publish([ALICE.sign("live", kind=3, created_at=NOW)])
        wait_until(lambda: world.inbox_size() == 2)


def test_onion_relay_is_dialled_by_proxy_or_skipped_and_counted(world: World) -> None:
    host = onion_host()
    with world.database.write() as tx:
        for author in (1, 2):
            relay_mentions.record_mention(
                tx, f"ws://{host}", source="relay-list", author=author, is_user=False, now=NOW * 1000
            )
    with crawling(world) as running:
        wait_until(lambda: running.metric("event_service_relays_skipped", reason="no-way") == 1)
    assert states(world) == {}
    event = ALICE.sign("hidden", kind=0, created_at=NOW)
    with ScriptedRelay(events=[event]) as relay, SocksProxy({host: (relay.address, relay.port)}) as proxy:
        with crawling(world, EVENTS_SOCKS_PROXY=f"127.0.0.1:{proxy.port}") as running:
            wait_until(lambda: world.inbox_size() == 1)
            assert running.metric("event_service_relays_skipped", reason="no-way") == 0
        assert set(proxy.asked) == {host}


class Everybody:
    """Every host there is, on loopback: some answer, with TLS where it is asked for, others refuse connections."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.asked: list[str] = []
        self.dead_port = free_port()
        self._servers: list[Server] = [
            serve(self._answer, "127.0.0.1", 0),
            serve(self._answer, "127.0.0.1", 0, ssl=tls),
        ]
        self.plain, self.secure = (server.socket.getsockname()[1] for server in self._servers)

    def __enter__(self) -> "Everybody":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()

    def resolve(self, host: str, port: int) -> Sequence[SocketAddress]:
        self.asked.append(host)
        if not self.is_up(host):
            return [("127.0.0.1", self.dead_port)]
        return [("127.0.0.1", self.secure if port == 443 else self.plain)]

    def is_up(self, host: str) -> bool:
        return sum(host.encode()) % 3 > 0

    def _answer(self, connection: ServerConnection) -> None:
        for message in connection:
            _, subscription = str(message).split('"')[1:4:2]
            if str(message).startswith('["REQ"'):
                connection.send(f'["EOSE","{subscription}"]')


def relay_lists(crowd: int, addresses: Sequence[str]) -> Iterator[Any]:
    """Lists by people of one crowd, each of whom names fewer than one author may."""
    starts = range(0, len(addresses), _LIST)
    for author, first in zip(authors(crowd, len(starts)), starts, strict=True):
        tags = [["r", text] for text in addresses[first : first + _LIST]]
        yield author.sign("", kind=10002, created_at=NOW - first, tags=tags)


@pytest.mark.parametrize("is_real", [False, pytest.param(True, marks=needs_real)], ids=["ours", "real"])
def test_thousands_of_addresses_as_found_in_events(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_real: bool
) -> None:
    """Named by three crowds, the last third by one only: those are never looked up, and nothing that is private."""
    found = [text for text in (real_addresses() if is_real else drawn(3, 4_000)) if text < "\ud800"]
    tls = make_tls(tmp_path, "DNS:anybody")
    if tls is None:
        pytest.skip("no openssl program to make a certificate with")
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    trusted = found[: len(found) * 2 // 3]
    with Running(world.context("saver"), saver.run):
        for crowd, part in ((701, found), (702, trusted), (703, trusted[: len(trusted) // 2])):
            world.put(relay_lists(crowd, part))
        world.wait_saved()
    monkeypatch.setattr(selection, "TRIAL_MS", 700)
    # All of them are one machine here, and most under one domain.
    monkeypatch.setattr(dial_gate, "PER_ADDRESS", Rate(10_000, 10_000))
    monkeypatch.setattr(dial_gate, "PER_PREFIX", Rate(10_000, 10_000))
    monkeypatch.setattr(dial_gate, "PER_DOMAIN", Rate(10_000, 10_000))
    monkeypatch.setattr(CrowdBounds, "of", lambda *_: CrowdBounds(20, 20, 1_000, 1_000, 1_000))
    with Everybody(tls.server) as network:
        policy = functools.partial(DialPolicy, resolver=network.resolve, tls_context=trusting)
        monkeypatch.setattr(crawler, "DialPolicy", lambda **given: policy(**(given | {"allow_private": True})))
        with crawling(world, EVENTS_MAX_RELAYS="60", EVENTS_ALLOW_PRIVATE_RELAYS="false") as running:
            # More than there are places: the others are tried out.
            wait_until(lambda: len(set(network.asked)) > 150, "150 hosts asked", 60.0)
            wait_until(lambda: Counter(states(world).values())["connected"] >= 40, "40 connected", 60.0)
            # One that has to make room may still be ending when the next is dialled.
            wait_until(lambda: running.metric("relay_downloader_gauge") <= 60, "no more held than there are places")
            held = running.metric("relay_downloader_gauge")
        dialled = [parse_address(address) for address in states(world)]
        assert all(each.network is Network.CLEARNET and not each.is_private for each in dialled)
        namers: dict[str, int] = dict(world.query("SELECT address, namers FROM relays"))
        assert all(namers[each.url] >= 2 for each in dialled)
        assert max(Counter(each.relay_key for each in dialled).values()) == 1
        known = len(namers)
        print(f"{len(found):,} texts, {known:,} addresses known, {len(set(network.asked))} hosts asked, {held} held")
        assert known > 2_000
        assert set(network.asked) <= {each.host for each in addresses(trusted)}


def addresses(found: Sequence[str]) -> Iterator[RelayAddress]:
    for text in found:
        for part in text.replace(",", " ").split():
            try:
                yield parse_address(part)
            except InvalidAddress:
                continue
