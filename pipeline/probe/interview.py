"""Asks a relay one question after the other, politely and within bounds, whatever it does."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from pipeline.errors import EventServiceError
from pipeline.nostr.auth import auth_event
from pipeline.nostr.message import encode_auth
from pipeline.probe.connections import SETTLE_S, BudgetSpent, Connections
from pipeline.probe.exchange import Ask, Awaited, Channel, End, Reply, frame
from pipeline.probe.known import Known, ProbeQuestion
from pipeline.probe.observation import Observation, unknown
from pipeline.probe.questions.writing import deletion_by, publish
from pipeline.process.clock import Clock
from pipeline.relay.errors import DialError
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.websocket import WebSocket

MAX_REQUESTS: Final = 400
# Between two requests; relays that limit the rate get more.
PAUSE_S: Final = 0.1
SLOW_PAUSE_S: Final = 3.0
# What is waited after a refusal for the rate, each time that the same request is refused.
_RATE_WAITS_S: Final = (5.0, 20.0, 61.0)


# Whether nothing is answered without AUTH shows by then.
_FIRST_REQUESTS: Final = 3
# For the deletion of what was published, where the probe ends early.
_LAST_S: Final = 10.0
# Questions without an answer between that the relay has no time for, and it is left alone.
_MOST_RATE_LIMITS: Final = 2


class RateLimited(EventServiceError):
    """The relay does not answer a request, however long is waited, as there were too many."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the probe is. `patience_s`: for an answer, after the last event; `timeout_s`: for all of it;
    `watch_s`: for what may come by itself.
    """

    patience_s: float = 5.0
    watch_s: float = 10.0
    timeout_s: float = 600.0
    pause_s: float = PAUSE_S
    settle_s: float = SETTLE_S
    rate_waits_s: tuple[float, ...] = _RATE_WAITS_S


class Interview:
    """The exchanges with one relay. `auth_address`: what an AUTH names as the relay."""

    def __init__(self, connect: Callable[[], WebSocket], auth_address: str, clock: Clock, pace: Pace) -> None:
        self._clock = clock
        self._pace = pace
        self._began = clock.monotonic()
        self._pause_s = pace.pause_s
        self._connections = Connections(connect, clock, ends_at=self._began + pace.timeout_s, settle_s=pace.settle_s)
        self._auth_address = auth_address
        self._over = ""
        self._authenticates = False
        self._answered: set[str] = set()
        self._rate_limits = 0
        self.requests = 0
        self.rate_limited = 0

    @property
    def took_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock.monotonic() - self._began

    @property
    def dials(self) -> int:
        """Connections that were tried."""
        return self._connections.dials

    @property
    def bytes_received(self) -> int:
        """On all connections."""
        return self._connections.bytes_received

    @property
    def authenticates(self) -> bool:
        """Whether the relay answers nothing before AUTH, so that each connection begins with one."""
        return self._authenticates

    def run(
        self,
        questions: Iterable[ProbeQuestion],
        known: Known,
        on_question: Callable[[ProbeQuestion], None] = lambda _: None,
    ) -> list[Observation]:
        """Ask all of them; a line that nothing was found for says so. Raises `DialError` if no connection is made."""
        seen: list[Observation] = []
        try:
            for question in questions:
                on_question(question)
                known.now = self._clock.now_ms() // 1000
                found = [] if self._over else self._found(question, known)
                missing = set(question.names) - {each.name for each in found}
                seen += [
                    *found,
                    *(unknown(name, self._over or "not seen") for name in question.names if name in missing),
                ]
        finally:
            try:
                self._take_back(known)
            finally:
                self._connections.close_all()
        return seen

    def _take_back(self, known: Known) -> None:
        """Ask for the deletion of what was published, where the probe ends before the question that does so."""
        if known.is_taken_back:
            known.offered.pop(known.secret, None)
        if not known.offered:
            return
        with suppress(BudgetSpent, DialError):
            # What is open may be in the middle of a frame.
            self._connections.grant(_LAST_S)
            if self._authenticates:
                self._authenticate(Channel.MAIN, known)
            for secret in known.offered:
                self._connections.exchange(publish(deletion_by(known, secret)), _LAST_S)

    def _found(self, question: ProbeQuestion, known: Known) -> list[Observation]:
        steps = question.ask(known)
        kept: set[Channel] = set()
        try:
            ask = next(steps)
            while True:
                if ask.keeps_open:
                    kept.add(Channel.OTHER if ask.line is Channel.OTHER else Channel.MAIN)
                answer = self._exchange(ask, known)
                known.note(answer.events)
                ask = steps.send(answer)
        except StopIteration as end:
            return list(end.value)
        except RateLimited as end:
            # It may be this one question that is too much, such as for many filters at once.
            self._rate_limits += 1
            if self._rate_limits < _MOST_RATE_LIMITS:
                return [unknown(name, str(end)) for name in question.names]
            self._over = str(end)
        except BudgetSpent as end:
            self._over = str(end)
        except DialError as error:
            if not self._connections.has_connected:
                raise
            self._over = f"no connection any more ({error})"
        finally:
            # Whatever is open there would count to the limits of the next question.
            for line in kept:
                self._connections.close(line)
        return []

    def _exchange(self, ask: Ask, known: Known) -> Reply:
        """Ask, again where silence may be an accident or the rate is limited."""
        answer = self._once(ask, known)
        if ask.repeats and answer.end in (End.SILENCE, End.LOST):
            answer = self._once(ask, known)
        for wait_s in self._pace.rate_waits_s:
            if not _is_rate_limit(answer):
                return answer
            self.rate_limited += 1
            self._pause_s = max(self._pause_s, min(SLOW_PAUSE_S, wait_s))
            self._connections.rest(wait_s)
            answer = self._once(ask, known)
        if _is_rate_limit(answer):
            raise RateLimited("the relay limits the rate of requests")
        self._rate_limits = 0
        return answer

    def _once(self, ask: Ask, known: Known) -> Reply:
        if self.requests >= MAX_REQUESTS:
            raise BudgetSpent(f"{MAX_REQUESTS} requests were sent")
        self.requests += max(1, len(ask.frames))
        self._connections.rest(self._pause_s)
        if ask.line is Channel.FRESH:
            self._connections.close(Channel.MAIN)
            ask = replace(ask, line=Channel.MAIN)
        if self._authenticates and not self._connections.is_open(ask.line):
            self._authenticate(ask.line, known)
        patience_s = self._pace.watch_s if ask.awaited is Awaited.WATCH else self._pace.patience_s
        answer = self._connections.exchange(ask, patience_s * ask.patience)
        if self._must_authenticate(ask, answer, known):
            return self._once(ask, known)
        if answer.end is End.OK and not answer.accepted:
            known.on_refused(bytes.fromhex(ask.awaits))
        self._end(ask, answer)
        return answer

    def _end(self, ask: Ask, answer: Reply) -> None:
        is_deaf = answer.end is End.SILENCE and not ask.awaits_event and not ask.keeps_open
        if is_deaf or answer.end is End.FLOOD:
            # What still comes is none of the next answer's; and a deaf connection would refuse all that follows.
            self._connections.close(ask.line)
        elif ask.awaited is Awaited.ANSWER and answer.end in (End.EOSE, End.NOTICE) and not ask.keeps_open:
            self._connections.send(frame("CLOSE", ask.awaits), ask.line)

    def _must_authenticate(self, ask: Ask, answer: Reply, known: Known) -> bool:
        """Authenticate if not even the first request is answered without; return True if that is to be repeated."""
        complaint = answer.complaint
        demanded = complaint is not None and complaint.refusal is RelayRefusal.AUTH_REQUIRED
        if not demanded or answer.challenge is None or answer.challenge in self._answered:
            return False
        if not self._authenticates and (known.pool or self.requests > _FIRST_REQUESTS):
            return False
        self._authenticates = True
        self._authenticate(ask.line, known)
        return True

    def _authenticate(self, line: Channel, known: Known) -> None:
        """Answer the challenge of the connection with the throw-away key."""
        self._connections.exchange(Ask((), "", line=line), 0.0)
        challenge = self._connections.challenge(line)
        if challenge is not None and challenge not in self._answered:
            self._answered.add(challenge)
            event = auth_event(known.secret, self._auth_address, challenge, self._clock.now_ms() // 1000)
            ask = Ask((encode_auth(event),), event.id.hex(), Awaited.OK, line)
            self._connections.exchange(ask, self._pace.patience_s)


def _is_rate_limit(answer: Reply) -> bool:
    complaint = answer.complaint
    return complaint is not None and complaint.refusal is RelayRefusal.RATE_LIMITED
