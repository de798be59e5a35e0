"""The target relay's sink over real connections: a scripted relay that misbehaves, and one that we did not write."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from websockets.sync.server import ServerConnection, serve

from pipeline.delivery import stream_worker
from pipeline.nostr.address import parse_address
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.nostr.message import RelayMessage, parse_relay_message
from pipeline.process.logs import RateLimitedLogger, get_logger
from pipeline.process.metrics import Metrics
from pipeline.relay import authentication
from pipeline.relay.advertised import AdvertisedLimits
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.dial import DialPolicy, dial
from pipeline.relay.nip11 import RelayInformation
from pipeline.sinks import relay as relay_sink
from pipeline.sinks.base import DELIVERED, Refused, Retry, SinkDown, Verdict
from pipeline.sinks.frame_limit import FrameLimit
from pipeline.sinks.relay import RelaySink
from pipeline.store.sinks import SinkName
from tests.factories.events import Author
from tests.factories.workload import Workload
from tests.fakes.behaviour import AuthDemand, Behaviour, OkRule, RateLimit, Refusal
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Authenticated, Connected, Published
from tests.integration.delivery.support import (
    NOW,
    PATIENCE_S,
    Loop,
    Outbox,
    exchange,
    message,
    messages,
    notes,
    wait_until,
)

SECRET = Author.from_seed(77, 0)
Connect = Callable[..., RelaySink]


@pytest.fixture
def connect(box: Outbox) -> Iterator[Connect]:
    """Makes sinks for an address, closed after the test."""
    made: list[RelaySink] = []

    def to(url: str, secret: bytes | None = None) -> RelaySink:
        address = parse_address(url)
        policy = DialPolicy(allow_private=True)
        log = RateLimitedLogger(get_logger("sender"), box.clock)
        made.append(
            RelaySink(
                address,
                lambda: BlockingWebSocket(dial(address, policy, box.clock), box.clock),
                secret,
                box.clock,
                Metrics(),
                log,
            )
        )
        return made[-1]

    yield to
    for sink in made:
        sink.close()


@pytest.fixture
def relay() -> Iterator[ScriptedRelay]:
    with ScriptedRelay() as running:
        yield running


@pytest.fixture
def sink(relay: ScriptedRelay, connect: Connect) -> RelaySink:
    return connect(relay.url)


def test_events_are_published_over_one_connection(relay: ScriptedRelay, sink: RelaySink) -> None:
    signed = notes(250, kind=0)
    for start in range(0, 250, 100):
        batch = messages(signed[start : start + 100])
        assert exchange(sink, batch) == [DELIVERED] * len(batch)
    published = relay.journal.of(Published)
    assert [entry.event_id for entry in published] == [event.id for event in signed]
    assert all(entry.accepted for entry in published)
    assert {entry.connection for entry in published} == {1}
    assert sink.room() == 100


@pytest.mark.parametrize(
    "prefix", ["replaced", "deleted", "invalid", "blocked", "duplicate", "restricted", "mute", "pow"]
)
def test_final_answers(relay: ScriptedRelay, sink: RelaySink, prefix: str) -> None:
    relay.behave(Behaviour(ok_rules=(OkRule(reason=f"{prefix}: so there"),)))
    assert exchange(sink, messages(notes(2))) == [Refused(prefix)] * 2


@pytest.mark.parametrize(
    "reason", ["rate-limited: slow down", "error: disk", "auth-required: who are you", "", "hm", "x: y"]
)
def test_answers_that_are_asked_for_again(relay: ScriptedRelay, sink: RelaySink, reason: str) -> None:
    relay.behave(Behaviour(ok_rules=(OkRule(reason=reason),)))
    verdicts = exchange(sink, messages(notes(2)))
    assert [type(verdict) for verdict in verdicts] == [Retry, Retry]


def test_a_duplicate_that_is_accepted_is_delivered(relay: ScriptedRelay, sink: RelaySink) -> None:
    assert exchange(sink, messages(notes(1))) == exchange(sink, messages(notes(1))) == [DELIVERED]
    assert len(relay.stored()) == 1


def test_answers_out_of_order(relay: ScriptedRelay, sink: RelaySink) -> None:
    """Each is for the event that it names."""
    signed = notes(6)
    relay.behave(
        Behaviour(
            ok_rules=(
                OkRule(reason="invalid: no", containing=signed[1].id, delay_s=0.05),
                OkRule(reason="error: later", containing=signed[4].id),
            )
        )
    )
    expected = [DELIVERED, Refused("invalid"), DELIVERED, DELIVERED, Retry("error"), DELIVERED]
    assert exchange(sink, messages(signed)) == expected


def test_silence_about_one_event(relay: ScriptedRelay, sink: RelaySink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are settled, and the connection goes on."""
    signed = notes(3)
    relay.behave(Behaviour(ok_rules=(OkRule(containing=signed[1].id, answer=False, times=1),)))
    sink.open()
    for each in messages(signed):
        sink.send(each)
    answers: dict[str, Verdict | None] = {}

    def answered(count: int) -> bool:
        answers.update((event_id.hex(), verdict) for event_id, verdict in sink.collect(0.02))
        return len(answers) == count

    wait_until(lambda: answered(2))
    # Only now, since an answer that is on its way may take as long.
    monkeypatch.setattr(relay_sink, "ANSWER_TIMEOUT_S", 0.0)
    wait_until(lambda: answered(3))
    monkeypatch.undo()
    assert [answers[event.id] for event in signed] == [DELIVERED, Retry("timeout"), DELIVERED]
    assert exchange(sink, messages(signed[1:2])) == [DELIVERED]
    assert relay.journal.of(Published)[-1].connection == 1


