"""The peers that we did not write start, take events and give them back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories.events import Author
from tests.factories.workload import Workload, newest_versions
from tests.fakes.emulator import PubSubEmulator, pubsub_emulator
from tests.fakes.independent_relay import IndependentRelay
from tests.integration.fakes.client import NaiveClient
from tests.integration.fakes.test_pubsub import Client

NOW = 1_700_000_000
WORLD = Workload(seed=8, events=300, authors=20, since=NOW, until=NOW + 100)
ALICE = Author.from_seed(8, 0)
emulator = pubsub_emulator
"""The fixture, as pytest finds it."""


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[IndependentRelay]:
    with IndependentRelay(lmdb=tmp_path / "lmdb", max_limit=100) as running:
        yield running


def stored(relay: IndependentRelay, *filters: object) -> set[str]:
    with NaiveClient(relay.url) as client:
        events, last = client.page(*filters)
        assert last[0] == "EOSE"
        return {event.id for event in events}


def test_an_independent_relay_holds_the_newest_versions(relay: IndependentRelay) -> None:
    """It keeps them over a restart and a crash, and caps what it gives."""
    events = list(WORLD.generate())
    assert relay.load(events) > 0
    profiles = {event.id for event in newest_versions(events) if event.kind == 0}
    assert profiles
    assert stored(relay, {"kinds": [0]}) == profiles
    relay.restart()
    assert stored(relay, {"kinds": [0]}) == profiles
    relay.kill()
    relay.start()
    assert len(stored(relay, {"limit": 1000})) == 100


def test_publishing_to_an_independent_relay_reaches_subscribers(relay: IndependentRelay) -> None:
    note = ALICE.sign("live", created_at=NOW)
    with NaiveClient(relay.url) as client:
        client.page({"kinds": [1], "limit": 0})
        answers = relay.publish([note, ALICE.sign("protected", created_at=NOW, tags=[["-"]])])
        assert answers.accepted == {note.id}
        assert len(answers.refused) == 1
        assert client.receive()[2] == note.to_value()


def test_an_independent_relay_in_memory_forgets() -> None:
    with IndependentRelay() as relay:
        assert relay.load([ALICE.sign("x", created_at=NOW)]) == 1
        assert len(stored(relay, {})) == 1
        relay.restart()
        assert stored(relay, {}) == set()


def test_an_independent_relay_can_demand_auth() -> None:
    with IndependentRelay(auth=True) as relay, NaiveClient(relay.url) as client:
        client.send("REQ", "s", {})
        labels = {client.receive()[0] for _ in range(2)}
        assert labels == {"AUTH", "CLOSED"}


def test_the_emulator_takes_and_gives(emulator: PubSubEmulator) -> None:
    client = Client(emulator.address)
    client.publish(b"one", b"two", topic=emulator.topic)
    assert client.status(b"x", topic=emulator.topic + "-2") == "NOT_FOUND"
    client.channel.close()
    messages = emulator.drain_count(2)
    assert {message.data for message in messages} == {b"one", b"two"}
    assert {(message.attributes or {})["n"] for message in messages} == {"0", "1"}
    assert emulator.drain(1, timeout_s=0.5) == []
