"""The sender stage: from the outbox to the target relay."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import websocket

from pipeline.delivery import outbox_client, sink_health, stream_worker
from pipeline.errors import CannotStart
from pipeline.nostr.nip19 import encode_nsec
from pipeline.process.backoff import Backoff
from pipeline.process.heartbeat import read_heartbeat
from pipeline.sinks import relay as relay_sink
from pipeline.sinks.relay import MAX_IN_FLIGHT
from stages import forwarder, saver, sender
from tests.factories.events import Author, SignedEvent, from_raw
from tests.factories.workload import Workload
from tests.fakes.behaviour import AuthDemand, Behaviour, OkRule
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.pubsub import FakePubSub
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Authenticated, Published
from tests.fakes.service import EventService
from tests.integration.stages.support import NOW, PATIENCE_S, Running, World, wait_until
from tests.support.seeds import seeds

ALICE = Author.from_seed(43, 0)
SECRET = Author.from_seed(43, 1)


def profiles(count: int, *, first: int = 0) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", kind=0, created_at=NOW + number) for number in range(first, first + count)]


@pytest.fixture
def relay() -> Iterator[ScriptedRelay]:
    with ScriptedRelay() as running:
        yield running


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    quick = Backoff(base_s=0.02, factor=1.0, cap_s=0.02)
    monkeypatch.setattr(sink_health, "_PATIENCE", quick)
    monkeypatch.setattr(outbox_client, "_ROW_RETRY", quick)
    monkeypatch.setattr(stream_worker, "_IDLE_S", 0.05)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may take for ever."""
    monkeypatch.setattr(relay_sink, "ANSWER_TIMEOUT_S", 10 * PATIENCE_S)


def save(world: World, events: list[SignedEvent], relay: ScriptedRelay, **settings: str) -> None:
    """Let the saver put events into the outbox."""
    world.put(events)
    with Running(world.context("saver", {"EVENTS_TARGET_RELAY": relay.url, **settings}), saver.run):
        world.wait_saved()


def wait_delivered(world: World, count: int, sink: str = "relay") -> None:
    wait_until(lambda: world.value("SELECT count(*) FROM deliveries WHERE sink = ?", sink) >= count, "delivered")


def test_eligible_events_reach_the_target_relay(world: World, relay: ScriptedRelay) -> None:
    """And no others, each once, over one connection."""
    events = [
        ALICE.sign(f"{number}", kind=number % 3 + (number % 3 == 2) * 10_000, created_at=NOW + number)
        for number in range(150)
    ]
    world.register(ALICE.pubkey)
    save(world, events, relay)
    eligible = {event.id for event in events if event.kind in (0, 3, 10002)}
    assert eligible
    with Running(world.context("sender", {"EVENTS_TARGET_RELAY": relay.url}), sender.run) as running:
        wait_delivered(world, len(eligible))
    published = relay.journal.of(Published)
    assert Counter(entry.event_id for entry in published) == Counter(eligible)
    assert {entry.connection for entry in published} == {1}
    sent = {"address": relay.url, "decision": "send", "result": "success"}
    assert running.metric("events_sent_to_relay_counter_total", **sent) == len(eligible)
    assert running.metric("event_service_stage_out_total", stage="sender") == len(eligible)


