"""The saver against a naive model: random events, users who come and go, duplicates, any order."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from stages import saver
from tests.integration.stages.saver_model import SaverModel
from tests.integration.stages.support import NOW, Running, World
from tests.seeds import seeds
from tests.world.events import Author, SignedEvent, authors

KINDS = (0, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7, 30023, 62, 10002, 10002)
PEOPLE = 10
STEPS = 70


class Chance:
    """Random events of a few people: many at equal times, contact lists that change, things taken back."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.people = authors(seed, PEOPLE)
        self.made: list[SignedEvent] = []
        self._number = 0

    def batch(self) -> list[SignedEvent]:
        """New events and old ones again, in any order."""
        new = [self._event() for _ in range(self.rng.randint(1, 12))]
        old = self.rng.sample(self.made, min(len(self.made), self.rng.randint(0, 8)))
        held_back = [event for event in new if self.rng.random() < 0.15]
        self.made += new
        batch = [event for event in new + old if event not in held_back]
        self.rng.shuffle(batch)
        return batch + self.rng.sample(batch, min(len(batch), 2))

    def person(self) -> Author:
        return self.rng.choice(self.people)

    def _event(self) -> SignedEvent:
        self._number += 1
        author, kind = self.person(), self.rng.choice(KINDS)
        created_at = NOW - self.rng.randint(0, 6)
        return author.sign(f"{self._number}", kind=kind, created_at=created_at, tags=self._tags(author, kind))

    def _tags(self, author: Author, kind: int) -> list[list[str]]:
        rng = self.rng
        tags: list[list[str]] = []
        match kind:
            case 3:
                tags += [
                    ["p", person.pubkey, "wss://hint.example"] for person in rng.sample(self.people, rng.randint(0, 5))
                ]
                tags += [["p", rng.choice(["", "zz", "AB" * 32, "ab" * 31])], ["p"]] * (rng.random() < 0.3)
            case 5:
                tags += [["e", event.id] for event in rng.sample(self.made, min(3, len(self.made)))]
                tags += [["e", event.id] for event in self.made if event.pubkey == author.pubkey and rng.random() < 0.2]
                tags += [["a", f"3:{author.pubkey}:"]] * (rng.random() < 0.3)
            case 62:
                tags += [["relay", rng.choice(["ALL_RELAYS", "wss://one.example"])]]
            case 10002:
                tags += [["r", f"wss://r{number}.example"] for number in rng.sample(range(9), rng.randint(0, 3))]
            case _:
                tags += [["p", self.person().pubkey]] * (rng.random() < 0.4)
        tags += [["-"]] * (rng.random() < 0.1)
        tags += [["expiration", str(NOW + rng.choice([-5, 0, 5]))]] * (rng.random() < 0.1)
        return tags


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, {"EVENTS_TARGET_RELAY": "ws://127.0.0.9:9"}, ManualClock(NOW * 1000))
    yield made
    made.close()


def keys(world: World) -> dict[int, str]:
    return {number: key.hex() for number, key in world.query("SELECT id, public_key FROM authors")}


def check(world: World, model: SaverModel) -> None:
    """The database says what the model says."""
    key = keys(world)
    contacts = {(key[follower], key[followee]) for follower, followee in world.query("SELECT * FROM contacts")}
    assert contacts == model.contacts()
    wanted = {key[author]: refs for author, refs in world.query("SELECT author, refs FROM wanted WHERE refs > 0")}
    assert wanted == model.wanted()
    assert world.seen() == model.seen
    assert world.queued("pubsub") == sorted(model.to_pubsub)
    assert world.queued("relay") == sorted(model.to_relay)
    named = {str(address): namers for address, namers in world.query("SELECT address, namers FROM relays")}
    assert named == {address: len(namers) for address, namers in model.named.items()}
    by_user = {address for (address,) in world.query("SELECT address FROM relays WHERE named_by_user")}
    assert by_user == model.named_by_user


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
                model.registered.add(user)
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
    for reason in ("irrelevant", "retracted"):
        found = running.metric("event_service_stage_discarded_total", stage="saver", reason=reason)
        assert found == model.discarded[reason]
    assert world.value("SELECT count(*) FROM inbox_dead") == 0
    assert len(model.seen) > 50
    assert len(model.to_relay) > 10


@pytest.mark.parametrize("seed", seeds(2))
def test_a_restart_changes_nothing(world: World, seed: int) -> None:
    """What a saver knows is in the database: one that starts between any two batches decides the same."""
    chance = Chance(seed)
    model = SaverModel(NOW)
    for step in range(25):
        if step % 5 == 0:
            user = chance.person().pubkey
            world.register(user)
            model.registered.add(user)
        batch = chance.batch()
        with Running(world.context("saver"), saver.run):
            world.put(batch)
            world.wait_saved()
        model.save(batch)
        check(world, model)
