"""A crawling host that stands still for longer than its lease: another has its relays, and it asks nothing of them."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, time

import pytest

from pipeline.nostr.address import parse_address
from pipeline.process.clock import SystemClock
from pipeline.store import users
from pipeline.store.schema import open_database
from tests.factories.events import authors
from tests.fakes.postgres import Hub, PostgresServer, hub_in, programs_or_skip
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Close, Connected, Disconnected, Entry, Req
from tests.fakes.service import EventService, settings
from tests.integration.stages.support import wait_until

PATIENCE_S = 300.0
(ALICE,) = authors(512, 1)


@dataclass
class _World:
    hub: Hub
    relays: list[ScriptedRelay]
    home: EventService
    edges: dict[str, EventService]

    def holder(self, relay: ScriptedRelay) -> str | None:
        rows = self.hub.rows("SELECT holder FROM hub.shares WHERE host_key = %s", parse_address(relay.url).host_key)
        return None if not rows or rows[0][0] is None else str(rows[0][0])

    def wait_shared_out(self) -> None:
        """Return once both hosts live and each relay is held by the one that is to have it."""
        live = "SELECT count(*) FROM hub.share_leases WHERE until > hub.now_ms()"
        settled = "SELECT count(*) FROM hub.shares WHERE holder = wished"
        wait_until(
            lambda: self.hub.rows(live) == [(len(self.edges),)] and self.hub.rows(settled) == [(len(self.relays),)],
            "shared out", PATIENCE_S,
        )  # fmt: skip

    def wait_delivered(self, event_id: str) -> None:
        path = self.home.sink_path
        wait_until(lambda: path.exists() and event_id.encode() in path.read_bytes(), "delivered", PATIENCE_S)


@contextmanager
def _world(directory: Path) -> Iterator[_World]:
    with ExitStack() as stack:
        server = PostgresServer(programs_or_skip())
        stack.callback(server.close)
        server.start()
        hub = stack.enter_context(hub_in(server))
        relays = [stack.enter_context(ScriptedRelay()) for _ in range(4)]
        urls = [relay.url for relay in relays]
        home = EventService(directory / "home", settings(relays=urls, EVENTS_HUB=hub.home, EVENTS_ROLE="home"))
        edges = {
            host: EventService(
                directory / host,
                settings(EVENTS_HUB=hub.add_host(host), EVENTS_ROLE="crawler", EVENTS_HOST=host, EVENTS_CRAWLERS="1"),
            )
            for host in ("ams1", "fra1")
        }
        for each in (home, *edges.values()):
            stack.callback(each.close)
            each.directory.mkdir()
        with open_database(home.database, SystemClock()) as database, database.write() as tx:
            users.register(tx, bytes.fromhex(ALICE.pubkey), SystemClock().now_ms())
        for each in (home, *edges.values()):
            each.start()
        yield _World(hub, relays, home, edges)


def _signal_all(service: EventService, number: signal.Signals) -> None:
    """The supervisor is stopped first and goes on last, so that it misses none of its stages."""
    pids = [each.pid for each in service.processes()]
    for pid in pids if number is signal.SIGSTOP else reversed(pids):
        os.kill(pid, number)


def _asking(relay: ScriptedRelay) -> list[int]:
    """The connections by which the relay was asked something, in the order of what was asked."""
    entries: list[Entry] = [*relay.journal.of(Req), *relay.journal.of(Close)]
    return [each.connection for each in sorted(entries, key=lambda each: each.at)]


def _wait_asked(relay: ScriptedRelay, after: int = 0) -> None:
    """Return once it is asked by a connection numbered higher than `after`."""
    wait_until(lambda: max(_asking(relay), default=0) > after, "asked", PATIENCE_S)


def _wait_one_connection(relay: ScriptedRelay) -> None:
    wait_until(lambda: relay.connections == 1, "one connection", PATIENCE_S)


def _end_subscriptions(relay: ScriptedRelay, connection: int) -> None:
    """Do what would be answered by asking again."""
    for req in relay.journal.of(Req, lambda req: req.connection == connection):
        relay.shout(f'["CLOSED","{req.subscription}","error: restarting"]')


@pytest.mark.timeout(900)
def test_frozen_host_is_replaced_and_asks_nothing_when_it_wakes(tmp_path: Path) -> None:
    with _world(tmp_path) as world:
        for relay in world.relays:
            _wait_asked(relay)
        world.wait_shared_out()
        frozen = world.holder(world.relays[0])
        assert frozen is not None
        theirs = [relay for relay in world.relays if world.holder(relay) == frozen]
        for relay in theirs:
            _wait_one_connection(relay)
        _signal_all(world.edges[frozen], signal.SIGSTOP)
        before = {relay.url: max(each.connection for each in relay.journal.of(Connected)) for relay in theirs}
        began = monotonic()
        for relay in theirs:
            _wait_asked(relay, before[relay.url])
        print(f"asked by another host {monotonic() - began:.1f} s after it was frozen")
        for relay in theirs:
            _end_subscriptions(relay, before[relay.url])
        event = ALICE.sign("while it was away", kind=1, created_at=int(time()))
        theirs[0].publish(event)
        world.wait_delivered(event.id)
        _signal_all(world.edges[frozen], signal.SIGCONT)
        for relay in theirs:
            # Its old connections end.
            wait_until(partial(_has_ended, relay, before[relay.url]), "ended", PATIENCE_S)
        wait_until(lambda: all(world.holder(relay) == frozen for relay in theirs), "held again", PATIENCE_S)
        for relay in theirs:
            _wait_one_connection(relay)
            # Connections are numbered as they come: an older one that asks again would be another host's.
            assert _asking(relay) == sorted(_asking(relay))


def _has_ended(relay: ScriptedRelay, connection: int) -> bool:
    return any(each.connection == connection for each in relay.journal.of(Disconnected))
