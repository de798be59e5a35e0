"""The messages of a relay, gathered to the answer of one exchange. Pure; times are monotonic seconds."""

from typing import Final

from pipeline.nostr.event import Event
from pipeline.nostr.frame import InvalidEventMessage, InvalidMessage
from pipeline.nostr.message import (
    AuthChallenge,
    Closed,
    Count,
    Eose,
    EventMessage,
    NegError,
    NegMessage,
    Notice,
    Ok,
    RelayMessage,
    parse_relay_message,
)
from pipeline.probe.exchange import MOST_BYTES, Ask, Awaited, End, Reply

MAX_NOTICES: Final = 20
# However long events come, one answer takes no more than so many times what is waited for one.
_LONGEST: Final = 8
# Some relays say NOTICE and then EOSE; this long it is waited for.
AFTER_NOTICE_S: Final = 1.0


class AnswerCollector:
    """Takes messages until the exchange is over; then `answer` has all of it."""

    def __init__(self, ask: Ask, began: float, deadline: float, challenge: str | None) -> None:
        self._ask = ask
        self._began = began
        self.deadline = deadline
        """When silence ends the exchange."""
        self.challenge = challenge
        self._events: list[Event] = []
        self._others: list[tuple[str, Event]] = []
        self._notices: list[str] = []
        self._late: list[str] = []
        self._malformed = 0
        self._garbage = 0
        self._bytes = 0
        self._patience = deadline - began

    def feed(self, raw: bytes, now: float) -> Reply | None:
        """Take one message; return the answer once it is complete."""
        self._bytes += len(raw)
        if self._bytes > MOST_BYTES:
            return self._answer(End.FLOOD, now)
        try:
            message = parse_relay_message(raw)
        except InvalidEventMessage as error:
            self._malformed += error.subscription == self._ask.awaits
            return None
        except InvalidMessage:
            self._garbage += 1
            return self._answer(End.OTHER, now) if self._ask.awaited is Awaited.MESSAGE else None
        return self._take(message, now)

    def feed_earlier(self, raw: bytes, now: float) -> None:
        """Take what came before the frames were sent, which answers none of them: live events, and late notices."""
        try:
            message = parse_relay_message(raw)
        except (InvalidEventMessage, InvalidMessage):
            return
        match message:
            case Notice(text=text) if len(self._late) < MAX_NOTICES:
                self._late.append(text)
            case AuthChallenge(challenge=challenge):
                self.challenge = challenge
            case EventMessage(subscription=subscription, event=event) if subscription != self._ask.awaits:
                self._on_event(subscription, event, now)

    def on_silence(self, now: float) -> Reply:
        """End the exchange as the time for it is over."""
        if self._notices:
            text = self._notices.pop(0)
            return self._answer(End.NOTICE, now, text=text)
        return self._answer(End.SILENCE, now)

    def on_lost(self, detail: str, now: float) -> Reply:
        """End the exchange as the connection is lost."""
        return self._answer(End.LOST, now, text=detail)

    def _take(self, message: RelayMessage, now: float) -> Reply | None:
        match message:
            case EventMessage(subscription=subscription, event=event):
                return self._on_event(subscription, event, now)
            case Notice(text=text):
                return self._on_notice(text, now)
            case AuthChallenge(challenge=challenge):
                self.challenge = challenge
                return None
            case Ok(event_id=event_id, accepted=accepted, reason=reason):
                if self._ask.awaited is Awaited.OK and event_id.hex() == self._ask.awaits:
                    return self._answer(End.OK, now, text=reason, accepted=accepted)
            case _:
                if self._is_answer(message):
                    return self._on_answer(message, now)
        return self._any(message, now)

    def _on_answer(self, message: RelayMessage, now: float) -> Reply | None:
        answer = None
        match message:
            case Eose(finished=finished) if self._ask.awaited is Awaited.ANSWER:
                answer = self._answer(End.EOSE, now, finished=finished)
            case Closed(reason=reason):
                answer = self._answer(End.CLOSED, now, text=reason)
            case Count(count=count):
                answer = self._answer(End.COUNT, now, count=count)
            case NegMessage(payload=payload):
                answer = self._answer(End.NEGENTROPY, now, payload=payload)
            case NegError(reason=reason):
                answer = self._answer(End.NEG_ERR, now, text=reason)
        return answer

    def _any(self, message: RelayMessage, now: float) -> Reply | None:
        """Return the answer where any message is one."""
        if self._ask.awaited is not Awaited.MESSAGE:
            return None
        match message:
            case Closed(reason=reason):
                return self._answer(End.CLOSED, now, text=reason)
            case Eose():
                return self._answer(End.EOSE, now)
        return self._answer(End.OTHER, now)

    def _is_answer(self, message: RelayMessage) -> bool:
        is_named = getattr(message, "subscription", None) == self._ask.awaits
        return is_named and (self._ask.awaited is Awaited.ANSWER or self._ask.awaits_event)

    def _on_event(self, subscription: str, event: Event, now: float) -> Reply | None:
        if subscription != self._ask.awaits:
            if len(self._others) < self._ask.most_events:
                self._others.append((subscription, event))
            return None
        self._events.append(event)
        # As long as events come, the answer is on its way.
        self.deadline = min(max(self.deadline, now + self._patience), self._began + _LONGEST * self._patience)
        if self._ask.awaits_event:
            return self._answer(End.EVENT, now)
        return self._answer(End.FLOOD, now) if len(self._events) >= self._ask.most_events else None

    def _on_notice(self, text: str, now: float) -> Reply | None:
        if len(self._notices) < MAX_NOTICES:
            self._notices.append(text)
        if self._ask.awaited is Awaited.MESSAGE:
            return self.on_silence(now)
        if not self._ask.awaits_event:
            self.deadline = min(self.deadline, now + AFTER_NOTICE_S)
        return None

    def _answer(
        self, end: End, now: float, *, text: str = "", accepted: bool | None = None, count: int | None = None,
        payload: bytes = b"", finished: bool | None = None,
    ) -> Reply:  # fmt: skip
        return Reply(
            end, text, tuple(self._events), tuple(self._others), tuple(self._notices), tuple(self._late),
            self._malformed, self._garbage, accepted, count, payload, finished, self.challenge, now - self._began,
        )  # fmt: skip
