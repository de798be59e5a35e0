"""The forwarder against a topic that answers with each error, hangs, dies and returns: what becomes of each row."""

from collections import Counter
from collections.abc import Iterator

import pytest

from pipeline.delivery import sink_health
from pipeline.process.backoff import Backoff
from pipeline.process.heartbeat import read_heartbeat
from pipeline.sinks import pubsub
from pipeline.store import dead
from pipeline.store.dead import DeadFilter, DeadQueue
from pipeline.store.sinks import SinkName
from stages import forwarder, saver
from tests.factories.events import Author, SignedEvent, from_raw
from tests.fakes.pubsub import FakePubSub
from tests.fakes.pubsub_rules import Rule
from tests.integration.stages.support import NOW, PATIENCE_S, Running, World, wait_until

ALICE = Author.from_seed(42, 0)
PUBSUB = {"EVENTS_ENVIRONMENT": "PRODUCTION", "EVENTS_SINK": "pubsub", "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test"}
EVENTS = 300
PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED")
OPERATORS = {
    "NOT_FOUND": "EVENTS_PUBSUB_TOPIC",
    "PERMISSION_DENIED": "roles/pubsub.publisher",
    "UNAUTHENTICATED": "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH",
}
SINK = {"sink": "pubsub"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePubSub]:
    with FakePubSub() as running:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", running.address)
        yield running


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_health, "_PATIENCE", Backoff(base_s=0.05, factor=1.0, cap_s=0.05))


@pytest.fixture
def events(world: World) -> list[SignedEvent]:
    """In the outbox, by way of a saver."""
    made = [ALICE.sign(f"{number}", kind=0, created_at=NOW + number) for number in range(EVENTS)]
    world.put(made)
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    return made


def wait_settled(world: World, count: int = EVENTS) -> None:
    wait_until(lambda: world.value("SELECT count(*) FROM deliveries") >= count, f"{count} settled")


def status(world: World) -> str:
    found = read_heartbeat(world.runtime, "forwarder-0", world.clock)
    return "" if found is None else found.status


def published(server: FakePubSub) -> Counter[str]:
    return Counter(from_raw(each.data).id for each in server.deliveries())


def errors(running: Running, kind: str) -> float:
    return running.metric("event_service_stage_errors_total", stage="forwarder", kind=kind)


def retries(running: Running, reason: str) -> float:
    return running.metric("event_service_sink_retries_total", **SINK, reason=reason)


def assert_nobody_blamed(world: World, running: Running) -> None:
    """Everything delivered, in one claim each, and nothing refused, buried or put off."""
    assert world.query("SELECT DISTINCT outcome FROM deliveries") == [("delivered",)]
    assert world.value("SELECT count(*) FROM outbox") == world.value("SELECT count(*) FROM outbox_dead") == 0
    assert running.metric("event_service_stage_in_total", stage="forwarder") == EVENTS
    assert running.metric("event_service_stage_out_total", stage="forwarder") == EVENTS
    assert running.metric("event_service_delivery_seconds_count", **SINK) == EVENTS
    assert running.metric("event_service_sink_in_flight", **SINK) == 0


@pytest.mark.parametrize("error", PASSING)
def test_errors_that_pass_are_waited_for(
    world: World, server: FakePubSub, events: list[SignedEvent], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is held, offered again until it is taken, and nobody is told of an outage that short."""
    monkeypatch.setattr(sink_health, "LASTING_S", 600.0)
    server.set_rules(Rule(status=error, times=3))
    with Running(world.context("forwarder", PUBSUB), forwarder.run) as running:
        wait_settled(world)
        assert status(world) == ""
    assert published(server) == Counter(event.id for event in events)
    assert_nobody_blamed(world, running)
    assert errors(running, error) == 3
    assert retries(running, error) == 3 * EVENTS
    assert running.metric("event_service_sink_batch_events_sum", **SINK) == 4 * EVENTS
    assert running.metric("event_service_sink_call_seconds_count", **SINK) == 4


@pytest.mark.parametrize("error", OPERATORS)
def test_errors_that_need_an_operator_are_told_and_waited_for(
    world: World, server: FakePubSub, events: list[SignedEvent], error: str
) -> None:
    """In health, with what to do, from the first one on until it works."""
    server.set_rules(Rule(status=error))
    with Running(world.context("forwarder", PUBSUB), forwarder.run) as running:
        wait_until(lambda: error in status(world) and OPERATORS[error] in status(world))
        server.wait(lambda server: len(server.calls()) >= 4)
        assert world.query("SELECT DISTINCT claims, failures FROM outbox") == [(1, 0)]
        server.set_rules()
        wait_settled(world)
        wait_until(lambda: status(world) == "")
    assert published(server) == Counter(event.id for event in events)
    assert_nobody_blamed(world, running)
    refused = sum(call.status == error for call in server.calls())
    assert errors(running, error) == refused
    assert retries(running, error) == refused * EVENTS


def test_a_call_that_hangs_and_one_whose_server_dies_in_it(
    world: World, server: FakePubSub, events: list[SignedEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And comes back: what the dead one had taken is repeated, under the same uuid."""
    monkeypatch.setattr(pubsub, "CALL_TIMEOUT_S", 0.5)
    server.set_rules(Rule(hang=True, times=1), Rule(die=True, store=True, times=1))
    with Running(world.context("forwarder", PUBSUB), forwarder.run) as running:
        # A slow machine may take as long for a call that does not hang.
        wait_until(lambda: errors(running, "DEADLINE_EXCEEDED") >= 1)
        server.wait_count(EVENTS)
        server.stop()
        wait_until(lambda: errors(running, "UNAVAILABLE") + errors(running, "CANCELLED") >= 2)
        monkeypatch.setattr(pubsub, "CALL_TIMEOUT_S", PATIENCE_S)
        server.start()
        wait_settled(world)
    times = published(server)
    assert set(times) == {event.id for event in events}
    assert min(times.values()) >= 2
    uuids = {(each.attributes or {})["_watermill_message_uuid"] for each in server.deliveries()}
    assert len(uuids) == EVENTS
    assert_nobody_blamed(world, running)
    assert retries(running, "DEADLINE_EXCEEDED") == EVENTS * errors(running, "DEADLINE_EXCEEDED")


def test_the_message_that_the_topic_will_never_take_is_buried_alone(
    world: World, server: FakePubSub, events: list[SignedEvent]
) -> None:
    """With its reason, for an operator to see and to try again; all others are published once."""
    guilty = {events[index].id for index in (0, 150, 299)}
    server.set_rules(*(Rule(status="INVALID_ARGUMENT", containing=event_id) for event_id in guilty))
    with Running(world.context("forwarder", PUBSUB), forwarder.run) as running:
        wait_settled(world, EVENTS - 3)
        wait_until(lambda: world.value("SELECT count(*) FROM outbox_dead") == 3)
        assert world.value("SELECT count(*) FROM outbox") == 0
        with world.database.read() as tx:
            rows = dead.find(tx, DeadFilter(DeadQueue(SinkName.PUBSUB), "INVALID_ARGUMENT", world.clock.now_ms()), 10)
        assert {row.event_id.hex() for row in rows} == guilty
        discarded = {"stage": "forwarder", "reason": "INVALID_ARGUMENT"}
        wait_until(lambda: running.metric("event_service_stage_discarded_total", **discarded) == 3)
        assert set(published(server).values()) == {1}
        server.set_rules()
        with world.database.write() as tx:
            dead.retry(tx, DeadQueue(SinkName.PUBSUB), [row.seq for row in rows], world.clock.now_ms())
        wait_settled(world)
    assert published(server) == Counter(event.id for event in events)
