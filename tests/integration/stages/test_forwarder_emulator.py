"""The forwarder, killed again and again, against Google's emulator, and a consumer that checks what comes out of it.

`TEST_FULL=1 bin/test tests/integration/stages/test_forwarder_emulator.py` takes 100,000 events.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from pipeline.store.lease import MAX_RECLAIMS
from stages import saver
from tests.factories.events import SignedEvent
from tests.factories.workload import Workload
from tests.fakes.consumer import Consumer, judge
from tests.fakes.emulator import PubSubEmulator, pubsub_emulator
from tests.fakes.net import pause
from tests.fakes.service import EventService
from tests.integration.stages.support import NOW, Running, World, wait_until
from tests.support.scale import size
from tests.support.seeds import seeds

emulator = pubsub_emulator
"""The fixture, as pytest finds it."""
EVENTS = size(6_000, 100_000)
AUTHORS = 300
KILL_EVERY_S = (0.5, 3.5)
# What is lost once more is not ready before its lease ends, two minutes later.
MOST_KILLS = size(MAX_RECLAIMS, 1_000)
AT_A_TIME = 2_000
PUBSUB = {"EVENTS_ENVIRONMENT": "PRODUCTION", "EVENTS_SINK": "pubsub", "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def save(world: World, seed: int) -> set[str]:
    """Let the saver queue a workload whose authors are all registered; the ids."""
    workload = Workload(
        seed=seed, events=EVENTS, authors=AUTHORS, since=NOW - 3600, until=NOW, registered=AUTHORS, mentions=0.3
    )
    world.register(*(person.pubkey for person in workload.people()))
    ids: set[str] = set()
    batch: list[SignedEvent] = []
    with Running(world.context("saver"), saver.run):
        for event in workload.generate():
            batch.append(event)
            if len(batch) == AT_A_TIME or len(ids) + len(batch) == EVENTS:
                ids |= world.put(batch)
                batch.clear()
        world.wait_saved()
    return ids


def rows(world: World) -> int:
    return world.value("SELECT count(*) FROM outbox")


def live(world: World, seconds: float) -> None:
    """Let time pass, no more than there is work for."""
    until = monotonic() + seconds
    while monotonic() < until and rows(world):
        pause(0.01)


@pytest.mark.timeout(size(400, 1800))
@pytest.mark.parametrize("seed", seeds(1))
def test_killed_every_other_second_it_delivers_everything(world: World, emulator: PubSubEmulator, seed: int) -> None:
    """Each event at least once, under one uuid; the consumer accepts all of them."""
    rng = random.Random(seed)
    ids = save(world, seed)
    assert len(ids) == EVENTS == rows(world)
    service = EventService(world.directory, {}, arguments=("stage", "forwarder", "--slot", "0"))
    service.env |= world.env | PUBSUB | {"PUBSUB_EMULATOR_HOST": emulator.address}
    kills = 0
    began = monotonic()
    with Consumer(emulator.address, emulator.subscription) as consumer:
        while rows(world):
            service.start(wait=False)
            if kills == 0:
                # One comes in the midst of the work, however quick that is.
                wait_until(lambda: rows(world) < EVENTS, "at work")
            elif kills < MOST_KILLS:
                live(world, rng.uniform(*KILL_EVERY_S))
            else:
                wait_until(lambda: not rows(world), "all delivered", timeout_s=300.0)
            service.kill()
            service.close()
            kills += 1
        took_s = monotonic() - began
        consumer.wait_events(EVENTS, timeout_s=120)
    print(
        f"seed {seed}: {EVENTS} events, {kills} kills, {took_s:.0f} s until the outbox was empty, "
        f"{consumer.redelivered} redeliveries"
    )
    assert consumer.refused == []
    assert set(consumer.uuids) == ids
    assert all(len(uuids) == 1 for uuids in consumer.uuids.values())
    assert len({uuid for uuids in consumer.uuids.values() for uuid in uuids}) == EVENTS
    assert world.value("SELECT count(*) FROM outbox_dead") == 0
    assert world.value("SELECT count(*) FROM deliveries WHERE outcome = 'delivered'") == EVENTS
    assert kills, "how many more come in the midst of the work is up to the machine"


def test_the_consumer_refuses_what_is_no_event() -> None:
    """So that its acceptance says something."""
    event = next(Workload(seed=1, events=1, authors=1, since=NOW, until=NOW).generate())
    assert judge(event.raw.encode()) == (event.id, "")
    for spoiled in (
        event.raw.replace(event.content, event.content + "x"),
        event.raw.replace(event.sig, "00" * 64),
        event.raw.replace(event.id, event.id.upper()),
        event.raw.replace('"kind"', '"sort"'),
        event.raw[:-1],
    ):
        assert judge(spoiled.encode())[1], spoiled
