"""The target relay: EVENTs over one connection, each settled by the OK that names it (NIP-01, NIP-20, NIP-42)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.address import RelayAddress
from pipeline.nostr.auth import auth_event
from pipeline.nostr.event import InvalidEvent
from pipeline.nostr.message import (
    AuthChallenge,
    InvalidMessage,
    Notice,
    Ok,
    RelayMessage,
    encode_auth,
    parse_relay_message,
)
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimited
from pipeline.process.metrics import Metrics
from pipeline.relay.errors import ConnectionLost, DialError
from pipeline.relay.transport import Transport
from pipeline.sinks.base import DELIVERED, Delivered, Message, Refused, Retry, SinkDown, Verdict

# Relays drop clients that have much more under way.
MAX_IN_FLIGHT: Final = 100
ANSWER_TIMEOUT_S: Final = 30.0
# Some relays say nothing when they accept an AUTH.
_AUTH_PATIENCE_S: Final = 2.0
# A relay that talks without pause must not keep the batch from its end.
_BATCH_LIMIT_S: Final = 90.0
_WAIT_S: Final = 1.0

# Answers that asking again would not change.
FINAL_PREFIXES: Final = frozenset(
    {"replaced", "deleted", "invalid", "blocked", "duplicate", "restricted", "mute", "pow"}
)


@dataclass(slots=True)
class _Batch:
    messages: Sequence[Message]
    waiting: dict[bytes, int]
    verdicts: list[Verdict]
    last_answer_at: float


class RelaySink:
    """Sends events to one relay over a connection that is kept. For one thread; `beat` is called while it waits."""

    def __init__(
        self,
        address: RelayAddress,
        dial: Callable[[], Transport],
        secret: bytes | None,
        clock: Clock,
        metrics: Metrics,
        log: RateLimited,
        beat: Callable[[], None],
    ) -> None:
        self._address = address
        self._dial = dial
        self._secret = secret
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._beat = beat
        self._transport: Transport | None = None
        self._challenge: str | None = None

    @property
    def max_messages(self) -> int:
        """See `Sink.max_messages`."""
        return MAX_IN_FLIGHT

    def deliver(self, messages: Sequence[Message]) -> list[Verdict]:
        """See `Sink.deliver`; a message without an answer is retried on its own."""
        transport = self._connected()
        batch = _Batch(
            messages,
            {message.event_id: index for index, message in enumerate(messages)},
            [Retry("timeout")] * len(messages),
            self._clock.monotonic(),
        )
        try:
            self._send(transport, messages)
            self._await_answers(transport, batch)
        except ConnectionLost as error:
            self._disconnect()
            if len(batch.waiting) == len(messages):
                raise SinkDown(error.reason, error.detail) from error
            for index in batch.waiting.values():
                batch.verdicts[index] = Retry("disconnected")
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
                self._transport = self._dial()
            except DialError as error:
                raise SinkDown(f"dial-{error.reason}", error.detail) from error
            self._challenge = None
            self._log.debug("connected", "target relay connected", relay=self._address)
        return self._transport

    def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _send(self, transport: Transport, messages: Sequence[Message]) -> None:
        for message in messages:
            transport.send(b'["EVENT",' + message.payload + b"]")

    def _await_answers(self, transport: Transport, batch: _Batch) -> None:
        until = self._clock.monotonic() + _BATCH_LIMIT_S
        authenticated = False
        while batch.waiting and (now := self._clock.monotonic()) < until:
            if now - batch.last_answer_at > ANSWER_TIMEOUT_S:
                return
            self._beat()
            for raw in transport.receive(_WAIT_S):
                message = self._take(raw)
                if isinstance(message, Ok):
                    self._settle(batch, message)
            if not authenticated and self._wants_auth(batch):
                authenticated = True
                self._authenticate(transport, batch)

    def _take(self, raw: bytes) -> RelayMessage | None:
        try:
            message = parse_relay_message(raw)
        except (InvalidMessage, InvalidEvent) as error:
            self._metrics.stage_errors.labels("sender", "invalid-message").inc()
            self._log.debug("invalid", "invalid message", relay=self._address, reason=error)
            return None
        if isinstance(message, AuthChallenge):
            self._challenge = message.challenge
        elif isinstance(message, Notice):
            self._log.debug("notice", "notice", relay=self._address, text=message.text)
        return message

    def _settle(self, batch: _Batch, answer: Ok) -> None:
        index = batch.waiting.pop(answer.event_id, None)
        if index is not None:
            batch.last_answer_at = self._clock.monotonic()
            batch.verdicts[index] = verdict_on(answer)

    def _wants_auth(self, batch: _Batch) -> bool:
        return self._secret is not None and self._challenge is not None and Retry("auth-required") in batch.verdicts

    def _authenticate(self, transport: Transport, batch: _Batch) -> None:
        """Answer the challenge, then send again what was refused for want of it."""
        assert self._secret is not None, "asked for only with a key"
        assert self._challenge is not None, "asked for only with a challenge"
        event = auth_event(self._secret, self._address.url, self._challenge, self._clock.now_ms() // 1000)
        transport.send(encode_auth(event))
        until = self._clock.monotonic() + _AUTH_PATIENCE_S
        answered = False
        while not answered and (left := until - self._clock.monotonic()) > 0:
            for raw in transport.receive(left):
                message = self._take(raw)
                if isinstance(message, Ok):
                    answered = answered or message.event_id == event.id
                    self._settle(batch, message)
        refused = [index for index, verdict in enumerate(batch.verdicts) if verdict == Retry("auth-required")]
        for index in refused:
            batch.waiting[batch.messages[index].event_id] = index
            batch.verdicts[index] = Retry("timeout")
        batch.last_answer_at = self._clock.monotonic()
        self._send(transport, [batch.messages[index] for index in refused])

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            match verdict:
                case Delivered():
                    result = "success"
                case Refused():
                    result = "ignoreError"
                case Retry():
                    result = "error"
            self._metrics.events_sent_to_relay.labels(self._address.url, "send", result).inc()


def verdict_on(answer: Ok) -> Verdict:
    """What an OK means for its event: final answers are told from those worth another try by their prefix."""
    if answer.accepted:
        return DELIVERED
    if answer.prefix in FINAL_PREFIXES:
        return Refused(answer.prefix)
    return Retry(answer.prefix or "error")
