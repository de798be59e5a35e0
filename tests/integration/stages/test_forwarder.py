"""The forwarder stage: from the outbox to Pub/Sub or a file, through outages, crashes and stops."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.delivery import sink_health
from pipeline.errors import CannotStart
from pipeline.process.backoff import Backoff
from pipeline.process.heartbeat import HeartbeatReading, read_heartbeat
from pipeline.process.logs import get_logger
from pipeline.sinks.base import Message, Verdicts
from pipeline.sinks.jsonl import JsonlSink
from pipeline.store import replay_queue, replays, sinks
from pipeline.store.replays import ReplayScope
from pipeline.store.sinks import SinkName, SinksChanged
from stages import forwarder, saver
from tests.factories.events import Author, SignedEvent, from_raw
from tests.factories.workload import read_events
from tests.fakes.pubsub import FakePubSub
from tests.fakes.pubsub_rules import Rule
from tests.fakes.service import EventService
from tests.integration.stages.support import NOW, Running, World, wait_until
from tests.oracle.delivery import UUID_ATTRIBUTE
from tests.support.seeds import seeds

ALICE = Author.from_seed(42, 0)
PUBSUB = {"EVENTS_ENVIRONMENT": "PRODUCTION", "EVENTS_SINK": "pubsub", "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test"}


def profiles(count: int, *, first: int = 0) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", kind=0, created_at=NOW + number) for number in range(first, first + count)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePubSub]:
    with FakePubSub() as running:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", running.address)
        yield running


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_health, "_PATIENCE", Backoff(base_s=0.02, factor=1.0, cap_s=0.02))


def save(world: World, events: list[SignedEvent]) -> None:
    """Let the saver put events into the outbox."""
    world.put(events)
    with Running(world.context("saver"), saver.run):
        world.wait_saved()


def wait_delivered(world: World, count: int) -> None:
    wait_until(lambda: world.value("SELECT count(*) FROM deliveries") >= count, f"{count} delivered")


def reading(world: World) -> HeartbeatReading:
    found = read_heartbeat(world.runtime, "forwarder-0", world.clock)
    assert found is not None
    return found


def ids(server: FakePubSub) -> Counter[str]:
    return Counter(from_raw(each.data).id for each in server.deliveries())


def test_everything_is_published_once(world: World, server: FakePubSub) -> None:
    events = profiles(3000)
    save(world, events)
    with Running(world.context("forwarder", PUBSUB), forwarder.run) as running:
        wait_delivered(world, 3000)
    assert ids(server) == Counter(event.id for event in events)
    assert world.value("SELECT count(*) FROM outbox") == 0
    assert len(server.calls()) < 60, "in batches"
    assert running.metric("event_service_stage_out_total", stage="forwarder") == 3000


def test_a_text_that_is_no_proper_unicode_is_published_as_it_is(world: World, server: FakePubSub) -> None:
    """A lone surrogate is signed by JavaScript clients; it must stop nobody."""
    events = [*profiles(3), ALICE.sign("\ud83d", kind=0, created_at=NOW), *profiles(3, first=5)]
    save(world, events)
    with Running(world.context("forwarder", PUBSUB), forwarder.run):
        wait_delivered(world, 7)
    assert {each.data for each in server.deliveries()} == {
        event.raw.encode("utf-8", "surrogatepass") for event in events
    }


def test_an_outage_is_survived_and_told(world: World, server: FakePubSub, no_waits: None) -> None:
    """Nothing is lost or published twice; an operator who must act is told how."""
    events = profiles(200)
    save(world, events)
    server.set_rules(Rule(status="PERMISSION_DENIED"))
    with Running(world.context("forwarder", PUBSUB), forwarder.run):
        server.wait(lambda server: len(server.calls()) > 20)
        wait_until(lambda: "roles/pubsub.publisher" in reading(world).status)
        assert world.value("SELECT max(failures) FROM outbox") == 0
        server.set_rules()
        wait_delivered(world, 200)
        wait_until(lambda: reading(world).status == "")
    assert ids(server) == Counter(event.id for event in events)


def test_answers_that_are_lost_cost_a_repeat_with_the_same_uuid(
    world: World, server: FakePubSub, no_waits: None
) -> None:
    """At least once, and told to be a redelivery."""
    events = profiles(50)
    save(world, events)
    server.set_rules(Rule(status="UNAVAILABLE", store=True, times=2))
    with Running(world.context("forwarder", PUBSUB), forwarder.run):
        wait_delivered(world, 50)
    assert ids(server).total() > 50
    uuids: dict[str, set[str]] = {}
    for each in server.deliveries():
        uuids.setdefault(from_raw(each.data).id, set()).add((each.attributes or {})[UUID_ATTRIBUTE])
    assert set(uuids) == {event.id for event in events}
    assert all(len(found) == 1 for found in uuids.values())
    assert len({uuid for found in uuids.values() for uuid in found}) == 50


@pytest.mark.parametrize("seed", seeds(1))
def test_a_forwarder_killed_at_any_moment_loses_nothing(world: World, server: FakePubSub, seed: int) -> None:
    """SIGKILL again and again: everything published at least once, under one uuid."""
    rng = random.Random(seed)
    events = profiles(2500)
    save(world, events)
    service = EventService(world.directory, {}, arguments=("stage", "forwarder", "--slot", "0"))
    service.env |= world.env | PUBSUB | {"PUBSUB_EMULATOR_HOST": server.address}
    server.set_rules(Rule(delay_s=0.005))
    kills = 0
    while world.value("SELECT count(*) FROM outbox") > 0:
        goal = server.count + rng.randint(200, 1000)
        service.start(wait=False)
        wait_until(
            lambda goal=goal: server.count >= goal or world.value("SELECT count(*) FROM outbox") == 0  # type: ignore[misc]
        )
        service.kill()
        service.close()
        kills += 1
        world.execute("UPDATE outbox SET ready_at = 0")
    assert kills, "how many of them come in the midst of the work is up to the machine"
    assert set(ids(server)) == {event.id for event in events}, f"seed {seed}"
    assert world.value("SELECT count(*) FROM outbox_dead") == 0
    assert world.value("SELECT count(*) FROM deliveries") == 2500


def test_a_stop_finishes_the_batches_under_way(world: World, server: FakePubSub) -> None:
    """What was published is settled before the stage ends."""
    save(world, profiles(1000))
    server.set_rules(Rule(delay_s=0.3))
    with Running(world.context("forwarder", PUBSUB), forwarder.run) as running:
        server.wait(lambda server: server.begun > 0)
        assert server.count == 0
        running.end()
    assert server.count == world.value("SELECT count(*) FROM deliveries") >= server.calls()[0].messages > 0
    assert world.value("SELECT count(*) FROM outbox") == 1000 - server.count


def test_a_stop_during_an_outage_is_not_held_up(
    world: World, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it would wait for the next try."""
    monkeypatch.setattr(sink_health, "_PATIENCE", Backoff(base_s=600.0, factor=1.0, cap_s=600.0))
    save(world, profiles(10))
    server.set_rules(Rule(status="UNAVAILABLE"))
    with Running(world.context("forwarder", PUBSUB), forwarder.run):
        server.wait(lambda server: len(server.calls()) >= 1)
    assert world.value("SELECT max(ready_at) FROM outbox") <= world.clock.now_ms()


