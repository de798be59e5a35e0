"""The crawler stage and relays that demand NIP-42 of readers: one that we did not write, and scripted ones."""

from collections import Counter
from pathlib import Path

import pytest

from tests.factories.events import authors
from tests.fakes.behaviour import AuthDemand, Behaviour
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.net import free_port
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Answered, Authenticated, Req
from tests.integration.stages.support import World, wait_until
from tests.integration.stages.test_crawler import crawling, open_lives, profiles, quick, state, wait_arrived

__all__ = ["quick"]

SERVICE = authors(77, 1)[0]
READERS = Behaviour(auth=AuthDemand())


@pytest.fixture
def key(tmp_path: Path) -> str:
    """A file with the key of the service."""
    path = tmp_path / "key"
    path.write_text(SERVICE.secret.hex() + "\n")
    return str(path)


@pytest.mark.parametrize(
    "demand", [AuthDemand(), AuthDemand(on_connect=False), AuthDemand(silent_success=True)], ids=["", "late", "silent"]
)
def test_stored_and_live_events_come_from_a_relay_that_demands_auth(world: World, key: str, demand: AuthDemand) -> None:
    stored, live = profiles(30), profiles(5, first=100)
    with (
        ScriptedRelay(Behaviour(auth=demand), events=stored) as relay,
        crawling(world, relay.url, EVENTS_SECRET_KEY_PATH=key) as running,
    ):
        wait_arrived(world, stored)
        # A first one may have been refused.
        wait_until(lambda: bool({each.subscription for each in relay.journal.of(Answered)} & open_lives(relay).keys()))
        relay.publish(*live)
        wait_arrived(world, live)
        (proof,) = relay.journal.of(Authenticated)
        assert (proof.pubkey, proof.valid) == (SERVICE.pubkey, True)
        wait_until(lambda: state(world, relay)[:2] == ("connected", 1))
        wait_until(lambda: running.metric("event_service_crawl_auth_relays", state="accepted") == 1)


@pytest.mark.parametrize(
    ("written", "wanted"), [("", ""), ("/", "/"), ("", "/"), ("/", ""), ("/relay/", "/relay/"), ("/relay/", "/relay")]
)
def test_strict_relay_gets_an_auth_that_names_it_as_it_wants(world: World, key: str, written: str, wanted: str) -> None:
    """As the address is written, then in its canonical form, and for a bare host with a slash."""
    port = free_port("127.0.0.1")
    url = f"ws://127.0.0.1:{port}"
    stored = profiles(3)
    with (
        ScriptedRelay(Behaviour(auth=AuthDemand(relay=url + wanted)), events=stored, port=port, address="127.0.0.1"),
        crawling(world, url + written, EVENTS_SECRET_KEY_PATH=key),
    ):
        wait_arrived(world, stored)


def test_a_relay_that_we_did_not_write_accepts_our_auth(world: World, key: str) -> None:
    with IndependentRelay(auth=True) as relay:
        events = profiles(30)
        taken = {event.id for event in events} & set(relay.publish(events).accepted)
        assert taken
        with crawling(world, relay.url, EVENTS_SECRET_KEY_PATH=key):
            wait_arrived(world, [event for event in events if event.id in taken][:1])


def test_without_a_key_the_relay_is_shown_as_wanting_one(world: World) -> None:
    with ScriptedRelay(READERS, events=profiles(3)) as relay, crawling(world, relay.url) as running:
        wait_until(lambda: "EVENTS_SECRET_KEY_PATH" in state(world, relay)[3])
        said = state(world, relay)[3]
        assert said.startswith("auth-required: ")
        assert said.count("auth-required") == 1, "the relay's own prefix is not told again"
        wait_until(lambda: running.metric("event_service_crawl_auth_relays", state="wanted") == 1)
        refused = {"stage": "crawler", "kind": "refused-auth-required"}
        wait_until(lambda: running.metric("event_service_stage_errors_total", **refused) >= 1)


def test_what_is_restricted_even_so_is_not_asked_for_again(world: World, key: str) -> None:
    demand = AuthDemand(restricted="restricted: members only")
    with (
        ScriptedRelay(Behaviour(auth=demand), events=profiles(3)) as relay,
        crawling(world, relay.url, EVENTS_SECRET_KEY_PATH=key),
    ):
        wait_until(lambda: state(world, relay)[3] == "forbidden: restricted: members only")
        assert len(relay.journal.of(Authenticated)) == 1
        asked = Counter(str(req.filters) for req in relay.journal.of(Req))
        # After AUTH, and before it where the challenge came later.
        assert max(asked.values()) <= 2
