"""The target relay: EVENTs over one connection, each settled by the OK that names it (NIP-01, NIP-20, NIP-42)."""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final, NamedTuple

from pipeline.nostr.address import RelayAddress
from pipeline.nostr.auth import addresses_for_auth, auth_event
from pipeline.nostr.event import InvalidEvent, event_from_stored
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.nostr.message import (
    AuthChallenge,
    Closed,
    Eose,
    InvalidMessage,
    Notice,
    Ok,
    encode_auth,
    parse_relay_message,
)
from pipeline.nostr.tags import expiration
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.metrics import Metrics
from pipeline.relay.authentication import Authentication, AuthResult
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.errors import ConnectionLost, DialError, DialReason
from pipeline.sinks.base import DELIVERED, Answer, Delivered, Message, Refused, Retry, SinkDown, Verdict
from pipeline.sinks.frame_limit import FrameLimit
from pipeline.sinks.notice_refusals import NoticeRefusals
from pipeline.sinks.rate import SlidingWindowLimiter
from pipeline.store.relay_status import RelayState

# Relays drop clients that have much more under way.
MAX_IN_FLIGHT: Final = 100
ANSWER_TIMEOUT_S: Final = 30.0
# After this time without a byte the relay is pinged, and again after each.
_QUIET_S: Final = 2.0
_AUTH_REQUIRED: Final = Retry("auth-required")
_TIMEOUT: Final = Retry("timeout")
_TYPES: Final[dict[type, str]] = {Ok: "ok", Notice: "notice", AuthChallenge: "auth", Eose: "eose", Closed: "close"}
# It was not when it was queued, but the relay was away, or the bound on events a minute held it up.
_EXPIRED: Final = Refused("expired")
_TOO_LARGE: Final = Refused("too-large")

_BEFORE: Final = b'["EVENT",'
_BEHIND: Final = b"]"
_ENVELOPE_BYTES: Final = len(_BEFORE) + len(_BEHIND)

# LastAnswer that asking again would not change.
FINAL_PREFIXES: Final = frozenset(
    {"replaced", "deleted", "invalid", "blocked", "duplicate", "restricted", "mute", "pow"}
)


class _SentMessage(NamedTuple):
    message: Message
    at: float
    logins: int