def test_two_forwarders_at_once_publish_everything_once(world: World, server: FakePubSub) -> None:
    events = profiles(3000)
    save(world, events)
    first, second = (world.context("forwarder", PUBSUB, index=index) for index in range(2))
    with Running(first, forwarder.run), Running(second, forwarder.run):
        wait_delivered(world, 3000)
    assert ids(server) == Counter(event.id for event in events)


def test_a_missing_credentials_file_stops_the_stage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "x:1")
    context = world.context("forwarder", PUBSUB)
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST")
    with Running(context, forwarder.run) as running:
        assert isinstance(running.wait_over(), CannotStart)


def test_a_file_instead_of_pubsub(world: World) -> None:
    """By default beside the database."""
    events = profiles(700)
    save(world, events)
    with Running(world.context("forwarder"), forwarder.run):
        wait_delivered(world, 700)
    assert read_events(world.path.with_suffix(".jsonl")) == events


@pytest.mark.parametrize("names", [("jsonl", "pubsub"), ("pubsub",)])
def test_forwarder_delivers_nothing_that_another_sink_is_owed(world: World, names: tuple[str, ...]) -> None:
    """Its outbox `pubsub` was given another name when Pub/Sub joined, or was taken over."""
    save(world, profiles(5))
    with Running(world.context("forwarder"), forwarder.run) as running:
        wait_delivered(world, 5)
        sinks.enroll(world.database, names, world.clock, get_logger("test"))
        world.execute("INSERT INTO outbox (event, sink, ready_at) SELECT event, 'pubsub', 0 FROM events")
        assert isinstance(running.wait_over(), SinksChanged)
    assert len(world.queued("pubsub")) == 5
    assert len(read_events(world.path.with_suffix(".jsonl"))) == 5


