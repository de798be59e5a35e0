"""One connection to one relay: the thread that reads it, between its socket, its session, its crawl and the intake."""

import math
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.crawl.gate import Backpressure
from pipeline.crawl.intake import BATCH_EVENTS, Batch, HandOver, Intake
from pipeline.crawl.plan import Plan
from pipeline.crawl.relay_crawl import RelayCrawl
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.relay_row import RelayRow
from pipeline.nostr.auth import auth_event
from pipeline.nostr.event import Event
from pipeline.nostr.message import (
    EventMessage,
    InvalidEventMessage,
    InvalidMessage,
    KnownEvent,
    Notice,
    classify_notice,
    parse_relay_message,
)
from pipeline.process.clock import Clock, pause
from pipeline.process.logs import RateLimited
from pipeline.process.stop import Stop
from pipeline.relay.authentication import AuthState
from pipeline.relay.comparison import NegAnswered, NegEnd, NegEnded
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.limits import Limits
from pipeline.relay.politeness import HostBackoff
from pipeline.relay.refusals import Refusal
from pipeline.relay.session import AuthWanted, Outcome, Session
from pipeline.relay.subscription import LiveEnded, PageEnded
from pipeline.relay.transport import Transport
from pipeline.store.relays import RelayState

# A relay that has said nothing for this long is asked whether it is there, and given up when it still says nothing.
PING_AFTER_S: Final = 30.0
GIVE_UP_AFTER_S: Final = 75.0
# Frames that are no messages: this many in one connection, and the relay is no relay.
MAX_INVALID_FRAMES: Final = 1000
_MAX_WAIT_S: Final = 30.0
# How long what a busy relay sends is left to gather in its socket.
GATHER_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Shared:
    """What all connections of a crawler process share. `secret`: the key to authenticate with (NIP-42), if any."""

    clock: Clock
    stop: Stop
    intake: Intake
    gate: Backpressure
    log: RateLimited
    secret: bytes | None = None


