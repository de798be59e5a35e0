"""Why an event was saved, from the saver to the attributes of its message: all rules, the same at each delivery."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from stages import forwarder, saver
from tests.factories.events import SignedEvent, authors, from_raw
from tests.fakes.pubsub import FakePubSub
from tests.fakes.pubsub_rules import Rule
from tests.integration.stages.support import NOW, RELAY, Running, World, wait_until

ALICE, BOB, CAROL, DAVE, ERIN = authors(83, 5)
ADDRESS = "wss://first.example"
PUBSUB = {"EVENTS_ENVIRONMENT": "PRODUCTION", "EVENTS_SINK": "pubsub", "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePubSub]:
    with FakePubSub() as running:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", running.address)
        yield running


@pytest.fixture
def users(world: World) -> World:
    """Alice and Bob are registered; Alice follows Bob and Carol."""
    world.execute(
        "INSERT INTO relays (id, address, source, first_seen, last_seen) VALUES (?, ?, 'event', 1, 1)", RELAY, ADDRESS
    )
    world.register(ALICE.pubkey, BOB.pubkey)
    save(world, [ALICE.contact_list([BOB, CAROL], NOW)])
    return world


def save(world: World, *batches: Sequence[SignedEvent]) -> None:
    with Running(world.context("saver"), saver.run):
        for batch in batches:
            world.put(batch)
            world.wait_saved()


def deliver(world: World, server: FakePubSub, *, at_least: int = 0) -> dict[str, list[Mapping[str, str]]]:
    """Deliver all that is queued; the attributes of each message, by event id."""
    with Running(world.context("forwarder", PUBSUB), forwarder.run):
        wait_until(lambda: server.count >= at_least and world.value("SELECT count(*) FROM outbox") == 0)
    found: dict[str, list[Mapping[str, str]]] = {}
    for each in server.deliveries():
        found.setdefault(from_raw(each.data).id, []).append(each.attributes or {})
    return found


def rules(attributes: Mapping[str, str]) -> set[str]:
    assert {value for name, value in attributes.items() if name.startswith("rule_")} == {"1"}
    return {name.removeprefix("rule_") for name in attributes if name.startswith("rule_")}


def test_message_says_every_rule_that_matched(users: World, server: FakePubSub) -> None:
    expected = {
        ALICE.sign("mine", created_at=NOW): ({"user"}, None),
        BOB.sign("to her", created_at=NOW, tags=[["p", ALICE.pubkey]]): (
            {"user", "followee", "mention"}, ALICE.pubkey,
        ),
        CAROL.sign("followed", created_at=NOW, tags=[["p", DAVE.pubkey]]): ({"followee"}, None),
        DAVE.sign("to both", created_at=NOW, tags=[["p", BOB.pubkey], ["p", ERIN.pubkey], ["p", ALICE.pubkey]]): (
            {"mention"}, f"{BOB.pubkey},{ALICE.pubkey}",
        ),
        ERIN.sign("{}", kind=0, created_at=NOW): ({"global"}, None),
        ERIN.contact_list([ALICE], NOW): ({"global", "mention"}, ALICE.pubkey),
    }  # fmt: skip
    save(users, list(expected))
    found = deliver(users, server)
    for event, (matched, mentions) in expected.items():
        (attributes,) = found[event.id]
        assert rules(attributes) == matched, event.content
        assert attributes.get("mentions") == mentions
        assert (attributes["relay"], attributes["first_seen"]) == (ADDRESS, str(NOW))


def test_rules_are_those_of_the_moment_when_it_was_saved(users: World, server: FakePubSub) -> None:
    """One batch follows and posts; later registrations and removals change nothing of what is queued."""
    erin = ERIN.sign("wanted by now", created_at=NOW, tags=[["p", DAVE.pubkey]])
    save(users, [BOB.contact_list([ERIN], NOW), erin])
    users.register(DAVE.pubkey)
    users.remove(ALICE.pubkey, BOB.pubkey)
    (attributes,) = deliver(users, server)[erin.id]
    assert rules(attributes) == {"followee"}
    assert "mentions" not in attributes


def test_mention_of_a_later_user_that_comes_again_has_its_rule(users: World, server: FakePubSub) -> None:
    """It was irrelevant at first, and is saved when a relay sends it again."""
    note = ERIN.sign("to Dave", created_at=NOW, tags=[["p", DAVE.pubkey]])
    save(users, [note])
    assert note.id not in users.seen()
    users.register(DAVE.pubkey)
    save(users, [note])
    (attributes,) = deliver(users, server)[note.id]
    assert (rules(attributes), attributes["mentions"]) == ({"mention"}, DAVE.pubkey)


def test_redelivery_has_the_same_attributes(users: World, server: FakePubSub) -> None:
    """After an answer that got lost, with another set of users and another time."""
    note = DAVE.sign("to Alice", created_at=NOW, tags=[["p", ALICE.pubkey]])
    save(users, [note])
    server.set_rules(Rule(status="UNAVAILABLE", store=True, times=1))
    with Running(users.context("forwarder", PUBSUB), forwarder.run):
        wait_until(lambda: server.count > 0)
    users.remove(ALICE.pubkey)
    users.execute("UPDATE outbox SET ready_at = 0")
    taken = server.count
    first, *others = deliver(users, server, at_least=taken)[note.id]
    assert all(each == first for each in others)
    assert len(others) >= 1
    assert rules(first) == {"mention"}
