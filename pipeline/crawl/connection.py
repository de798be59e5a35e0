"""One connection to one relay: what stands between its channel, its session, its crawl and the intake."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.crawl.context import CrawlContext
from pipeline.crawl.flow_control import RelayBatcher
from pipeline.crawl.outcomes import Outcomes
from pipeline.crawl.path_watch import LOST_AFTER_S, QUIET_S, PathVerdict
from pipeline.crawl.receiver import Receiver
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.relay_status import StatusRecorder
from pipeline.crawl.sync.costs import Verified
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.nostr.address import RelayAddress
from pipeline.nostr.auth import addresses_for_auth
from pipeline.relay.advertised import AdvertisedLimits
from pipeline.relay.authentication import AuthState
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.frames import SkippedMessage
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.limits import RelayLimits
from pipeline.relay.session import Session
from pipeline.relay.websocket import WebSocket
from pipeline.store.relay_status import RelayState

# A relay that has sent nothing for this long is sent a ping, and disconnected if it still sends nothing. In the middle
# of a frame it cannot answer, and is disconnected at once: even the slowest line carries some bytes in this time.
PING_AFTER_S: Final = 30.0
GIVE_UP_AFTER_S: Final = 75.0
# Counting costs as much for a thousand messages as for one, so they are counted a few times a second.
TELL_S: Final = 0.2
# Messages are sent together up to so many characters: each system call may cost this thread its turn among others.
_SEND_TOGETHER: Final = 64 << 10
# How often a connection that may not read on looks whether the relay takes what is being sent.
_FULL_CHECK_S: Final = 1.0


class Connection:
    """Serves one relay from the handshake to the end of the connection.

    Once it is open it belongs to the thread that calls `step`; it never waits there.
    """

    def __init__(
        self, relay: int, address: RelayAddress, sync: RelaySync, host: HostBackoff,
        metrics: RelayMetrics, context: CrawlContext,
    ) -> None:  # fmt: skip
        self.address = address.url
        self.host_key = address.host_key
        self._sync = sync
        self._host = host
        self._metrics = metrics
        self._context = context
        self._clock = context.clock
        self._session = Session(
            sync.limits, can_authenticate=context.secret is not None, auth_addresses=len(addresses_for_auth(address)),
            silences=sync.silences,
        )  # fmt: skip
        self._recorder = StatusRecorder(relay, address, self._session, sync, host, context.ingester, context.clock)
        self._batcher = RelayBatcher(relay, context.clock, context.batcher.put, self._wake_up, self._on_verified)
        self._outcomes = Outcomes(sync, self._session, host, metrics, self._recorder, self._batcher, context)
        self._receiver = Receiver(self.address, sync, self._session, metrics, self._batcher, self._outcomes, context)
        self._plans: SimpleQueue[Plan] = SimpleQueue()
        self._information: SimpleQueue[AdvertisedLimits | None] = SimpleQueue()
        self._wake: Callable[[], object] | None = None
        self._has_news = False
        self._is_paused = False
        self.is_closing = False
        self._pinged_at = 0.0
        self._path = PathVerdict.FINE
        # When something is due that the relay does not bring up by itself.
        self._due_at = -math.inf
        self._metrics_due_at = math.inf
        self.awaits_reply = False
        """Whether the relay owes an answer, after which there may be more to ask."""

    @property
    def limits(self) -> RelayLimits:
        """What has been learned of the relay's limits."""
        return self._session.limits

    @property
    def newest_live(self) -> int:
        """The latest time (Unix seconds) of any event that came live over this connection."""
        return self._session.newest_live

    @property
    def auth(self) -> AuthState:
        """How the relay and we stand on AUTH (NIP-42)."""
        return self._session.auth

    @property
    def is_blocked(self) -> bool:
        """Whether nothing more may be read for now: the intake must take up what was, or the relay is slowed."""
        return self._batcher.is_full or self._receiver.slowed_until > 0

    @property
    def was_productive(self) -> bool:
        """Whether events came that were not known before, or a sweep came further."""
        return self._batcher.was_productive or self._sync.has_gained

    @property
    def next_time(self) -> float:
        """When `step` must be called again at the latest (monotonic)."""
        times, slowed_until = (self._due_at, self._metrics_due_at), self._receiver.slowed_until
        return min(*times, slowed_until) if slowed_until else min(times)

    def post_information(self, said: AdvertisedLimits | None) -> None:
        """Let the connection go by the relay's own word, None where it has none; safe in every thread."""
        self._information.put(said)
        self._has_news = True
        self._wake_up()

    def post_plan(self, plan: Plan) -> None:
        """Let the connection follow `plan`; safe in every thread."""
        self._plans.put(plan)
        self._has_news = True
        self._wake_up()

    def on_path_doubtful(self, verdict: PathVerdict) -> None:
        """Take a verdict on the path to the relay, for the next `step`."""
        self._path = verdict
        self._has_news = True

    def close(self) -> None:
        """Let the connection be ended soon; safe in every thread."""
        self.is_closing = True
        self._wake_up()

    def note_resolved(self, address: str) -> None:
        """Note before `open` to which IP address the relay's name led; empty where that is not known."""
        self._recorder.note_resolved(address)

    def open(self, wake: Callable[[], object]) -> None:
        """Begin; `wake` asks, from any thread, for a call of `step`."""
        self._wake = wake
        self._sync.on_connected()
        self._recorder.put(RelayState.CONNECTED)

    def step(self, websocket: WebSocket) -> int:
        """Read what has come, do what is due; returns how many messages there were. Raises `ConnectionLost`."""
        now = self._clock.monotonic()
        if self._receiver.is_costly:
            self._receiver.bound_costs(now)
            # The relay is told before nothing is read for a while; maybe nothing was for as long.
            self._work(websocket, now, judges_silence=False)
        if self.is_blocked and not self._can_read(websocket, now):
            return 0
        frames = websocket.receive()
        for raw in frames:
            if isinstance(raw, SkippedMessage):
                self._receiver.on_skipped(raw, now)
            else:
                self._receiver.on_frame(raw, now)
        if frames:
            self._metrics_due_at = min(self._metrics_due_at, now + TELL_S)
            self._batcher.flush()
        if self._has_news or self._has_work(now):
            self._work(websocket, now)
        elif now >= self._metrics_due_at:
            self._flush_metrics()
        return len(frames)

    def on_lost(self, reason: LossReason) -> bool:
        """Take note that the connection was lost, but not by us; returns whether that taught to ask for less."""
        has_taught = self._sync.on_lost(self._session, is_by_relay=reason is not LossReason.UNREACHABLE)
        self._report()
        return has_taught

    def finish(self) -> bool:
        """Hand over what came before the end; returns whether that is done, and is to be called again until it is."""
        self._flush_metrics()
        self._batcher.flush()
        return self._batcher.drain()

    def pause(self) -> None:
        """Nothing is read from now on, since too much waits to be saved; the relay's buffers keep what it sends."""
        if not self._is_paused:
            self._is_paused = True
            self._recorder.put(RelayState.BACKPRESSURED)

    def resume(self, websocket: WebSocket) -> None:
        """Reading goes on, after `pause`."""
        if self._is_paused:
            self._is_paused = False
            self._restart_timeouts(websocket, self._clock.monotonic())
            self._recorder.put(RelayState.CONNECTED)

    def _on_verified(self, verified: Verified) -> None:
        """Take what the verification of some events found; called by the intake's thread."""
        if self._sync.costs.note(verified, self._clock.monotonic()):
            self._receiver.is_costly = True
            self._wake_up()

    def _can_read(self, websocket: WebSocket, now: float) -> bool:
        if now >= self._receiver.slowed_until and self._batcher.drain():
            self._receiver.slowed_until = 0.0
            self._restart_timeouts(websocket, now)
            return True
        websocket.flush()
        self._flush_metrics()
        slowed_until = self._receiver.slowed_until
        self._due_at = slowed_until if slowed_until > now else now + _FULL_CHECK_S
        return False

    def _restart_timeouts(self, websocket: WebSocket, now: float) -> None:
        """Nothing was read for a while: what the relay owes us is owed from now on."""
        websocket.last_received = now
        self._session.resume(now)
        self._due_at = now

    def _has_work(self, now: float) -> bool:
        """Whether there is more to do than to read events."""
        is_due = self._receiver.is_work_due or now >= self._due_at
        return is_due or bool(self._session.outgoing) or now >= self._sync.next_time()

    def _work(self, websocket: WebSocket, now: float, *, judges_silence: bool = True) -> None:
        """Do whatever but reading is due, and find the next time for it.

        `judges_silence`: everything was read that the relay has sent.
        """
        self._has_news = self._receiver.is_work_due = False
        self._flush_metrics()
        self._take_plans()
        self._take_information()
        for ended in self._session.on_timeout(now) if judges_silence else ():
            self._outcomes.on_outcome(ended, now)
        if self._session.wants_another_connection:
            raise ConnectionLost(LossReason.LOCAL, "a page stays unanswered: asked for on another connection")
        self._sync.advance(self._session, now, self._clock.now_ms() // 1000, may_ask=self._host.can_send(now))
        while self._session.outgoing and websocket.send_by is None:
            if not self._context.may_ask(self.host_key):
                # The right ran out since this step began.
                self.close()
                break
            websocket.send(*_taken(self._session.outgoing))
        self._report()
        if judges_silence:
            self._keep_alive(websocket, now)
        self._due_at = min(self._times(websocket))
        self.awaits_reply = self._session.pages > 0 or self._session.reconciliation.is_open

    def _times(self, websocket: WebSocket) -> Iterator[float]:
        yield self._sync.next_time()
        yield max(self._pinged_at, websocket.last_received) + PING_AFTER_S
        yield websocket.last_received + GIVE_UP_AFTER_S
        for deadline in (self._session.next_deadline(), websocket.send_by):
            if deadline is not None:
                yield deadline

    def _keep_alive(self, websocket: WebSocket, now: float) -> None:
        silent = now - websocket.last_received
        path, self._path = self._path if silent >= QUIET_S else PathVerdict.FINE, PathVerdict.FINE
        if path is PathVerdict.LOST:
            raise ConnectionLost(LossReason.UNREACHABLE, f"nothing acknowledged for {LOST_AFTER_S:g} s")
        if silent >= GIVE_UP_AFTER_S:
            raise ConnectionLost(LossReason.ERROR, "no answer to pings")
        if silent >= PING_AFTER_S and websocket.is_midway:
            raise ConnectionLost(LossReason.ERROR, f"a message broke off {silent:.0f} s ago")
        is_quiet = silent >= PING_AFTER_S and now - self._pinged_at >= PING_AFTER_S
        if is_quiet or path is PathVerdict.PING:
            self._pinged_at = now
            websocket.ping()

    def _flush_metrics(self) -> None:
        self._metrics_due_at = math.inf
        self._metrics.tell()

    def _wake_up(self) -> None:
        if (wake := self._wake) is not None:
            wake()

    def _take_plans(self) -> None:
        plan = None
        with suppress(Empty):
            while True:
                plan = self._plans.get_nowait()
        if plan is not None:
            self._sync.set_plan(plan)

    def _take_information(self) -> None:
        """Widen what refusals taught by a step, as is due once a day, and narrow it by the relay's own word."""
        with suppress(Empty):
            said = self._information.get_nowait()
            self._recorder.keep_up()
            now = self._clock.now_ms() // 1000
            limits = self.limits.with_nip11_fetched_at(now).relaxed(now)
            self._recorder.learn(limits if said is None else limits.with_advertised(said))

    def _report(self) -> None:
        """Write what has changed for those who look at the relay's row."""
        if self._session.unasked:
            self._metrics.unasked(self._session.unasked)
            self._session.unasked = 0
        if self._session.late:
            self._metrics.late(self._session.late)
            self._session.late = 0
        backfilled = self._sync.backfill_jobs.take_unreported()
        if backfilled:
            self._batcher.enqueue_metadata(backfilled=backfilled)
        moved, progress, gaps = self._sync.take_moved(), self._sync.take_progress(), self._sync.gaps.take_changes()
        if moved or progress or gaps:
            self._batcher.enqueue_metadata(cursors=moved, progress=progress, gaps=gaps)
        if (sample := self._sync.identity.take_sample(self._clock.monotonic())) is not None:
            self._batcher.enqueue_metadata(sample=sample)
        self._recorder.keep_up()


def _taken(outgoing: deque[str]) -> Iterator[str]:
    """Yield the messages that are to be sent next, taken out of `outgoing`."""
    size = 0
    while outgoing and size < _SEND_TOGETHER:
        message = outgoing.popleft()
        size += len(message)
        yield message