class Connection:
    """Reads one relay from the handshake to the end of the connection, in the thread that calls `run`."""

    def __init__(
        self, relay: int, address: str, crawl: RelayCrawl, limits: Limits, host: HostBackoff, metrics: RelayMetrics,
        shared: Shared,
    ) -> None:  # fmt: skip
        self._relay = relay
        self._address = address
        self._crawl = crawl
        self._host = host
        self._metrics = metrics
        self._shared = shared
        self._clock = shared.clock
        self._session = Session(limits, can_authenticate=shared.secret is not None)
        self._row = RelayRow(relay, address, self._session, crawl, host, shared.intake, shared.clock)
        self._hand_over = HandOver()
        self._pending: list[Event] = []
        self._plans: SimpleQueue[Plan] = SimpleQueue()
        self._transport: Transport | None = None
        self._closing = False
        # Events that a process which ends has no more room for are asked for again: nothing may say that they are had.
        self._has_dropped = False
        # Whether events came that were not known before.
        self.was_of_use = False
        self._invalid_frames = 0
        self._pinged_at = 0.0
        self._read_at = -math.inf

    @property
    def limits(self) -> Limits:
        """What has been learned of the relay's limits."""
        return self._session.limits

    @property
    def auth(self) -> AuthState:
        """How the relay and we stand on AUTH (NIP-42)."""
        return self._session.auth

    def learn(self, limits: Limits) -> None:
        """Go by `limits` from the start; only before `run`."""
        self._row.learn(limits)

    def post_plan(self, plan: Plan) -> None:
        """Let the connection follow `plan`; safe in every thread."""
        self._plans.put(plan)
        if (transport := self._transport) is not None:
            transport.wake()

    def close(self) -> None:
        """Let `run` end soon; safe in every thread."""
        self._closing = True
        if (transport := self._transport) is not None:
            transport.wake()

    def run(self, transport: Transport) -> None:
        """Serve `transport` until it is lost or `close` is called; raises `ConnectionLost` in the first case."""
        self._transport = transport
        self._crawl.connected()
        self._row.put(RelayState.CONNECTED)
        try:
            while not self._closing and not self._shared.stop.is_set():
                self._turn(transport)
        except ConnectionLost:
            self._crawl.lost(self._session)
            self._report()
            raise
        finally:
            self._metrics.tell()
            self._flush()

    def _turn(self, transport: Transport) -> None:
        now = self._clock.monotonic()
        self._take_plans()
        for ended in self._session.expire(now):
            self._on_outcome(ended, now)
        self._crawl.advance(self._session, now, self._clock.now_ms() // 1000, may_ask=self._host.may_ask(now))
        while self._session.outgoing:
            transport.send(self._session.outgoing.popleft())
        self._report()
        if not self._shared.gate.is_open:
            self._hold()
            return
        self._keep_alive(transport, now)
        frames = transport.receive(self._patience(now))
        for raw in frames:
            self._on_frame(raw)
        self._metrics.tell()
        self._flush()
        if frames:
            self._let_gather(len(frames))

    def _let_gather(self, frames: int) -> None:
        """Leave a relay alone for a moment that sends one event after the other: waking up costs more than an event."""
        now = self._clock.monotonic()
        if frames < BATCH_EVENTS and now - self._read_at < 2 * GATHER_S:
            pause(GATHER_S)
        self._read_at = now

    def _patience(self, now: float) -> float:
        times = [now + _MAX_WAIT_S, self._crawl.next_time(), self._pinged_at + PING_AFTER_S]
        deadline = self._session.next_deadline()
        if deadline is not None:
            times.append(deadline)
        return max(0.0, min(times) - now)

    def _keep_alive(self, transport: Transport, now: float) -> None:
        silent = now - transport.last_received
        if silent > GIVE_UP_AFTER_S:
            raise ConnectionLost(LossReason.ERROR, "no answer to pings")
        if silent < PING_AFTER_S:
            self._pinged_at = max(self._pinged_at, transport.last_received)
        elif now - self._pinged_at >= PING_AFTER_S:
            self._pinged_at = now
            transport.ping()

    def _hold(self) -> None:
        """Read nothing while too much waits to be saved; what the relay sends meanwhile waits in its own buffers."""
        self._row.put(RelayState.BACKPRESSURED)
        self._shared.gate.wait(self._shared.stop, lambda: not self._closing)
        now = self._clock.monotonic()
        self._session.resume(now)
        if self._transport is not None:
            self._transport.last_received = now
        self._row.put(RelayState.CONNECTED)

    def _take_plans(self) -> None:
        plan = None
        with suppress(Empty):
            while True:
                plan = self._plans.get_nowait()
        if plan is not None:
            self._crawl.set_plan(plan)

    def _on_frame(self, raw: bytes) -> None:
        now = self._clock.monotonic()
        try:
            message = parse_relay_message(raw, self._shared.intake.committed)
        except InvalidEventMessage as error:
            self._metrics.invalid_event(error.reason)
            self._session.note_time(error.subscription, error.created_at, now)
            return
        except InvalidMessage as error:
            self._metrics.invalid_message(error.reason)
            self._count_invalid()
            return
        self._metrics.message(message)
        if isinstance(message, KnownEvent):
            self._session.note_time(message.subscription, message.created_at, now, message.id)
            self._metrics.duplicate()
            return
        if isinstance(message, EventMessage):
            self._on_event(message, now)
            return
        if isinstance(message, Notice):
            self._shared.log.debug(self._address, "notice", relay=self._address, text=message.text)
            self._metrics.notice(classify_notice(message.text))
        for outcome in self._session.receive(message, now):
            self._on_outcome(outcome, now)

    def _on_event(self, message: EventMessage, now: float) -> None:
        self._session.note_event(message.subscription, message.event, now)
        self._pending.append(message.event)
        if len(self._pending) >= BATCH_EVENTS:
            self._flush()

    def _on_outcome(self, outcome: Outcome, now: float) -> None:
        match outcome:
            case PageEnded():
                cursor = self._crawl.page_ended(outcome, self._session, now)
                progress = self._crawl.take_progress()
                if cursor is not None or progress:
                    # Behind the events that they cover, so that these are committed first or together.
                    self._flush()
                    moved = () if cursor is None else (cursor,)
                    if not self._has_dropped:
                        self._shared.intake.submit(
                            Batch(self._relay, self._clock.now_ms(), cursors=moved, progress=progress)
                        )
                self._metrics.crawled(self._crawl.counts)
                if outcome.refusal is None:
                    self._host.answered()
                else:
                    self._on_refusal(outcome.refusal, outcome.detail, now)
            case LiveEnded():
                self._crawl.live_ended(outcome, now)
                self._on_refusal(outcome.refusal, outcome.detail, now)
            case NegAnswered():
                self._crawl.neg_answered(outcome, self._session, now)
            case NegEnded():
                self._crawl.neg_ended(outcome, self._session)
                if outcome.end is NegEnd.RATE_LIMITED:
                    self._host.limited(now)
                self._metrics.crawled(self._crawl.counts)
            case AuthWanted(challenge=challenge):
                self._authenticate(challenge, now)

    def _authenticate(self, challenge: str, now: float) -> None:
        assert self._shared.secret is not None, "wanted only where it can be given"
        wall = self._clock.now_ms() // 1000
        self._session.authenticate(auth_event(self._shared.secret, self._address, challenge, wall), now)

    def _on_refusal(self, refusal: Refusal, detail: str, now: float) -> None:
        if refusal is Refusal.RATE_LIMITED:
            self._host.limited(now)
        self._metrics.refusal(refusal)
        if refusal is Refusal.AUTH_REQUIRED and self._shared.secret is None:
            detail = f"no key is configured (EVENTS_SECRET_KEY_PATH): {detail}"
        self._row.refused(refusal, detail)
        self._shared.log.debug(
            f"{self._address} {refusal}", "refused", relay=self._address, reason=refusal, text=detail
        )

    def _flush(self) -> None:
        if not self._pending:
            return
        batch = tuple(self._pending)
        self._pending.clear()
        self.was_of_use = True
        if self._hand_over.acquire(self._shared.stop):
            self._shared.intake.submit(Batch(self._relay, self._clock.now_ms(), batch, done=self._hand_over.release))
        else:
            self._has_dropped = True

    def _count_invalid(self) -> None:
        self._invalid_frames += 1
        if self._invalid_frames > MAX_INVALID_FRAMES:
            raise ConnectionLost(LossReason.PROTOCOL, "too many invalid frames")

    def _report(self) -> None:
        """Write what has changed for those who look at the relay's row."""
        if self._session.unasked:
            self._metrics.unasked(self._session.unasked)
            self._session.unasked = 0
        backfilled = self._crawl.backfilling.take_untold()
        if backfilled and not self._has_dropped:
            self._shared.intake.submit(Batch(self._relay, self._clock.now_ms(), backfilled=backfilled))
        self._row.keep_up()
