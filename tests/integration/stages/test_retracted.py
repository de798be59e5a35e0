"""Events that are deleted, vanished or expired when they are saved: who gets them, and how they are marked."""

from collections.abc import Iterator, Sequence
from itertools import permutations

import pytest

from stages import forwarder, saver
from tests.factories.events import SignedEvent, authors, from_raw
from tests.fakes.emulator import PubSubEmulator, pubsub_emulator
from tests.fakes.pubsub import FakePubSub
from tests.integration.stages.support import NOW, Running, World, wait_until

ALICE, BOB, WRAPPER = authors(59, 3)
TARGET = {"EVENTS_TARGET_RELAY": "ws://127.0.0.9:9"}
PUBSUB = {"EVENTS_ENVIRONMENT": "PRODUCTION", "EVENTS_SINK": "pubsub", "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test"}

emulator = pubsub_emulator
"""The fixture, as pytest finds it."""
POST = ALICE.sign("post", created_at=NOW)
DELETION = ALICE.sign("", kind=5, created_at=NOW + 1, tags=[["e", POST.id]])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePubSub]:
    with FakePubSub() as running:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", running.address)
        yield running


def save(world: World, *batches: Sequence[SignedEvent], **settings: str) -> Running:
    """Save batches one after the other, each in one transaction."""
    world.register(ALICE.pubkey)
    with Running(world.context("saver", TARGET | settings), saver.run) as running:
        for batch in batches:
            world.put(batch)
            world.wait_saved()
    return running


def marks(world: World) -> dict[str, str | None]:
    """How each stored event is marked, by id."""
    return {event_id.hex(): how for event_id, how in world.query("SELECT event_id, retracted FROM events")}


@pytest.mark.parametrize(
    ("batches", "mark"),
    [([[POST], [DELETION]], None), ([[POST, DELETION]], "deleted"), ([[DELETION], [POST]], "deleted")],
)
def test_consumer_gets_post_and_deletion_whichever_is_first(
    world: World, server: FakePubSub, batches: list[list[SignedEvent]], mark: str | None
) -> None:
    """Whatever came together; the attribute says what was known."""
    save(world, *batches)
    with Running(world.context("forwarder", PUBSUB), forwarder.run):
        wait_until(lambda: world.value("SELECT count(*) FROM deliveries WHERE sink = 'pubsub'") == 2)
    found = {from_raw(each.data).id: (each.attributes or {}).get("retracted") for each in server.deliveries()}
    assert found == {POST.id: mark, DELETION.id: None}


@pytest.mark.timeout(300)
def test_emulator_keeps_the_mark(world: World, monkeypatch: pytest.MonkeyPatch, emulator: PubSubEmulator) -> None:
    """Google's own: an attribute more, and the same data."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
    save(world, [DELETION], [POST])
    with Running(world.context("forwarder", PUBSUB), forwarder.run):
        found = emulator.drain_count(2)
    marks_taken = {from_raw(each.data).id: (each.attributes or {}).get("retracted") for each in found}
    assert marks_taken == {POST.id: "deleted", DELETION.id: None}


def test_mark_stays_as_it_was_when_saved(world: World) -> None:
    save(world, [POST], [DELETION], [POST])
    assert marks(world) == {POST.id: None, DELETION.id: None}


def test_vanishing_retracts_its_own_second_but_not_the_request(world: World) -> None:
    """And no deletion, of whatever time; an event of the next second is not concerned."""
    request = ALICE.sign("", kind=62, created_at=NOW, tags=[["relay", "ALL_RELAYS"]])
    deletion = ALICE.sign("", kind=5, created_at=NOW - 5, tags=[["e", "00" * 32]])
    before, same, after = (ALICE.sign("x", created_at=NOW + second) for second in (-1, 0, 1))
    save(world, [request], [before, same, after, deletion])
    assert marks(world) == {
        request.id: None, deletion.id: None, before.id: "vanished", same.id: "vanished", after.id: None,
    }  # fmt: skip


def test_neither_deletions_nor_requests_to_vanish_are_deleted(world: World) -> None:
    request = ALICE.sign("", kind=62, created_at=NOW, tags=[["relay", "wss://one.example"]])
    again = ALICE.sign("", kind=5, created_at=NOW + 2, tags=[["e", DELETION.id], ["e", request.id]])
    save(world, [again], [DELETION, request])
    assert marks(world) == {again.id: None, DELETION.id: None, request.id: None}


@pytest.mark.parametrize("by", ["deleted", "vanished"])
def test_gift_wrap_is_retracted_by_its_recipient_only(world: World, by: str) -> None:
    """Its author is a key of one use (NIP-59)."""
    wrap = WRAPPER.sign("", kind=1059, created_at=NOW, tags=[["p", "no key"], ["p", ALICE.pubkey]])
    wrap_of_bob = WRAPPER.sign("", kind=1059, created_at=NOW, tags=[["p", BOB.pubkey]])
    note = WRAPPER.sign("", kind=1, created_at=NOW, tags=[["p", ALICE.pubkey]])
    tags = [["e", each.id] for each in (wrap, wrap_of_bob, note)]
    request = (
        ALICE.sign("", kind=5, created_at=NOW + 1, tags=tags)
        if by == "deleted"
        else ALICE.sign("", kind=62, created_at=NOW + 1, tags=[["relay", "ALL_RELAYS"]])
    )
    world.register(BOB.pubkey)
    save(world, [request], [wrap, wrap_of_bob, note])
    assert marks(world) == {request.id: None, wrap.id: by, wrap_of_bob.id: None, note.id: None}


def test_retracted_list_changes_nothing_and_stays_off_the_target_relay(world: World) -> None:
    """Neither whom its author follows, nor where they are, nor which relays are known."""
    gone = ["expiration", str(NOW)]
    follows = ALICE.sign("", kind=3, created_at=NOW, tags=[["p", BOB.pubkey], gone])
    relays = ALICE.sign("", kind=10002, created_at=NOW, tags=[["r", "wss://r.example"], gone])
    profile = ALICE.sign("", kind=0, created_at=NOW)
    deletion = ALICE.sign("", kind=5, created_at=NOW, tags=[["e", profile.id]])
    running = save(world, [deletion], [follows, relays, profile])
    assert marks(world) == {follows.id: "expired", relays.id: "expired", profile.id: "deleted", deletion.id: None}
    assert world.queued("relay") == []
    for table in ("contacts", "relay_lists", "relays"):
        assert world.value(f"SELECT count(*) FROM {table}") == 0
    reasons = ("expired", "deleted", "kind")
    counts = [running.metric("event_service_sink_ignored_total", sink="relay", reason=reason) for reason in reasons]
    assert counts == [2, 1, 1]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_suppressed_events_go_nowhere(world: World, order: tuple[int, ...]) -> None:
    """Those of which it was known; what was saved before stays as it was."""
    expired = ALICE.sign("", created_at=NOW, tags=[["expiration", str(NOW)]])
    events = [POST, DELETION, expired]
    running = save(world, *([events[each]] for each in order), EVENTS_RETRACTED="suppress")
    known_first = order.index(1) < order.index(0)
    expected = {DELETION.id: None} if known_first else {DELETION.id: None, POST.id: None}
    assert marks(world) == expected
    assert world.queued() == sorted(expected)
    dropped = {
        reason: running.metric("event_service_stage_discarded_total", stage="saver", reason=reason)
        for reason in ("deleted", "vanished", "expired")
    }
    assert dropped == {"deleted": float(known_first), "vanished": 0.0, "expired": 1.0}