def test_a_relay_that_says_nothing_at_all(
    relay: ScriptedRelay, sink: RelaySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event is retried on its own, over a new connection."""
    relay.behave(Behaviour(deaf=True))
    sink.open()
    for each in messages(notes(2)):
        sink.send(each)
    monkeypatch.setattr(relay_sink, "ANSWER_TIMEOUT_S", 0.0)
    assert [verdict for _, verdict in sink.collect(0.02)] == [Retry("timeout")] * 2
    monkeypatch.undo()
    relay.wait_for_disconnection()
    relay.behave(Behaviour())
    assert exchange(sink, messages(notes(2))) == [DELIVERED] * 2
    assert relay.journal.of(Published)[-1].connection == 2


def test_a_connection_that_drops_in_the_middle(relay: ScriptedRelay, sink: RelaySink) -> None:
    """What was answered before stays settled, nobody is blamed, and the next batch dials again."""
    signed = notes(10)
    relay.behave(Behaviour(ok_rules=(OkRule(containing=signed[6].id, reset=True, times=1),)))
    with pytest.raises(SinkDown) as down:
        exchange(sink, messages(signed))
    settled = down.value.verdicts
    assert len(settled) == 10
    assert set(settled[:6]) <= {DELIVERED, None}
    assert set(settled[6:]) == {None}
    rest = [event for event, verdict in zip(signed, settled, strict=True) if verdict is None]
    assert exchange(sink, messages(rest)) == [DELIVERED] * len(rest)
    relay.wait_for_connection(2)


def test_an_event_that_the_relay_cannot_bear(
    box: Outbox, relay: ScriptedRelay, sink: RelaySink, no_waits: None
) -> None:
    """Such as one that is larger than its frames: it is sent alone, twice, and those as large not at all afterwards."""
    box.sink = SinkName.RELAY
    large, *others = [*notes(1, kind=0, size=20_000), *notes(30, kind=0, first=1)]
    larger = notes(1, kind=3, size=30_000)[0]
    relay.behave(Behaviour(max_frame_bytes=10_000))
    box.put([large, *others[:20]])
    with Loop(box, sink, "sender") as loop:
        wait_until(lambda: len(box.outcomes()) >= 20)
        box.put(others[20:])
        wait_until(lambda: len(box.outcomes()) == 31)
        connections = len(relay.journal.of(Connected))
        box.put([larger])
        box.wait_empty()
    assert {box.outcomes()[box.numbers[event.id]] for event in (large, larger)} == {"refused: too-large"}
    assert {box.outcomes()[box.numbers[event.id]] for event in others} == {"delivered"}
    assert loop.metric("event_service_stage_errors_total", stage="sender", kind="disconnected") >= 1
    assert len(relay.journal.of(Connected)) <= connections + 1
    assert box.dead() == {}


def test_what_the_relay_says_is_too_large_is_not_sent(relay: ScriptedRelay, sink: RelaySink) -> None:
    sink.frame_limit = limit = FrameLimit(
        lambda: RelayInformation(limits=AdvertisedLimits(max_message_length=10_000)), sink.clock
    )
    limit.refresh()
    wait_until(lambda: limit.most == 10_000)
    large, small = notes(1, size=20_000)[0], notes(1, first=1)[0]
    assert exchange(sink, messages([large, small])) == [Refused("too-large"), DELIVERED]
    assert [entry.event_id for entry in relay.journal.of(Published)] == [small.id]


def test_nobody_listens_and_then_somebody_does(relay: ScriptedRelay, sink: RelaySink) -> None:
    relay.stop()
    with pytest.raises(SinkDown, match="dial-refused"):
        exchange(sink, messages(notes(1)))
    relay.start()
    assert exchange(sink, messages(notes(1))) == [DELIVERED]


@pytest.mark.parametrize("silent_success", [True, False])
def test_a_relay_that_wants_to_know_who_we_are(
    relay: ScriptedRelay, connect: Connect, silent_success: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key we say who, and what was refused for want of it is sent again at once (NIP-42)."""
    monkeypatch.setattr(authentication, "PATIENCE_S", 0.3)
    relay.behave(Behaviour(auth=AuthDemand(writes=True, silent_success=silent_success)))
    sink = connect(relay.url, SECRET.secret)
    assert exchange(sink, messages(notes(5))) == [DELIVERED] * 5
    assert exchange(sink, messages(notes(5, first=5))) == [DELIVERED] * 5
    found = relay.journal.of(Authenticated)
    assert [(entry.pubkey, entry.valid) for entry in found] == [(SECRET.pubkey, True)]
    relay.wait_for_published(count=15)


def test_a_relay_that_wants_to_know_and_is_not_told(relay: ScriptedRelay, sink: RelaySink) -> None:
    """Without a key."""
    relay.behave(Behaviour(auth=AuthDemand(writes=True)))
    assert exchange(sink, messages(notes(3))) == [Retry("auth-required")] * 3
    assert relay.journal.of(Authenticated) == []


def test_an_auth_that_is_refused_is_not_repeated_without_end(
    relay: ScriptedRelay, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "PATIENCE_S", 0.3)
    relay.behave(Behaviour(auth=AuthDemand(writes=True), ok_rules=(OkRule(reason="auth-required: not you"),)))
    sink = connect(relay.url, SECRET.secret)
    assert exchange(sink, messages(notes(2))) == [Retry("auth-required")] * 2
    assert len(relay.journal.of(Authenticated)) == 1


def test_a_new_connection_is_authenticated_anew(relay: ScriptedRelay, connect: Connect) -> None:
    """With the challenge of that connection."""
    relay.behave(Behaviour(auth=AuthDemand(writes=True)))
    sink = connect(relay.url, SECRET.secret)
    assert exchange(sink, messages(notes(1))) == [DELIVERED]
    relay.stop()
    relay.start()
    with pytest.raises(SinkDown):
        exchange(sink, messages(notes(1, first=1)))
    assert exchange(sink, messages(notes(1, first=1))) == [DELIVERED]
    assert [entry.valid for entry in relay.journal.of(Authenticated)] == [True, True]


def test_pings_of_an_idle_connection_are_answered(connect: Connect) -> None:
    """Or relays take us for gone."""
    answered = threading.Event()

    def serve_one(socket: ServerConnection) -> None:
        event = json.loads(socket.recv())[1]
        socket.send(json.dumps(["OK", event["id"], True, ""]))
        if socket.ping().wait(PATIENCE_S):
            answered.set()

    with serve(serve_one, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        sink = connect(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        assert exchange(sink, messages(notes(1))) == [DELIVERED]

        def alive() -> bool:
            assert not sink.collect(0.0)
            return answered.is_set()

        wait_until(alive)
        sink.close()
        server.shutdown()
        thread.join()


def test_the_end_of_an_idle_connection_is_noticed(relay: ScriptedRelay, sink: RelaySink) -> None:
    """Before the next event needs it; that one goes out over a new connection."""
    assert exchange(sink, messages(notes(1))) == [DELIVERED]
    relay.drop()

    def over() -> bool:
        assert not sink.collect(0.0)
        return sink._websocket is None

    wait_until(over)
    assert exchange(sink, messages(notes(1, first=1))) == [DELIVERED]
    assert [entry.connection for entry in relay.journal.of(Published)] == [1, 2]


def test_a_relay_that_limits_the_rate(
    box: Outbox, relay: ScriptedRelay, sink: RelaySink, no_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By NOTICE, without any OK: what was not answered is tried again, and all arrives in the end."""
    box.sink = SinkName.RELAY
    box.put(notes(40, kind=0))
    relay.behave(Behaviour(rate=RateLimit(per_s=200, burst=10, refusal=Refusal())))
    monkeypatch.setattr(relay_sink, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(stream_worker, "_IDLE_S", 0.05)
    with Loop(box, sink, "sender"):
        box.wait_empty()
    assert set(box.outcomes().values()) == {"delivered"}


def test_frames_of_garbage_between_answers(relay: ScriptedRelay, sink: RelaySink) -> None:
    assert exchange(sink, messages(notes(1))) == [DELIVERED]
    for garbage in ("", "[]", "{}", '["OK"]', '["OK", 5, true]', '["EVENT"]', "\x00", "[" * 5000):
        relay.shout(garbage)
    assert exchange(sink, messages(notes(20, first=1))) == [DELIVERED] * 20
    assert relay.journal.of(Published)[-1].connection == 1


def test_an_independent_relay_takes_what_we_send(connect: Connect) -> None:
    """Its own reasons for what it refuses, read as they should be."""
    alice = Author.from_seed(5, 1)
    newer, older = (alice.sign("", kind=0, created_at=NOW + number) for number in (5, 1))
    protected = alice.sign("", kind=0, created_at=NOW + 9, tags=[["-"]])
    forged = message(Author.from_seed(5, 2).sign("x", kind=0, created_at=NOW))
    broken = replace(forged, payload=forged.payload.replace(b'"x"', b'"y"'))
    with IndependentRelay() as relay:
        sink = connect(relay.url)
        assert exchange(sink, messages([newer])) == [DELIVERED]
        verdicts = exchange(sink, [*messages([older, protected]), broken, *messages([newer])])
        # It has no better word for what was replaced than "error: unknown".
        assert verdicts == [Retry("error"), Retry("auth-required"), Refused("invalid"), DELIVERED]
        world = Workload(
            seed=5, events=300, authors=300, since=NOW, until=NOW + 100, kinds=((0, 1), (3, 1), (10002, 1))
        )
        events = list(world.generate())
        for start in range(0, 300, 100):
            verdicts = exchange(sink, messages(events[start : start + 100]))
            assert set(verdicts) <= {DELIVERED, Retry("error")}
            assert verdicts.count(DELIVERED) > 50


def test_an_independent_relay_that_demands_auth(connect: Connect) -> None:
    signed = notes(5, kind=1)
    with IndependentRelay(auth=True) as relay:
        assert set(exchange(connect(relay.url), messages(signed))) <= {Retry("auth-required"), DELIVERED}
        assert exchange(connect(relay.url, SECRET.secret), messages(signed)) == [DELIVERED] * 5


def test_frame_that_holds_too_much_is_counted_and_not_parsed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay's own stream of tiny arrays costs the sender next to nothing, and its answers are read on."""
    parsed: list[int] = []

    def parse(raw: bytes) -> RelayMessage:
        parsed.append(len(raw))
        return parse_relay_message(raw)

    monkeypatch.setattr(relay_sink, "parse_relay_message", parse)
    costly = '["EVENT","x",{"tags":[' + ",".join(["[]"] * 100_000) + "]}]"

    def serve_one(conn: ServerConnection) -> None:
        for raw in conn:
            conn.send(costly)
            conn.send(json.dumps(["OK", json.loads(raw)[1]["id"], True, ""]))

    with serve(serve_one, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        sink = connect(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        sink.bounds = FrameBounds(1 << 20, 1_000)
        assert exchange(sink, messages(notes(3, kind=0))) == [DELIVERED] * 3
        server.shutdown()
        thread.join()
    assert len(parsed) == 3
    assert max(parsed) < 1_000
    name, labels = "event_service_stage_errors_total", {"stage": "sender", "kind": "message-too-many-tags"}
    assert sink.metrics.registry.get_sample_value(name, labels) == 3
