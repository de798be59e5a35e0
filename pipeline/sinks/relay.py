"""The target relay: EVENTs over one connection, each settled by the OK that names it (NIP-01, NIP-20, NIP-42)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.nostr.address import RelayAddress
from pipeline.nostr.auth import auth_event
from pipeline.nostr.event import InvalidEvent, event_from_stored
from pipeline.nostr.message import (
    AuthChallenge,
    InvalidMessage,
    Notice,
    Ok,
    RelayMessage,
    encode_auth,
    parse_relay_message,
)
from pipeline.nostr.tags import expiration
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimited
from pipeline.process.metrics import Metrics
from pipeline.process.stop import Stop
from pipeline.relay.errors import ConnectionLost, DialError, DialReason
from pipeline.relay.transport import Transport
from pipeline.sinks.base import DELIVERED, Delivered, Message, Refused, Retry, SinkDown, Verdict, Verdicts
from pipeline.sinks.rate import RateBound

# Relays drop clients that have much more under way.
MAX_IN_FLIGHT: Final = 100
ANSWER_TIMEOUT_S: Final = 30.0
# Some relays say nothing when they accept an AUTH, or send their challenge after the refusal.
_AUTH_PATIENCE_S: Final = 2.0
# A relay that is slow, or talks without pause, must not keep the batch from its end: no more is sent after this, and
# what was sent last has still the time that every message has. More than the minute of `RateBound`.
_BATCH_LIMIT_S: Final = 65.0
_WAIT_S: Final = 1.0
# After so long without a byte the relay is pinged at each look.
_QUIET_S: Final = 2.0
# A process that is to end waits no longer than this for answers; what is unanswered is sent again by the next.
_LAST_ANSWERS_S: Final = 3.0
_AUTH_REQUIRED: Final = Retry("auth-required")
# It was not when it was queued, but the relay was away, or the bound on events a minute held it up.
_EXPIRED: Final = Refused("expired")

# Answers that asking again would not change.
FINAL_PREFIXES: Final = frozenset(
    {"replaced", "deleted", "invalid", "blocked", "duplicate", "restricted", "mute", "pow"}
)


@dataclass(slots=True)
class _Batch:
    """Messages on their way: those sent and not answered are `waiting`, by id, under their place in `messages`."""

    messages: Sequence[Message]
    until: float
    give_up_at: float
    verdicts: list[Verdict | None]
    waiting: dict[bytes, int] = field(default_factory=dict)
    last_answer_at: float = 0.0


@dataclass(slots=True)
class RelaySink:
    """Sends events to one relay over a connection that is kept. For one thread; `beat` is called while it waits.

    `heard` is called while the relay shows that it is there, however long it takes to settle what it was sent, and
    while there is nothing under way that it could settle.
    """

    address: RelayAddress
    dial: Callable[[], Transport]
    secret: bytes | None = field(repr=False)
    clock: Clock
    metrics: Metrics
    log: RateLimited
    stop: Stop
    beat: Callable[[], None]
    rate: RateBound = field(default_factory=lambda: RateBound(lambda: 0))
    heard: Callable[[], None] = lambda: None
    _transport: Transport | None = None
    _challenge: str | None = None
    _one_by_one: bool = False
    """After a connection that broke with messages on their way: the next go alone, to find out which it was."""

    @property
    def max_messages(self) -> int:
        """See `Sink.max_messages`."""
        return MAX_IN_FLIGHT

    def deliver(self, messages: Sequence[Message]) -> Verdicts:
        """See `Sink.deliver`; a message without an answer is retried on its own, unless `stop` cut the wait short."""
        transport = self._connected()
        now = self.clock.monotonic()
        until = now + _BATCH_LIMIT_S
        batch = _Batch(messages, until, until + ANSWER_TIMEOUT_S, [None] * len(messages))
        try:
            self._exchange(transport, batch)
        except ConnectionLost as error:
            self._disconnect()
            self._note_loss(batch)
            self._count(batch.verdicts)
            raise SinkDown(error.reason, error.detail, verdicts=batch.verdicts) from error
        if all(verdict in (None, Retry("timeout")) for verdict in batch.verdicts):
            # Nobody is there any more, maybe, and a new connection would tell.
            self._disconnect()
        self._count(batch.verdicts)
        return batch.verdicts

    def keep_alive(self) -> None:
        """Answer pings and notice the end of the connection before the next event needs it."""
        if self._transport is None:
            return
        try:
            for raw in self._transport.receive(0.0):
                self._take(raw)
        except ConnectionLost:
            self._disconnect()

    def close(self) -> None:
        """See `Sink.close`."""
        self._disconnect()

    def _connected(self) -> Transport:
        if self._transport is None:
            try:
                self._transport = self.dial()
            except DialError as error:
                advice = "check EVENTS_TARGET_RELAY" if error.permanent else ""
                if error.reason is DialReason.PRIVATE:
                    advice += ", or set EVENTS_ALLOW_PRIVATE_RELAYS"
                raise SinkDown(f"dial-{error.reason}", error.detail, advice) from error
            self._challenge = None
            self.log.debug(self.address.url, "target relay connected", relay=self.address)
        return self._transport

    def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _exchange(self, transport: Transport, batch: _Batch) -> None:
        step = 1 if self._one_by_one else len(batch.messages)
        for start in range(0, len(batch.messages), step):
            if self.stop.is_set() or self.clock.monotonic() >= batch.until:
                return
            self._send(transport, batch, range(start, min(start + step, len(batch.messages))))
            self._await_answers(transport, batch)
        self._one_by_one = False

    def _send(self, transport: Transport, batch: _Batch, indexes: Iterable[int]) -> None:
        for index in indexes:
            self._await_turn(transport, batch)
            now = self.clock.monotonic()
            if now >= batch.until or self.rate.wait_s(now):
                break
            message = batch.messages[index]
            if _has_expired(message, self.clock.now_ms() // 1000):
                batch.verdicts[index] = _EXPIRED
                continue
            batch.waiting[message.event_id] = index
            self.rate.note(now)
            self.beat()
            transport.send(b'["EVENT",' + message.payload + b"]")
        batch.last_answer_at = self.clock.monotonic()

    def _await_turn(self, transport: Transport, batch: _Batch) -> None:
        """Keep to the bound on events a minute; answers are taken meanwhile."""
        while not self.stop.is_set() and (now := self.clock.monotonic()) < batch.until:
            wait_s = self.rate.wait_s(now)
            if not wait_s:
                break
            if batch.waiting:
                self._look_for_life(transport)
            else:
                self.heard()
            self.beat()
            self._receive(transport, batch, min(wait_s, _WAIT_S))

    def _await_answers(self, transport: Transport, batch: _Batch) -> None:
        authenticated = False
        while batch.waiting:
            now = self.clock.monotonic()
            if self.stop.is_set():
                batch.give_up_at = min(batch.give_up_at, batch.last_answer_at + _LAST_ANSWERS_S)
            if now >= batch.give_up_at or now - batch.last_answer_at > ANSWER_TIMEOUT_S:
                break
            self.beat()
            self._receive(transport, batch, _WAIT_S)
            self._look_for_life(transport)
            if not authenticated and self._wants_auth(transport, batch):
                authenticated = True
                self._authenticate(transport, batch)
        for index in batch.waiting.values():
            batch.verdicts[index] = None if self.stop.is_set() else Retry("timeout")
        batch.waiting.clear()

    def _look_for_life(self, transport: Transport) -> None:
        """Events may go unanswered for their own sake; a ping does not."""
        if self.clock.monotonic() - transport.last_received < _QUIET_S:
            self.heard()
        else:
            transport.ping()

    def _receive(self, transport: Transport, batch: _Batch, timeout_s: float) -> set[bytes]:
        """Settle what is answered within one wait; returns the ids that were answered, ours or not."""
        answered = set()
        for raw in transport.receive(timeout_s):
            message = self._take(raw)
            if isinstance(message, Ok):
                answered.add(message.event_id)
                self._settle(batch, message)
        return answered

    def _note_loss(self, batch: _Batch) -> None:
        """Suspect what was on its way when it went alone, after another loss: the relay may not bear it."""
        if self._one_by_one:
            for index in batch.waiting.values():
                batch.verdicts[index] = Retry("disconnected")
        self._one_by_one = True

    def _take(self, raw: bytes) -> RelayMessage | None:
        try:
            message = parse_relay_message(raw)
        except (InvalidMessage, InvalidEvent) as error:
            self.metrics.stage_errors.labels("sender", "invalid-message").inc()
            self.log.debug(type(error).__name__, "invalid message", relay=self.address, reason=error)
            return None
        if isinstance(message, AuthChallenge):
            self._challenge = message.challenge
        elif isinstance(message, Notice):
            self.log.debug(type(message).__name__, "notice", relay=self.address, text=message.text)
        return message

    def _settle(self, batch: _Batch, answer: Ok) -> None:
        index = batch.waiting.pop(answer.event_id, None)
        if index is not None:
            batch.last_answer_at = self.clock.monotonic()
            batch.verdicts[index] = verdict_on(answer)

    def _wants_auth(self, transport: Transport, batch: _Batch) -> bool:
        """Whether messages were refused for want of an AUTH that we can give."""
        if self.secret is None or _AUTH_REQUIRED not in batch.verdicts:
            return False
        until = self.clock.monotonic() + _AUTH_PATIENCE_S
        while self._challenge is None and (left := until - self.clock.monotonic()) > 0:
            self._receive(transport, batch, left)
        return self._challenge is not None

    def _authenticate(self, transport: Transport, batch: _Batch) -> None:
        """Answer the challenge, then send again what was refused for want of it."""
        assert self.secret is not None, "asked for only with a key"
        assert self._challenge is not None, "asked for only with a challenge"
        event = auth_event(self.secret, self.address.url, self._challenge, self.clock.now_ms() // 1000)
        transport.send(encode_auth(event))
        until = self.clock.monotonic() + _AUTH_PATIENCE_S
        while (left := until - self.clock.monotonic()) > 0:
            if event.id in self._receive(transport, batch, left):
                break
        refused = [index for index, verdict in enumerate(batch.verdicts) if verdict == _AUTH_REQUIRED]
        for index in refused:
            batch.verdicts[index] = None
        self._send(transport, batch, refused)

    def _count(self, verdicts: Verdicts) -> None:
        for verdict in verdicts:
            match verdict:
                case None:
                    continue
                case Delivered():
                    outcome = ("send", "success")
                case Refused():
                    outcome = ("ignore", "success") if verdict is _EXPIRED else ("send", "ignoreError")
                case Retry():
                    outcome = ("send", "error")
            self.metrics.events_sent_to_relay.labels(self.address.url, *outcome).inc()


def _has_expired(message: Message, now_s: int) -> bool:
    # Most have no such tag, which is seen without reading them.
    if b'"expiration"' not in message.payload:
        return False
    expires = expiration(event_from_stored(message.payload))
    return expires is not None and expires <= now_s


def verdict_on(answer: Ok) -> Verdict:
    """What an OK means for its event: final answers are told from those worth another try by their prefix."""
    if answer.accepted:
        return DELIVERED
    if answer.prefix in FINAL_PREFIXES:
        return Refused(answer.prefix)
    return Retry(answer.prefix or "error")