def test_replayed_rows_of_another_sink_are_left_to_it(world: World) -> None:
    with Running(world.context("forwarder"), forwarder.run) as running:
        save(world, profiles(5))
        wait_delivered(world, 5)
        sinks.enroll(world.database, ("jsonl", "pubsub"), world.clock, get_logger("test"))
        with world.database.write() as tx:
            job = replays.add(tx, ReplayScope(SinkName.PUBSUB, 0, 1), 5, 1).job
            replay_queue.append(tx, job, [event for (event,) in tx.execute("SELECT event FROM events")], 1)
        assert isinstance(running.wait_over(), SinksChanged)
    assert world.value("SELECT count(*) FROM replay_queue") == 5
    assert len(read_events(world.path.with_suffix(".jsonl"))) == 5


def test_without_a_sink_it_idles_and_lives(world: World) -> None:
    with Running(world.context("forwarder", {"EVENTS_SINK": "none"}), forwarder.run):
        wait_until(lambda: reading(world).ready)
    assert world.value("SELECT count(*) FROM deliveries") == 0


def test_it_is_alive_without_anything_to_do(world: World, server: FakePubSub) -> None:
    """The first beat comes when it is ready, and they go on."""
    with Running(world.context("forwarder", PUBSUB), forwarder.run):
        wait_until(lambda: read_heartbeat(world.runtime, "forwarder-0", world.clock) is not None)
        wait_until(lambda: reading(world).ready)
        age = [0.0]

        def beaten_again() -> bool:
            before, age[0] = age[0], reading(world).age_s
            return age[0] < before

        wait_until(beaten_again)


def test_a_worker_that_hangs_is_a_stage_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more beats, so that the supervisor starts it anew."""
    monkeypatch.setattr(forwarder, "_WORKER_LIMIT_S", 0.3)
    monkeypatch.setattr(forwarder, "_TURN_S", 0.05)
    released: list[bool] = []

    def hang(_: JsonlSink, messages: list[Message]) -> Verdicts:
        wait_until(lambda: bool(released))
        raise OSError("released")

    monkeypatch.setattr(JsonlSink, "deliver", hang)
    save(world, profiles(1))
    with Running(world.context("forwarder"), forwarder.run):
        wait_until(lambda: 1.0 < reading(world).age_s < math.inf)
        released.append(True)


def test_a_database_that_fails_ends_the_stage(world: World, tmp_path: Path) -> None:
    save(world, profiles(5))
    world.execute("ALTER TABLE deliveries RENAME TO elsewhere")
    with Running(world.context("forwarder"), forwarder.run) as running:
        error = running.wait_over()
    assert error is not None
    assert "deliveries" in str(error)
    assert world.value("SELECT count(*) FROM outbox") == 5
