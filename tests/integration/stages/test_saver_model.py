"""The saver against a naive model: random events, users who come and go, duplicates, any order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from stages import saver
from tests.integration.stages.saver_events import Chance
from tests.integration.stages.saver_model import SaverModel, check
from tests.integration.stages.support import NOW, Running, World
from tests.support.seeds import seeds

STEPS = 70


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, {"EVENTS_TARGET_RELAY": "ws://127.0.0.9:9"}, ManualClock(NOW * 1000))
    yield made
    made.close()


@pytest.mark.parametrize("seed", seeds(6))
def test_random_histories(world: World, seed: int) -> None:
    """Contacts, who is wanted, what is seen and what is queued are the model's after every step."""
    chance = Chance(seed)
    model = SaverModel(NOW)
    rng = chance.rng
    with Running(world.context("saver"), saver.run) as running:
        for step in range(STEPS):
            choice = rng.random()
            if choice < 0.15:
                user = chance.person().pubkey
                world.register(user)
                model.register(user)
            elif choice < 0.25:
                user = chance.person().pubkey
                world.remove(user)
                model.registered.discard(user)
            else:
                batch = chance.batch()
                world.put(batch)
                world.wait_saved()
                model.save(batch)
            try:
                check(world, model)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, step {step}: {error}") from error
    out = running.metric("event_service_stage_out_total", stage="saver")
    assert out == len(model.seen)
    found = running.metric("event_service_stage_discarded_total", stage="saver", reason="irrelevant")
    assert found == model.discarded["irrelevant"]
    assert world.value("SELECT count(*) FROM inbox_dead") == 0
    assert len(model.seen) > 50
    assert len(model.to_relay) > 10
    assert set(model.retracted.values()) == {"deleted", "vanished", "expired"}


@pytest.mark.parametrize("seed", seeds(2))
def test_a_restart_changes_nothing(world: World, seed: int) -> None:
    """What a saver knows is in the database: one that starts between any two batches decides the same."""
    chance = Chance(seed)
    model = SaverModel(NOW)
    for step in range(25):
        if step % 5 == 0:
            user = chance.person().pubkey
            world.register(user)
            model.register(user)
        batch = chance.batch()
        with Running(world.context("saver"), saver.run):
            world.put(batch)
            world.wait_saved()
        model.save(batch)
        check(world, model)