@dataclass(slots=True)
class RelaySink:
    """Sink that sends events to one relay over a lasting connection; a `StreamSink`. For one thread."""

    address: RelayAddress
    dial: Callable[[], BlockingWebSocket]
    secret: bytes | None = field(repr=False)
    clock: Clock
    metrics: Metrics
    log: RateLimitedLogger
    limiter: SlidingWindowLimiter = field(default_factory=lambda: SlidingWindowLimiter(lambda: 0))
    frame_limit: FrameLimit | None = None
    """What the relay says of the largest message that it takes."""
    on_state: Callable[[RelayState], None] = lambda _: None
    """Told of each change of the state of the connection."""
    bounds: FrameBounds | None = None
    """No frame of the relay's beyond them is parsed."""
    _state: RelayState | None = None
    _websocket: BlockingWebSocket | None = None
    _auth: Authentication = field(default_factory=lambda: Authentication(is_possible=False))
    _logins: int = 0
    """How often an AUTH was accepted; what was sent before the last and is refused for want of it is sent again."""
    _waiting: dict[bytes, _SentMessage] = field(default_factory=dict)
    """Sent and not answered, by id, the oldest first."""
    _refused: deque[Message] = field(default_factory=deque)
    """For want of an AUTH, and to be sent again after it."""
    _notices: NoticeRefusals = field(default_factory=NoticeRefusals)
    _answers: list[Answer] = field(default_factory=list)
    _last_answer_at: float = -math.inf
    _pinged_at: float = -math.inf

    def room(self) -> int:
        """See `StreamSink.room`; the bound on events a minute leaves none for a while."""
        if self._refused:
            return 0
        return self.limiter.room(self.clock.monotonic(), MAX_IN_FLIGHT - len(self._waiting) - len(self._answers))

    def heard_at(self) -> float:
        """See `StreamSink.heard_at`; events may go unanswered for their own sake, a ping does not."""
        return -math.inf if self._websocket is None else self._websocket.last_received

    def open(self) -> None:
        """See `StreamSink.open`."""
        if self._websocket is not None:
            return
        try:
            self._websocket = self.dial()
        except DialError as error:
            self._note_state(RelayState.DISCONNECTED)
            self.metrics.disconnections.labels(self.address.url, "dial").inc()
            advice = "check EVENTS_TARGET_RELAY" if error.permanent else ""
            if error.reason is DialReason.PRIVATE:
                advice += ", or set EVENTS_ALLOW_PRIVATE_RELAYS"
            raise SinkDown(f"dial-{error.reason}", error.detail, advice) from error
        if self.frame_limit is not None:
            self.frame_limit.refresh()
        addresses = len(addresses_for_auth(self.address))
        self._auth = Authentication(is_possible=self.secret is not None, addresses=addresses)
        self._note_state(RelayState.CONNECTED)
        self.log.debug(self.address.url, "target relay connected", relay=self.address)

    def send(self, message: Message) -> None:
        """See `StreamSink.send`."""
        assert self._websocket is not None, "opened before"
        if _has_expired(message, self.clock.now_ms() // 1000):
            self._answers.append((message.event_id, _EXPIRED))
            return
        if self._is_too_large(message):
            self._answers.append((message.event_id, _TOO_LARGE))
            return
        try:
            self._put(self._websocket, message)
        except ConnectionLost as error:
            raise self._lose(error) from error

    def collect(self, timeout_s: float) -> Sequence[Answer]:
        """See `StreamSink.collect`; a message without an answer for `ANSWER_TIMEOUT_S` is retried on its own."""
        if self._websocket is not None:
            try:
                for raw in self._websocket.receive(0.0 if self._answers else timeout_s):
                    self._take(raw)
                self._count_skipped(self._websocket)
                self._authenticate(self._websocket)
                self._send_again(self._websocket)
                self._look_for_life(self._websocket)
            except ConnectionLost as error:
                if self._waiting or self._refused:
                    raise self._lose(error) from error
                self._disconnect()
        self._take_refused()
        self._time_out()
        answers, self._answers = self._answers, []
        self._count(answers)
        return answers

    def close(self) -> None:
        """See `StreamSink.close`."""
        self._disconnect()

    def _is_too_large(self, message: Message) -> bool:
        most = None if self.frame_limit is None else self.frame_limit.most
        return most is not None and len(message.payload) + _ENVELOPE_BYTES > most

    def _disconnect(self) -> None:
        if self._websocket is not None:
            self._websocket.close()
            self._websocket = None
            self._notices.reset()
            self._note_state(RelayState.DISCONNECTED)

    def _put(self, websocket: BlockingWebSocket, message: Message) -> None:
        now = self.clock.monotonic()
        self.limiter.note(now)
        self._waiting[message.event_id] = _SentMessage(message, now, self._logins)
        websocket.send(_BEFORE + message.payload + _BEHIND)

    def _lose(self, error: ConnectionLost) -> SinkDown:
        """Forget what was under way with the connection that broke."""
        self._disconnect()
        self._waiting.clear()
        self._refused.clear()
        self._answers.clear()
        return SinkDown(error.reason, error.detail)

    def _take(self, raw: bytes) -> None:
        if self.bounds is not None and (excess := self.bounds.excess(raw)) is not None:
            self._received("unknown", "error")
            self.metrics.stage_errors.labels("sender", f"message-{excess}").inc()
            return
        try:
            message = parse_relay_message(raw)
        except (InvalidMessage, InvalidEvent) as error:
            self._received("unknown", "error")
            self.metrics.stage_errors.labels("sender", "invalid-message").inc()
            self.log.debug(type(error).__name__, "invalid message", relay=self.address, reason=error)
            return
        self._received(_TYPES.get(type(message), "unknown"), "success")
        match message:
            case Ok():
                self._settle(message)
            case AuthChallenge(challenge):
                self._auth.on_challenge(challenge)
            case Notice(text):
                self.log.debug(type(message).__name__, "notice", relay=self.address, text=text)
                if self._waiting:
                    self._notices.on_notice(text, self.clock.monotonic())

    def _received(self, kind: str, result: str) -> None:
        self.metrics.received_messages.labels(self.address.url, kind, result).inc()

    def _note_state(self, state: RelayState) -> None:
        if state is not self._state:
            self._state = state
            self.on_state(state)

    def _count_skipped(self, websocket: BlockingWebSocket) -> None:
        if websocket.skipped:
            self.metrics.stage_errors.labels("sender", "message-too-large").inc(websocket.skipped)
            websocket.skipped = 0

    def _settle(self, answer: Ok) -> None:
        sent = self._waiting.pop(answer.event_id, None)
        if sent is None:
            self._take_login(self._auth.on_ok(answer.event_id, accepted=answer.accepted))
            return
        now = self._last_answer_at = self.clock.monotonic()
        self._notices.on_ok(now, accepted=answer.accepted, is_last=not self._waiting)
        verdict = verdict_on(answer)
        if verdict == _AUTH_REQUIRED and (sent.logins < self._logins or self._auth.on_auth_required(now)):
            self._refused.append(sent.message)
        else:
            self._answers.append((answer.event_id, verdict))

    def _authenticate(self, websocket: BlockingWebSocket) -> None:
        """Answer the relay's challenge where it demands that, and be done with waiting where it says nothing."""
        challenge, now = self._auth.pending_challenge(), self.clock.monotonic()
        if challenge is not None:
            assert self.secret is not None, "asked for only with a key"
            address = addresses_for_auth(self.address)[self._auth.address]
            event = auth_event(self.secret, address, challenge, self.clock.now_ms() // 1000)
            self._auth.on_answered(event.id, now)
            websocket.send(encode_auth(event))
        self._take_login(self._auth.on_timeout(now))

    def _take_login(self, result: AuthResult | None) -> None:
        if result is AuthResult.ACCEPTED:
            self._logins += 1
        elif result is AuthResult.REFUSED:
            self._answers += [(message.event_id, _AUTH_REQUIRED) for message in self._refused]
            self._refused.clear()

    def _send_again(self, websocket: BlockingWebSocket) -> None:
        """What was refused for want of an AUTH, once there was one, as the bound on events a minute allows."""
        while self._refused and not self._auth.is_under_way and self.limiter.room(self.clock.monotonic(), 1):
            self._put(websocket, self._refused.popleft())

    def _look_for_life(self, websocket: BlockingWebSocket) -> None:
        now = self.clock.monotonic()
        if self._waiting and now - max(websocket.last_received, self._pinged_at) >= _QUIET_S:
            self._pinged_at = now
            websocket.ping()

    def _take_refused(self) -> None:
        """Be done with waiting for what NOTICEs refused, which keeps others from being sent."""
        now = self.clock.monotonic()
        if self._notices.explains(len(self._waiting), now):
            self._last_answer_at = now
            self._answers += self._notices.verdicts(tuple(self._waiting))
            self._waiting.clear()
            self._notices.reset()

    def _time_out(self) -> None:
        """Retry what was not answered in time, and drop the connection if nothing was answered since it was sent."""
        until = self.clock.monotonic() - ANSWER_TIMEOUT_S
        late = list(takewhile(lambda sent: sent.at <= until, self._waiting.values()))
        for sent in late:
            event_id = sent.message.event_id
            del self._waiting[event_id]
            is_refused = self._notices.came_since(sent.at) and self._last_answer_at > sent.at
            self._answers += self._notices.verdicts([event_id]) if is_refused else [(event_id, _TIMEOUT)]
        if late and self._last_answer_at < late[-1].at:
            # The relay may be gone; a new connection shows that.
            self._disconnect()
            self._answers += [(event_id, None) for event_id in self._waiting]
            self._answers += [(message.event_id, None) for message in self._refused]
            self._waiting.clear()
            self._refused.clear()

    def _count(self, answers: Sequence[Answer]) -> None:
        outcomes = Counter(_outcome(verdict) for _, verdict in answers if verdict is not None)
        for outcome, count in outcomes.items():
            self.metrics.events_sent_to_relay.labels(self.address.url, *outcome).inc(count)


def _outcome(verdict: Verdict) -> tuple[str, str]:
    """Return what `events_sent_to_relay_counter` calls a verdict: decision and result."""
    match verdict:
        case Delivered():
            return ("send", "success")
        case Refused():
            return ("ignore", "success") if verdict in (_EXPIRED, _TOO_LARGE) else ("send", "ignoreError")
        case Retry():
            return ("send", "error")


def _has_expired(message: Message, now_s: int) -> bool:
    # Most have no such tag, which is seen without reading them.
    if b'"expiration"' not in message.payload:
        return False
    expires = expiration(event_from_stored(message.payload))
    return expires is not None and expires <= now_s


def verdict_on(answer: Ok) -> Verdict:
    """Return what an OK means for its event: its prefix says whether it is final or worth a retry."""
    if answer.accepted:
        return DELIVERED
    if answer.prefix in FINAL_PREFIXES:
        return Refused(answer.prefix)
    return Retry(answer.prefix or "error")