def test_a_retry_there_is_not_published_again(
    world: World, relay: ScriptedRelay, no_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other sink has had it, and is not asked again, whatever the relay says."""
    events = profiles(20)
    with FakePubSub() as server:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.address)
        pubsub = {
            "EVENTS_TARGET_RELAY": relay.url,
            "EVENTS_ENVIRONMENT": "PRODUCTION",
            "EVENTS_SINK": "pubsub",
            "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test",
        }
        save(world, events, relay, **pubsub)
        relay.behave(Behaviour(ok_rules=(OkRule(reason="error: not now", times=70),)))
        context = world.context("sender", pubsub)
        with Running(world.context("forwarder", pubsub), forwarder.run), Running(context, sender.run) as running:
            wait_delivered(world, 20)
            wait_delivered(world, 20, "pubsub")
        assert Counter(from_raw(each.data).id for each in server.deliveries()) == Counter(event.id for event in events)
    assert len(relay.journal.of(Published)) == 90
    counts = [
        running.metric("events_sent_to_relay_counter_total", address=relay.url, decision="send", result=result)
        for result in ("success", "error", "ignoreError")
    ]
    assert counts == [20, 70, 0]


def test_final_refusals_are_recorded_and_counted(world: World, relay: ScriptedRelay) -> None:
    events = profiles(3)
    save(world, events, relay)
    relay.behave(Behaviour(ok_rules=(OkRule(reason="blocked: you", containing=events[1].id),)))
    with Running(world.context("sender", {"EVENTS_TARGET_RELAY": relay.url}), sender.run) as running:
        wait_delivered(world, 3)
    outcomes = [outcome for (outcome,) in world.query("SELECT outcome FROM deliveries ORDER BY event")]
    assert outcomes == ["delivered", "refused: blocked", "delivered"]
    ignored = {"address": relay.url, "decision": "send", "result": "ignoreError"}
    assert running.metric("events_sent_to_relay_counter_total", **ignored) == 1
    assert running.metric("event_service_stage_discarded_total", stage="sender", reason="blocked") == 1


def stored(relay: IndependentRelay) -> set[str]:
    """The ids of what it gives to a client that asks for the three kinds."""
    client = websocket.create_connection(relay.url, timeout=20)
    try:
        client.send('["REQ","all",{"kinds":[0,3,10002]}]')
        found: set[str] = set()
        while (answer := json.loads(client.recv()))[0] == "EVENT":
            found.add(answer[2]["id"])
        assert answer == ["EOSE", "all"]
        return found
    finally:
        client.close()


FINAL = ("replaced", "deleted", "invalid", "blocked", "duplicate", "restricted", "mute", "pow")
PASSING = {"rate-limited: slow down": "rate-limited", "error: busy": "error", "auth-required: who?": "auth-required"}
PASSING |= {"Write error: disk": "error", "": "error", "wait a moment": "error"}


def test_each_answer_has_its_outcome(world: World, relay: ScriptedRelay) -> None:
    """In one batch: what is final is settled, what is not is put off, and nobody is blamed for a neighbour's answer."""
    reasons = [*(f"{prefix}: why" for prefix in FINAL), *PASSING]
    events = profiles(len(reasons) + 2)
    save(world, events, relay)
    rules = [OkRule(reason=reason, containing=event.id) for reason, event in zip(reasons, events, strict=False)]
    rules.append(OkRule(accepted=True, reason="duplicate: have it", containing=events[-1].id))
    relay.behave(Behaviour(ok_rules=tuple(rules)))
    with Running(world.context("sender", {"EVENTS_TARGET_RELAY": relay.url}), sender.run) as running:
        wait_delivered(world, len(FINAL) + 2)
        wait_until(lambda: world.value("SELECT count(*) FROM outbox WHERE failures = 1") == len(PASSING))
    outcomes = {
        event_id.hex(): outcome
        for event_id, outcome in world.query("SELECT event_id, outcome FROM deliveries JOIN seen USING (event)")
    }
    expected = {event.id: f"refused: {prefix}" for prefix, event in zip(FINAL, events, strict=False)}
    assert outcomes == expected | {event.id: "delivered" for event in events[-2:]}
    sent = [
        running.metric("events_sent_to_relay_counter_total", address=relay.url, decision="send", result=result)
        for result in ("success", "ignoreError", "error")
    ]
    assert sent == [2, len(FINAL), len(PASSING)]
    assert running.metric("event_service_sink_retries_total", sink="relay", reason="rate-limited") == 1
    for prefix in FINAL:
        assert running.metric("event_service_stage_discarded_total", stage="sender", reason=prefix) == 1
    assert world.value("SELECT count(*) FROM outbox_dead") == 0


def test_an_independent_relay_gets_every_profile_list_and_relay_list(world: World, no_waits: None) -> None:
    """By way of saver and sender; asked by another client, it holds them all."""
    workload = Workload(
        seed=11, events=250, authors=250, since=NOW, until=NOW + 100, kinds=((0, 1), (3, 1), (10002, 1))
    )
    newest = {
        (event.pubkey, event.kind): event for event in sorted(workload.generate(), key=lambda one: one.created_at)
    }
    with IndependentRelay() as relay:
        settings = {"EVENTS_TARGET_RELAY": relay.url}
        world.put(newest.values())
        with Running(world.context("saver", settings), saver.run):
            world.wait_saved()
        with Running(world.context("sender", settings), sender.run) as running:
            wait_delivered(world, len(newest))
        assert running.metric("event_service_sink_retries_total", sink="relay") == 0
        held = stored(relay)
    assert held == {event.id for event in newest.values()}
    assert world.query("SELECT DISTINCT outcome FROM deliveries") == [("delivered",)]


def test_a_relay_that_comes_and_goes_gets_everything(world: World, relay: ScriptedRelay, no_waits: None) -> None:
    """Connections that drop and a relay that is away for a while cost no event anything."""
    events = profiles(400)
    save(world, events, relay)
    relay.behave(Behaviour(close_every_messages=20))
    with Running(world.context("sender", {"EVENTS_TARGET_RELAY": relay.url}), sender.run):
        relay.wait_for_connection(2)
        relay.stop()
        relay.behave(Behaviour())
        relay.start()
        wait_delivered(world, 400)
    assert {event.id for event in relay.stored()} == {event.id for event in events}
    assert world.value("SELECT count(*) FROM outbox_dead") == 0


def test_an_event_saved_while_it_runs_is_sent_at_once(
    world: World, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the next look at rows whose time has come."""
    monkeypatch.setattr(saver, "_IDLE_S", 10 * PATIENCE_S)
    monkeypatch.setattr(stream_worker, "_IDLE_S", 10 * PATIENCE_S)
    settings = {"EVENTS_TARGET_RELAY": relay.url}
    with Running(world.context("saver", settings), saver.run), Running(world.context("sender", settings), sender.run):
        for event in profiles(3):
            world.put([event])
            relay.wait_for_published(event.id)


def test_without_a_target_relay_it_idles_and_lives(world: World) -> None:
    with Running(world.context("sender"), sender.run):
        wait_until(
            lambda: (found := read_heartbeat(world.runtime, "sender-0", world.clock)) is not None and found.ready
        )


def test_a_silent_relay_does_not_hold_up_the_stop(world: World, relay: ScriptedRelay, patient: None) -> None:
    """The events go to whoever comes next, at once and without blame."""
    save(world, profiles(5), relay)
    relay.behave(Behaviour(ok_rules=(OkRule(answer=False),)))
    with Running(world.context("sender", {"EVENTS_TARGET_RELAY": relay.url}), sender.run):
        relay.wait_for_published(count=5)
    assert world.query("SELECT DISTINCT failures FROM outbox WHERE sink = 'relay'") == [(0,)]
    relay.behave(Behaviour())
    with Running(world.context("sender", {"EVENTS_TARGET_RELAY": relay.url}), sender.run):
        wait_delivered(world, 5)


def silent_about(event: SignedEvent) -> Behaviour:
    """LastAnswer and keeps everything but this."""
    return Behaviour(ok_rules=(OkRule(containing=event.id, answer=False),))


def test_what_is_never_answered_holds_up_nobody(world: World, relay: ScriptedRelay, patient: None) -> None:
    """A thousand others are through before its time is up; it waits alone, and is to blame for nothing yet."""
    silent, *others = profiles(1001)
    save(world, [silent, *others], relay)
    relay.behave(silent_about(silent))
    with Running(world.context("sender", {"EVENTS_TARGET_RELAY": relay.url}), sender.run) as running:
        wait_delivered(world, 1000)
        assert world.query("SELECT claims, failures FROM outbox WHERE sink = 'relay'") == [(1, 0)]
        assert running.metric("event_service_sink_retries_total", sink="relay") == 0
    published = Counter(entry.event_id for entry in relay.journal.of(Published))
    assert published == Counter(event.id for event in [silent, *others])
    assert {entry.connection for entry in relay.journal.of(Published)} == {1}


def test_what_is_never_answered_is_tried_again_alone(
    world: World, relay: ScriptedRelay, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After waits of its own; while others pass the connection lives on."""
    monkeypatch.setattr(outbox_client, "_ROW_RETRY", Backoff(base_s=0.1, factor=2.0, cap_s=0.4))
    monkeypatch.setattr(stream_worker, "_IDLE_S", 0.05)
    silent, *others = profiles(400)
    settings = {"EVENTS_TARGET_RELAY": relay.url}
    relay.behave(silent_about(silent))
    with Running(world.context("saver", settings), saver.run), Running(world.context("sender", settings), sender.run):
        for start in range(0, 399, 21):
            world.put([silent, *others[start : start + 21]] if not start else others[start : start + 21])
            wait_delivered(world, start + 21)
        # Only now, since an answer that is on its way may take as long.
        monkeypatch.setattr(relay_sink, "ANSWER_TIMEOUT_S", 0.2)
        relay.wait_for_published(silent.id, count=4)
        wait_until(lambda: world.value("SELECT failures FROM outbox WHERE sink = 'relay'") >= 3)
        relay.behave(Behaviour())
        monkeypatch.setattr(relay_sink, "ANSWER_TIMEOUT_S", 2.0)
        wait_delivered(world, 400)
    published = Counter(entry.event_id for entry in relay.journal.of(Published))
    assert [published[event.id] for event in others] == [1] * 399
    passed = {event.id for event in others}
    assert {entry.connection for entry in relay.journal.of(Published) if entry.event_id in passed} == {1}


@pytest.mark.parametrize("seed", seeds(2))
def test_killed_in_the_middle_it_loses_nothing(world: World, relay: ScriptedRelay, seed: int) -> None:
    """Whatever was under way, with one event that is never answered among it, is sent by the next; nobody is blamed."""
    rng = random.Random(seed)
    silent, *others = profiles(1501)
    save(world, [silent, *others], relay)
    relay.behave(silent_about(silent))
    service = EventService.stage("sender", world.directory, {**world.env, "EVENTS_TARGET_RELAY": relay.url})

    def delivered() -> int:
        return world.value("SELECT count(*) FROM deliveries WHERE sink = 'relay'")

    try:
        for _ in range(2):
            service.start(wait=False)
            goal = len(relay.journal.of(Published)) + rng.randrange(1, 400)
            # On a machine that is slow to kill it, it may be done before.
            wait_until(lambda goal=goal: len(relay.journal.of(Published)) >= goal or delivered() == 1500)  # type: ignore[misc]
            service.kill()
        service.start(wait=False)
        wait_delivered(world, 1500)
        rows = world.query("SELECT failures, payload FROM outbox JOIN payloads USING (event) WHERE sink = 'relay'")
        assert [(failures, json.loads(payload)["id"]) for failures, payload in rows] == [(0, silent.id)]
        service.stop()
    finally:
        service.close()
    published = Counter(entry.event_id for entry in relay.journal.of(Published))
    assert set(published) == {event.id for event in [silent, *others]}, f"seed {seed}"
    assert sum(published.values()) <= 1501 + 2 * 2 * MAX_IN_FLIGHT + 2, f"seed {seed}: only what was under way again"


def test_trouble_is_told_where_health_is_read(world: World, relay: ScriptedRelay, no_waits: None) -> None:
    save(world, profiles(5), relay)
    settings = {"EVENTS_TARGET_RELAY": relay.url, "EVENTS_ALLOW_PRIVATE_RELAYS": "false"}
    with Running(world.context("sender", settings), sender.run):
        wait_until(
            lambda: (
                (found := read_heartbeat(world.runtime, "sender-0", world.clock)) is not None
                and "EVENTS_ALLOW_PRIVATE_RELAYS" in found.status
            )
        )


@pytest.mark.parametrize("form", ["hex", "HEX", "nsec", "newline"])
def test_the_key_may_be_written_in_either_form(world: World, relay: ScriptedRelay, tmp_path: Path, form: str) -> None:
    texts = {
        "hex": SECRET.secret.hex(),
        "HEX": SECRET.secret.hex().upper(),
        "nsec": encode_nsec(SECRET.secret),
        "newline": f"  {SECRET.secret.hex()}\n",
    }
    path = tmp_path / "key"
    path.write_text(texts[form])
    save(world, profiles(2), relay)
    relay.behave(Behaviour(auth=AuthDemand(writes=True)))
    settings = {"EVENTS_TARGET_RELAY": relay.url, "EVENTS_SECRET_KEY_PATH": str(path)}
    with Running(world.context("sender", settings), sender.run):
        wait_delivered(world, 2)
    assert [(entry.pubkey, entry.valid) for entry in relay.journal.of(Authenticated)] == [(SECRET.pubkey, True)]


@pytest.mark.parametrize(
    "text",
    ["", "zz" * 32, "ab" * 31, "ab" * 33, "nsec1qqqq", "npub1" + "q" * 58, "\x00", "00" * 32, "ff" * 32, "\udcff"],
)
def test_a_key_file_without_a_key_stops_the_stage(
    world: World, relay: ScriptedRelay, tmp_path: Path, text: str
) -> None:
    """At once, by its name, and without what is in it."""
    path = tmp_path / "key"
    path.write_bytes(text.encode(errors="surrogateescape"))
    settings = {"EVENTS_TARGET_RELAY": relay.url, "EVENTS_SECRET_KEY_PATH": str(path)}
    with Running(world.context("sender", settings), sender.run) as running:
        error = running.wait_over()
    assert isinstance(error, CannotStart)
    assert "EVENTS_SECRET_KEY_PATH" in str(error)
    assert not text.strip() or text not in str(error)


def test_bound_on_what_is_sent_holds_over_restarts(world: World, relay: ScriptedRelay) -> None:
    """A relay that bans for days does not know that this is another process."""
    events = profiles(60)
    save(world, events, relay)
    settings = {"EVENTS_TARGET_RELAY": relay.url, "EVENTS_TARGET_RELAY_RATE": "10"}

    def sent() -> int:
        return len(relay.journal.of(Published))

    for number in range(5):
        with Running(world.context("sender", settings), sender.run) as running:
            wait_until(lambda: sent() >= 10)
            if number:
                wait_until(lambda running=running: read_heartbeat(world.runtime, "sender-0", world.clock) is not None)  # type: ignore[misc]
                running.ctx.stop.wait(0.3)
    assert sent() == 10
    world.execute("UPDATE sent SET at = at - 60000")
    with Running(world.context("sender", settings), sender.run):
        wait_until(lambda: sent() >= 20)
    assert sent() == 20


def test_connection_to_the_target_relay_is_shown_as_any_other(world: World, relay: ScriptedRelay) -> None:
    """Its state, and what it answers by type, as in the Go service."""
    save(world, profiles(3), relay)

    def state() -> str:
        return str(world.query("SELECT state FROM target_relay")[0][0])

    with Running(world.context("sender", {"EVENTS_TARGET_RELAY": relay.url}), sender.run) as running:
        wait_delivered(world, 3)
        assert state() == "connected"
        labels = {"address": relay.url, "messageType": "ok", "result": "success"}
        assert running.metric("relay_connection_received_messages_counter_total", **labels) == 3
    assert state() == "disconnected"
