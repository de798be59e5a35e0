"""A crawler whose right to ask a relay runs out."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from pipeline.nostr.address import parse_address
from pipeline.process.clock import since_boot_s
from tests.fakes.child import Child
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Close, Connected, Entry, HttpRequest, Other, Req
from tests.integration.stages.support import World, wait_until
from tests.integration.stages.test_crawler import profiles, state, wait_arrived, wait_live

LEASE_S = 3.0
_RENEW_S = 0.2


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def grant(child: Child, relay: ScriptedRelay, asked_at: float) -> None:
    child.say(f"{parse_address(relay.url).host_key} {asked_at} {LEASE_S}")


@contextmanager
def renewing(child: Child, relay: ScriptedRelay) -> Iterator[None]:
    """Keep the right up, as whoever speaks to the hub does."""
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(_RENEW_S):
            grant(child, relay, since_boot_s())

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def asked(relay: ScriptedRelay) -> int:
    """How often the relay was spoken to in any way but for the end of a connection."""
    kinds: tuple[type[Entry], ...] = (Connected, Req, Close, Other, HttpRequest)
    return sum(len(relay.journal.of(kind)) for kind in kinds)


def wait_apart(relay: ScriptedRelay) -> None:
    """Return once the relay has no connection."""
    wait_until(lambda: relay.connections == 0, "disconnected")


def test_frozen_process_asks_nothing_until_it_has_renewed(world: World) -> None:
    with ScriptedRelay() as relay:
        env = os.environ | world.env | {"EVENTS_BOOTSTRAP_RELAYS": relay.url, "EVENTS_CRAWLERS": "1"}
        with Child.module("tests.integration.crawl.fenced_crawler", env=env) as child:
            with renewing(child, relay):
                wait_live(relay)
            late = since_boot_s()
            child.signal(signal.SIGSTOP)
            wait_until(lambda: since_boot_s() >= late + LEASE_S, "a lease later")
            # Each of these calls for an answer: events to read, a subscription to open again, a grant that came late.
            missed = profiles(5)
            relay.publish(*missed)
            for req in relay.journal.of(Req):
                relay.shout(f'["CLOSED","{req.subscription}","error: restarting"]')
            grant(child, relay, late)
            before = asked(relay)
            child.signal(signal.SIGCONT)
            wait_apart(relay)
            wait_until(lambda: state(world, relay)[0] == "disconnected", "disconnected on record")
            connections = len(relay.journal.of(Connected))
            assert asked(relay) == before
            renewed_at = monotonic()
            with renewing(child, relay):
                wait_arrived(world, missed)
            assert relay.wait_for_connection(connections + 1).at >= renewed_at
