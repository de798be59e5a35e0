"""What the target relay's answers mean, and how losses and silence are read; the relay is a script of frames."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import cast

import pytest

from pipeline.nostr.address import parse_address
from pipeline.nostr.event import sign
from pipeline.nostr.message import parse_relay_message
from pipeline.process.clock import ManualClock
from pipeline.process.logs import RateLimited, get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.stop import Stop
from pipeline.relay.errors import ConnectionLost, DialError, DialReason, LossReason
from pipeline.relay.transport import Transport
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, SinkDown, Verdict
from pipeline.sinks.outage import LASTING_S
from pipeline.sinks.rate import RateBound
from pipeline.sinks.relay import ANSWER_TIMEOUT_S, RelaySink, verdict_on

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
        log = RateLimited(get_logger("test"), self.clock)
        dial = cast("Callable[[], Transport]", self._dial)
        self.beats = 0
        self.stop = Stop()
        self.sink = RelaySink(
            parse_address("wss://target.example"), dial, secret, self.clock, self.metrics, log, self.stop, self._beat
        )
        self.heard_at: list[float] = []
        self.sink.heard = lambda: self.heard_at.append(self.clock.monotonic())

    def _dial(self) -> Wire:
        if not self.unused:
            raise DialError(DialReason.REFUSED, "nobody there")
        return self.unused.pop(0)

    def _beat(self) -> None:
        self.beats += 1

    def count(self, result: str, decision: str = "send") -> float:
        labels = {"address": "wss://target.example", "decision": decision, "result": result}
        return self.metrics.registry.get_sample_value("events_sent_to_relay_counter_total", labels) or 0.0


def test_answers_are_told_apart_by_id_in_any_order() -> None:
    rig = Rig([[ok(3), ok(9)], [ok(1, False, "invalid: x")], [ok(2, False, "rate-limited: x"), ok(3, False)]])
    assert rig.sink.deliver(messages(3)) == [Refused("invalid"), Retry("rate-limited"), DELIVERED]
    assert (rig.count("success"), rig.count("ignoreError"), rig.count("error")) == (1, 1, 1)


def test_what_has_expired_while_it_waited_is_not_sent() -> None:
    """Neither is it held against the relay, nor does it hold up the others."""
    rig = Rig([[ok(1), ok(3)]])
    now_s = rig.clock.now_ms() // 1000
    waiting = messages(3)
    for number, expires in enumerate((now_s + 60, now_s), 1):
        tags = [["expiration", str(expires)]]
        event = sign(bytes(31) + b"\1", created_at=1, kind=0, tags=tags, content="")
        waiting[number] = replace(waiting[number], payload=event.to_json())
    expired, fresh = waiting.pop(2), waiting[1]
    assert rig.sink.deliver([waiting[0], expired, replace(fresh, event_id=b"\3" * 32)]) == [
        DELIVERED, Refused("expired"), DELIVERED,
    ]  # fmt: skip
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
    assert rig.sink.deliver(messages(1)) == [DELIVERED]


def test_silence_blames_each_message_that_was_sent_and_gives_the_connection_up() -> None:
    rig = Rig([[ok(2)]], [[ok(1)]])
    assert rig.sink.deliver(messages(3)) == [Retry("timeout"), DELIVERED, Retry("timeout")]
    assert [wire.closed for wire in rig.wires] == [False, False], "somebody is there"
    assert rig.sink.deliver(messages(1)) == [Retry("timeout")]
    assert [wire.closed for wire in rig.wires] == [True, False]
    assert rig.sink.deliver(messages(1)) == [DELIVERED]
    assert rig.clock.monotonic() < 3 * ANSWER_TIMEOUT_S
    assert rig.beats > 20, "a stage that waits is alive"


def test_a_relay_that_takes_its_time_is_not_taken_for_dead() -> None:
    """Nor the other way round: while it is waited for it is pinged, and is heard of as long as it answers that."""
    rig = Rig([None] * 20 + [[ok(1)]])
    assert rig.sink.deliver(messages(1)) == [DELIVERED]
    assert 5 <= rig.wires[0].pings <= 10
    assert max(later - earlier for earlier, later in pairwise(rig.heard_at)) <= LASTING_S - 1
    dead = Rig([])
    dead.wires[0].answers_pings = False
    began = dead.clock.monotonic()
    assert dead.sink.deliver(messages(1)) == [Retry("timeout")]
    assert max(dead.heard_at) - began <= LASTING_S - 1


def test_a_loss_leaves_what_was_answered_and_blames_nobody() -> None:
    rig = Rig([[ok(2)], LOST])
    with pytest.raises(SinkDown) as down:
        rig.sink.deliver(messages(3))
    assert down.value.verdicts == (None, DELIVERED, None)
    assert down.value.reason == "eof"
    assert rig.count("success") == 1
    assert rig.count("error") == 0


def test_a_message_that_breaks_the_connection_is_found_and_the_others_get_through() -> None:
    """After a loss they go one by one; the one that was alone when it broke again is to blame."""
    rig = Rig([LOST], [[ok(1)], LOST], [[ok(3)], [ok(4)]], [[ok(4), ok(1)]])
    with pytest.raises(SinkDown) as first:
        rig.sink.deliver(messages(4))
    assert first.value.verdicts == (None, None, None, None)
    with pytest.raises(SinkDown) as second:
        rig.sink.deliver(messages(4))
    assert second.value.verdicts == (DELIVERED, Retry("disconnected"), None, None)
    assert len(rig.wires[1].sent) == 2
    assert rig.sink.deliver(messages(4)[2:]) == [DELIVERED, DELIVERED]
    rig.wires[2].turns = [[ok(4), ok(1)]]
    both = [messages(4)[0], messages(4)[3]]
    assert rig.sink.deliver(both) == [DELIVERED, DELIVERED], "all at once again"


def test_a_lone_message_is_not_blamed_for_the_first_loss() -> None:
    """The connection may have been dead before."""
    rig = Rig([LOST], [LOST])
    with pytest.raises(SinkDown) as first:
        rig.sink.deliver(messages(1))
    assert first.value.verdicts == (None,)
    with pytest.raises(SinkDown) as second:
        rig.sink.deliver(messages(1))
    assert second.value.verdicts == (Retry("disconnected"),)


def test_a_relay_that_talks_without_pause_does_not_hold_the_batch() -> None:
    class Chatter(Wire):
        def receive(self, timeout_s: float) -> list[bytes]:
            self.clock.advance(0.5)
            return [b'["NOTICE","blah"]', ok(7)]

    rig = Rig([])
    rig.unused = [Chatter(rig.clock, [])]
    assert rig.sink.deliver(messages(2)) == [Retry("timeout"), Retry("timeout")]
    assert rig.clock.monotonic() < 100


def test_what_there_was_no_time_for_is_not_blamed() -> None:
    """A relay that reads slowly gets as much of the batch as the time allows."""

    class Slow(Wire):
        def send(self, text: str | bytes) -> None:
            super().send(text)
            self.clock.advance(9.0)

    rig = Rig([])
    rig.unused = [Slow(rig.clock, [[ok(number) for number in range(1, 30)]])]
    verdicts = rig.sink.deliver(messages(30))
    assert verdicts[0] is not None
    assert verdicts[-1] is None
    assert rig.clock.monotonic() < 120
    assert rig.beats >= 7


def test_a_process_that_is_to_end_waits_seconds_for_answers_and_blames_nobody() -> None:
    """What is unanswered is sent again by the next process."""
    rig = Rig([])

    class Stopping(Wire):
        def send(self, text: str | bytes) -> None:
            super().send(text)
            rig.stop.set()

    rig.unused = [Stopping(rig.clock, [[ok(1)], [ok(2)]])]
    assert rig.sink.deliver(messages(3)) == [DELIVERED, DELIVERED, None]
    assert rig.clock.monotonic() < 5


def test_a_bound_on_events_a_minute_times_no_answer_out() -> None:
    """What is sent last has as much time for its answer as all others; what was not sent is not blamed."""

    class Delayed(Wire):
        due: list[tuple[float, int]]

        def send(self, text: str | bytes) -> None:
            super().send(text)
            self.due.append((self.clock.monotonic() + 1.5, json.loads(self.sent[-1])[1]["id"]))

        def receive(self, timeout_s: float) -> list[bytes]:
            now = self.clock.monotonic()
            answers = [ok(int(number)) for at, number in self.due if at <= now]
            self.due = [(at, number) for at, number in self.due if at > now]
            if not answers:
                self.clock.advance(min(timeout_s, 0.5))
            return answers

    rig = Rig([])
    wire = Delayed(rig.clock, [])
    wire.due = []
    rig.unused = [wire]
    rig.sink.rate = RateBound(lambda: 30)
    # The first thirty at once, and then as room comes.
    verdicts = rig.sink.deliver(messages(99))
    assert set(verdicts) == {DELIVERED, None}
    assert 30 <= verdicts.count(DELIVERED) == len(wire.sent) <= 60
    assert rig.clock.monotonic() < 100


def test_nobody_there_is_a_sink_that_is_down() -> None:
    rig = Rig()
    with pytest.raises(SinkDown) as down:
        rig.sink.deliver(messages(1))
    assert (down.value.reason, down.value.advice, down.value.verdicts) == ("dial-refused", "", ())


def test_an_address_that_is_never_dialled_is_the_operators_to_change() -> None:
    rig = Rig()

    def refuse() -> Transport:
        raise DialError(DialReason.PRIVATE, "127.0.0.1 is no public address", permanent=True)

    rig.sink.dial = refuse
    with pytest.raises(SinkDown) as down:
        rig.sink.deliver(messages(1))
    assert "EVENTS_TARGET_RELAY" in down.value.advice
    assert "EVENTS_ALLOW_PRIVATE_RELAYS" in down.value.advice


SECRET = b"\x07" * 32
CHALLENGE = b'["AUTH","say who"]'


@pytest.mark.parametrize("first", [[], [CHALLENGE]])
def test_a_challenge_may_come_before_or_after_the_refusal(first: list[bytes]) -> None:
    """Its AUTH may be answered with nothing; then what was refused is sent again."""
    refusals = [ok(1, False, "auth-required: x"), ok(2)]
    rig = Rig([first, refusals, [CHALLENGE], None, [ok(1)]], secret=SECRET)
    assert rig.sink.deliver(messages(2)) == [DELIVERED, DELIVERED]
    kinds = [json.loads(frame)[0] for frame in rig.wires[0].sent]
    assert kinds == ["EVENT", "EVENT", "AUTH", "EVENT"]
    assert rig.wires[0].sent[3] == rig.wires[0].sent[0]
    event = json.loads(rig.wires[0].sent[2])[1]
    assert event["kind"] == 22242
    assert ["challenge", "say who"] in event["tags"]
    assert ["relay", "wss://target.example"] in event["tags"]


def test_without_a_challenge_there_is_nothing_to_answer() -> None:
    rig = Rig([[ok(1, False, "auth-required: x")]], secret=SECRET)
    assert rig.sink.deliver(messages(1)) == [Retry("auth-required")]
    assert len(rig.wires[0].sent) == 1
    assert rig.clock.monotonic() < 5


def test_the_key_is_not_shown() -> None:
    assert SECRET.hex() not in repr(Rig(secret=SECRET).sink)
    assert repr(SECRET) not in repr(Rig(secret=SECRET).sink)


def test_keep_alive_notices_the_end_and_dials_only_for_a_message() -> None:
    rig = Rig([[ok(1)], LOST], [[ok(1)]])
    rig.sink.keep_alive()
    assert len(rig.unused) == 2
    assert rig.sink.deliver(messages(1)) == [DELIVERED]
    rig.sink.keep_alive()
    assert rig.wires[0].closed
    assert len(rig.unused) == 1
    assert rig.sink.deliver(messages(1)) == [DELIVERED]
    rig.sink.close()
    rig.sink.close()
    assert rig.wires[1].closed


def test_no_more_events_are_sent_in_a_minute_than_the_bound() -> None:
    rig = Rig([*([None] * 120), [ok(1), ok(2), ok(3)]])
    rig.sink.rate = RateBound(lambda: 2)
    rig.sink.deliver(messages(3))
    assert len(rig.wires[0].sent) == 3
    assert rig.clock.monotonic() >= 60.0
    assert rig.beats >= 60, "the stage beats while it waits"
