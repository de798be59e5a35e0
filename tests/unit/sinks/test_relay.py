"""What the target relay's answers mean, and how losses and silence are read; the relay is a script of frames."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

import pytest

from pipeline.delivery.sink_health import LASTING_S
from pipeline.nostr.address import parse_address
from pipeline.nostr.event import sign
from pipeline.nostr.message import parse_relay_message
from pipeline.process.clock import ManualClock
from pipeline.process.logs import RateLimitedLogger, get_logger
from pipeline.process.metrics import Metrics
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.errors import ConnectionLost, DialError, DialReason, LossReason
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, SinkDown, Verdict
from pipeline.sinks.rate import SlidingWindowLimiter
from pipeline.sinks.relay import ANSWER_TIMEOUT_S, MAX_IN_FLIGHT, RelaySink, verdict_on
from tests.integration.delivery.support import exchange

FINAL = ["replaced", "deleted", "invalid", "blocked", "duplicate", "restricted", "mute", "pow"]
TRANSIENT = ["rate-limited", "error", "auth-required", "unsupported", "no-such-prefix"]


def answer(accepted: bool, reason: str, event_id: str = "00" * 32) -> bytes:
    return json.dumps(["OK", event_id, accepted, reason]).encode()


def judged(accepted: bool, reason: str) -> Verdict:
    message = parse_relay_message(answer(accepted, reason))
    return verdict_on(message)  # type: ignore[arg-type]  # an OK by its making


@pytest.mark.parametrize("prefix", FINAL)
def test_final_answers_are_not_asked_for_again(prefix: str) -> None:
    assert judged(False, f"{prefix}: because") == Refused(prefix)


@pytest.mark.parametrize("prefix", TRANSIENT)
def test_all_other_refusals_are_tried_again(prefix: str) -> None:
    assert isinstance(judged(False, f"{prefix}: because"), Retry)


@pytest.mark.parametrize("reason", ["", "internal trouble", "blocked", "invalid", "Error: x", ": x", "we blocked: you"])
def test_a_refusal_without_a_prefix_is_tried_again(reason: str) -> None:
    """A word is a prefix by its place and colon only (NIP-01)."""
    assert isinstance(judged(False, reason), Retry)


@pytest.mark.parametrize("reason", ["", "duplicate: have it", "blocked: but fine", "error: odd"])
def test_true_is_true_whatever_the_reason(reason: str) -> None:
    assert judged(True, reason) == DELIVERED


class Wire:
    """A transport that plays turns: each `receive` takes the next, an exception is raised, silence costs its time."""

    def __init__(self, clock: ManualClock, turns: Iterable[list[bytes] | ConnectionLost | None]) -> None:
        self.clock = clock
        self.turns = list(turns)
        self.sent: list[bytes] = []
        self.closed = False
        self.pings = 0
        self.answers_pings = True
        self.skipped = 0
        self.last_received = clock.monotonic()

    def send(self, text: str | bytes) -> None:
        self.sent.append(text if isinstance(text, bytes) else text.encode())

    def receive(self, timeout_s: float) -> list[bytes]:
        turn = self.turns.pop(0) if self.turns else None
        if isinstance(turn, ConnectionLost):
            raise turn
        if turn is None:
            self.clock.advance(timeout_s)
        if turn:
            self.last_received = self.clock.monotonic()
        return turn or []

    def ping(self) -> None:
        self.pings += 1
        if self.answers_pings:
            self.last_received = self.clock.monotonic()

    def close(self) -> None:
        self.closed = True


LOST = ConnectionLost(LossReason.EOF, "gone")


def messages(count: int) -> list[Message]:
    return [Message(bytes([number]) * 32, b'{"id":"%02d"}' % number, 0) for number in range(1, count + 1)]


def ok(number: int, accepted: bool = True, reason: str = "") -> bytes:
    return answer(accepted, reason, f"{number:02x}" * 32)


class Rig:
    """A sink over wires that are dialled in turn."""

    def __init__(self, *scripts: Iterable[list[bytes] | ConnectionLost | None], secret: bytes | None = None) -> None:
        self.clock = ManualClock()
        self.wires = [Wire(self.clock, script) for script in scripts]
        self.unused = list(self.wires)
        self.metrics = Metrics()
        log = RateLimitedLogger(get_logger("test"), self.clock)
        dial = cast("Callable[[], BlockingWebSocket]", self._dial)
        address = parse_address("wss://target.example")
        self.sink = RelaySink(address, dial, secret, self.clock, self.metrics, log)

    def deliver(self, batch: Sequence[Message]) -> list[Verdict | None]:
        """Put messages under way and wait for all answers, by turns of a second."""
        return exchange(self.sink, batch, 1.0)

    def _dial(self) -> Wire:
        if not self.unused:
            raise DialError(DialReason.REFUSED, "nobody there")
        return self.unused.pop(0)

    def count(self, result: str, decision: str = "send") -> float:
        labels = {"address": "wss://target.example", "decision": decision, "result": result}
        return self.metrics.registry.get_sample_value("events_sent_to_relay_counter_total", labels) or 0.0


def test_answers_are_told_apart_by_id_in_any_order() -> None:
    rig = Rig([[ok(3), ok(9)], [ok(1, False, "invalid: x")], [ok(2, False, "rate-limited: x"), ok(3, False)]])
    assert rig.deliver(messages(3)) == [Refused("invalid"), Retry("rate-limited"), DELIVERED]
    assert (rig.count("success"), rig.count("ignoreError"), rig.count("error")) == (1, 1, 1)


def test_what_has_expired_while_it_waited_is_not_sent() -> None:
    """Neither is it held against the relay, nor does it hold up the others."""
    rig = Rig([[ok(1), ok(2)]])
    now_s = rig.clock.now_ms() // 1000
    waiting = messages(3)
    for number, expires in enumerate((now_s + 60, now_s), 1):
        tags = [["expiration", str(expires)]]
        event = sign(bytes(31) + b"\1", created_at=1, kind=0, tags=tags, content="")
        waiting[number] = replace(waiting[number], payload=event.to_json())
    expired, fresh = waiting.pop(2), waiting[1]
    assert rig.deliver([waiting[0], expired, fresh]) == [DELIVERED, Refused("expired"), DELIVERED]
    assert len(rig.wires[0].sent) == 2
    assert (rig.count("success"), rig.count("success", "ignore")) == (2, 1)


def test_what_is_no_message_is_passed_over() -> None:
    garbage = [
        b"",
        b"{",
        b"[]",
        b'["OK"]',
        b'["OK","zz",true,""]',
        b'["NOTICE",5]',
        b'["EVENT","x",{}]',
        b"\xff",
        b"[[1]]",
    ]
    rig = Rig([garbage, [ok(1)]])
    assert rig.deliver(messages(1)) == [DELIVERED]


def test_silence_blames_each_message_and_gives_the_connection_up() -> None:
    rig = Rig([[ok(2)]], [[ok(1)]])
    assert rig.deliver(messages(3)) == [Retry("timeout"), DELIVERED, Retry("timeout")]
    assert [wire.closed for wire in rig.wires] == [False, False], "somebody is there"
    assert rig.deliver(messages(1)) == [Retry("timeout")]
    assert [wire.closed for wire in rig.wires] == [True, False]
    assert rig.deliver(messages(1)) == [DELIVERED]
    assert rig.clock.monotonic() < 3 * ANSWER_TIMEOUT_S


def test_a_silent_message_holds_up_no_other() -> None:
    """It times out by itself, thirty seconds after it was sent, and the others are answered meanwhile."""
    rig = Rig()

    class Willing(Wire):
        """LastAnswer every message but the first, at the next turn."""

        def send(self, text: str | bytes) -> None:
            super().send(text)
            number = int(json.loads(self.sent[-1])[1]["id"])
            if number > 1:
                self.turns.append([ok(number)])

    rig.unused = [Willing(rig.clock, [])]
    silent, *others = messages(90)
    rig.sink.open()
    rig.sink.send(silent)
    answers: list[tuple[bytes, Verdict | None]] = []
    while rig.clock.monotonic() < ANSWER_TIMEOUT_S - 0.5:
        for message in [others.pop(0) for _ in range(3) if others]:
            rig.sink.send(message)
        assert rig.sink.room() <= MAX_IN_FLIGHT - 1
        answers += rig.sink.collect(0.25)
    assert answers == [(message.event_id, DELIVERED) for message in messages(90)[1:]]
    rig.clock.advance(1.0)
    assert rig.sink.collect(0.0) == [(silent.event_id, Retry("timeout"))]
    assert not rig.wires
    assert rig.sink.room() == MAX_IN_FLIGHT


def notice(text: str) -> bytes:
    return json.dumps(["NOTICE", text]).encode()


REFUSAL = notice("invalid: Too small: expected string to have >=1 characters")


def test_event_refused_by_a_notice_is_tried_once_more_and_no_more() -> None:
    """nostream so refuses what its schema does not know, and says nothing of which it was."""
    rig = Rig([[ok(1), REFUSAL], [ok(3)], None, None, None, [REFUSAL], None, None, None])
    assert rig.deliver(messages(3)) == [DELIVERED, Retry("notice"), DELIVERED]
    assert rig.deliver(messages(3)[1:2]) == [Refused("notice")]
    assert rig.clock.monotonic() < ANSWER_TIMEOUT_S, "others wait no longer than for an answer"
    assert not rig.wires[0].closed
    assert (rig.count("success"), rig.count("ignoreError"), rig.count("error")) == (2, 1, 1)


def test_window_full_of_events_refused_by_notices_is_free_again_soon() -> None:
    rig = Rig([[REFUSAL] * MAX_IN_FLIGHT])
    assert rig.deliver(messages(MAX_IN_FLIGHT)) == [Retry("notice")] * MAX_IN_FLIGHT
    assert rig.clock.monotonic() < ANSWER_TIMEOUT_S / 2
    assert rig.sink.room() == MAX_IN_FLIGHT


def test_slow_answer_is_not_taken_for_a_refusal_by_notice() -> None:
    """Two wait, and one NOTICE came: it does not show which is meant."""
    rig = Rig([[REFUSAL], *[None] * 20, [ok(2)], *[None] * 9])
    assert rig.deliver(messages(2)) == [Retry("notice"), DELIVERED]


@pytest.mark.parametrize("seconds", [1, 20])
def test_event_refused_by_ok_and_notice_leaves_the_slow_ones_alone(seconds: int) -> None:
    both = [REFUSAL, ok(1, False, "invalid: x")]
    rig = Rig([both, *[None] * seconds, [ok(2)]])
    assert rig.deliver(messages(2)) == [Refused("invalid"), DELIVERED]


def test_event_dropped_for_the_rate_by_a_notice_is_sent_ever_again() -> None:
    rig = Rig(*[[[notice("rate limited")]] for _ in range(3)])
    for _ in range(3):
        assert rig.deliver(messages(1)) == [Retry("rate-limited")]
        rig.sink.close()


def test_chatter_refuses_no_event() -> None:
    rig = Rig([[notice("welcome to this relay")], *[None] * 10, [ok(1)]])
    assert rig.deliver(messages(1)) == [DELIVERED]


def test_messages_that_a_dead_connection_took_are_sent_again_without_blame() -> None:
    """The first that times out tells that nobody is there."""
    rig = Rig([])
    rig.sink.open()
    first, second = messages(2)
    rig.sink.send(first)
    rig.clock.advance(20.0)
    rig.sink.send(second)
    rig.clock.advance(10.0)
    assert rig.sink.collect(0.0) == [(first.event_id, Retry("timeout")), (second.event_id, None)]
    assert rig.wires[0].closed


def test_a_relay_that_takes_its_time_is_not_taken_for_dead() -> None:
    """Nor the other way round: while it is waited for it is pinged, and is heard of as long as it answers that."""
    rig = Rig([None] * 20 + [[ok(1)]])
    rig.sink.open()
    rig.sink.send(messages(1)[0])
    while not rig.sink.collect(1.0):
        assert rig.clock.monotonic() - rig.sink.heard_at() <= LASTING_S - 1
    assert 5 <= rig.wires[0].pings <= 10
    dead = Rig([])
    dead.wires[0].answers_pings = False
    began = dead.clock.monotonic()
    dead.sink.open()
    dead.sink.send(messages(1)[0])
    while not (answers := dead.sink.collect(0.01)):
        assert dead.sink.heard_at() == began
    assert answers == [(messages(1)[0].event_id, Retry("timeout"))]
    assert dead.wires[0].pings <= ANSWER_TIMEOUT_S / 2, "not at every look"


def test_a_loss_leaves_what_was_answered_and_blames_nobody() -> None:
    rig = Rig([[ok(2)], LOST])
    with pytest.raises(SinkDown) as down:
        rig.deliver(messages(3))
    assert down.value.verdicts == (None, DELIVERED, None)
    assert down.value.reason == "eof"
    assert rig.sink.room() == MAX_IN_FLIGHT, "nothing is under way any more"
    assert rig.count("success") == 1
    assert rig.count("error") == 0


def test_a_relay_that_talks_without_pause_does_not_hold_the_batch() -> None:
    class Chatter(Wire):
        def receive(self, timeout_s: float) -> list[bytes]:
            self.clock.advance(0.5)
            return [b'["NOTICE","blah"]', ok(7)]

    rig = Rig([])
    rig.unused = [Chatter(rig.clock, [])]
    assert rig.deliver(messages(2)) == [Retry("timeout"), Retry("timeout")]
    assert rig.clock.monotonic() < 100


def test_nobody_there_is_a_sink_that_is_down() -> None:
    rig = Rig()
    with pytest.raises(SinkDown) as down:
        rig.deliver(messages(1))
    assert (down.value.reason, down.value.advice, down.value.verdicts) == ("dial-refused", "", (None,))


def test_an_address_that_is_never_dialled_is_the_operators_to_change() -> None:
    rig = Rig()

    def refuse() -> BlockingWebSocket:
        raise DialError(DialReason.PRIVATE, "127.0.0.1 is no public address", permanent=True)

    rig.sink.dial = refuse
    with pytest.raises(SinkDown) as down:
        rig.deliver(messages(1))
    assert "EVENTS_TARGET_RELAY" in down.value.advice
    assert "EVENTS_ALLOW_PRIVATE_RELAYS" in down.value.advice


SECRET = b"\x07" * 32
CHALLENGE = b'["AUTH","say who"]'


@pytest.mark.parametrize("first", [[], [CHALLENGE]])
def test_a_challenge_may_come_before_or_after_the_refusal(first: list[bytes]) -> None:
    """Its AUTH may be answered with nothing; then what was refused is sent again."""
    refusals = [ok(1, False, "auth-required: x"), ok(2)]
    rig = Rig([first, refusals, [CHALLENGE], None, None, [ok(1)]], secret=SECRET)
    assert rig.deliver(messages(2)) == [DELIVERED, DELIVERED]
    kinds = [json.loads(frame)[0] for frame in rig.wires[0].sent]
    assert kinds == ["EVENT", "EVENT", "AUTH", "EVENT"]
    assert rig.wires[0].sent[3] == rig.wires[0].sent[0]
    event = json.loads(rig.wires[0].sent[2])[1]
    assert event["kind"] == 22242
    assert ["challenge", "say who"] in event["tags"]
    assert ["relay", "wss://target.example"] in event["tags"]


def test_without_a_challenge_there_is_nothing_to_answer() -> None:
    rig = Rig([[ok(1, False, "auth-required: x")]], secret=SECRET)
    assert rig.deliver(messages(1)) == [Retry("auth-required")]
    assert len(rig.wires[0].sent) == 1
    assert rig.clock.monotonic() < 5


def test_the_key_is_not_shown() -> None:
    assert SECRET.hex() not in repr(Rig(secret=SECRET).sink)
    assert repr(SECRET) not in repr(Rig(secret=SECRET).sink)


def test_the_end_is_noticed_while_idle_and_dialling_is_for_a_message() -> None:
    rig = Rig([[ok(1)], LOST], [[ok(1)]])
    assert not rig.sink.collect(0.0)
    assert len(rig.unused) == 2
    assert rig.deliver(messages(1)) == [DELIVERED]
    assert not rig.sink.collect(0.0)
    assert rig.wires[0].closed
    assert len(rig.unused) == 1
    assert rig.deliver(messages(1)) == [DELIVERED]
    rig.sink.close()
    rig.sink.close()
    assert rig.wires[1].closed


def test_no_more_events_are_sent_in_a_minute_than_the_bound() -> None:
    rig = Rig([[ok(1), ok(2)]], [])
    rig.sink.limiter = SlidingWindowLimiter(lambda: 2)
    assert rig.sink.room() == 2
    assert rig.deliver(messages(2)) == [DELIVERED, DELIVERED]
    assert rig.sink.room() == 0
    rig.clock.advance(59.0)
    assert rig.sink.room() == 0
    rig.clock.advance(1.0)
    assert rig.sink.room() == 2


def test_what_is_sent_again_after_an_auth_counts_as_well() -> None:
    """And holds back what is new."""
    refusals = [ok(number, False, "auth-required: x") for number in (1, 2)]
    rig = Rig([[CHALLENGE], refusals, None, None, [ok(1)], *[None] * 58, [ok(2)]], secret=SECRET)
    rig.sink.limiter = SlidingWindowLimiter(lambda: 3)
    assert rig.deliver(messages(2)) == [DELIVERED, DELIVERED]
    assert rig.clock.monotonic() >= 60.0
    assert [json.loads(frame)[0] for frame in rig.wires[0].sent] == ["EVENT", "EVENT", "AUTH", "EVENT", "EVENT"]


def test_what_was_under_way_when_the_auth_was_accepted_is_sent_again() -> None:
    """Its refusal is older than the AUTH, whenever it comes; one that is younger stands."""

    class Gate(Wire):
        """Accepts the AUTH before it refuses the second message."""

        def send(self, text: str | bytes) -> None:
            super().send(text)
            kind, event = json.loads(self.sent[-1])
            if kind == "AUTH":
                self.turns.append([answer(True, "", event["id"]), ok(2, False, "auth-required: x")])
                self.turns.append([ok(1, False, "auth-required: still"), ok(2)])

    rig = Rig(secret=SECRET)
    rig.unused = [Gate(rig.clock, [[CHALLENGE, ok(1, False, "auth-required: x")]])]
    assert rig.deliver(messages(2)) == [Retry("auth-required"), DELIVERED]
