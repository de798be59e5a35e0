"""What one relay sends: read, counted, and brought to its session, its crawl and the intake. For the reactor's thread.

A relay that sends too much of what is long, forged or of strangers is slowed, and cut off where it forges.
"""

from contextlib import suppress
from typing import Final

from pipeline.crawl.context import CrawlContext
from pipeline.crawl.flow_control import RelayBatcher
from pipeline.crawl.outcomes import Outcomes
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.sync.costs import Verified
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.nostr.frame_bounds import Excess
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.message import (
    EventMessage,
    InvalidEventMessage,
    InvalidMessage,
    KnownEvent,
    MessageFault,
    Notice,
    classify_notice,
    parse_relay_message,
)
from pipeline.process.rate import OverdraftBucket, Rate
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.frames import SkippedMessage
from pipeline.relay.session import Session
from pipeline.relay.sighting import sighting
from pipeline.relay.subscription import PAGE_PREFIX

# Frames that are no messages: this many in a row, and the relay is no relay.
MAX_INVALID_FRAMES: Final = 1000
# How fast long messages are read, and those that are too long are read past: they cost as much as thousands, and where
# they are compressed the line does not bound them. Contact lists are seldom as long.
LONG_BYTES: Final = 64 << 10
LONG_MESSAGES: Final = Rate(burst=8 << 20, per_minute=60 * (4 << 20))


class Receiver:
    """The frames of one connection."""

    __slots__ = (
        "_address",
        "_batcher",
        "_clock",
        "_committed",
        "_context",
        "_invalid_frames",
        "_long",
        "_metrics",
        "_outcomes",
        "_session",
        "_sync",
        "is_costly",
        "is_work_due",
        "slowed_until",
    )  # fmt: skip

    def __init__(
        self, address: str, sync: RelaySync, session: Session, metrics: RelayMetrics, batcher: RelayBatcher,
        outcomes: Outcomes, context: CrawlContext,
    ) -> None:  # fmt: skip
        self._address = address
        self._sync = sync
        self._session = session
        self._metrics = metrics
        self._batcher = batcher
        self._outcomes = outcomes
        self._context = context
        self._clock = context.clock
        self._committed = context.ingester.committed
        self._invalid_frames = 0
        self._long = OverdraftBucket(LONG_MESSAGES, context.clock.monotonic())
        self.is_costly = False
        """Its events cost more than they may; set by the intake's thread too."""
        self.slowed_until = 0.0
        """Until when nothing is read, for what was read past or costs too much; 0 while that is not so."""
        self.is_work_due = False
        """A message came that may bring forward when something is due."""

    def on_frame(self, raw: bytes, now: float) -> None:
        """Take a frame: count it, and let session, crawl and intake know what it says. Raises `ConnectionLost`."""
        if len(raw) > LONG_BYTES:
            self._pay_for_long(len(raw), now)
        if (excess := self._context.bounds.excess(raw)) is not None:
            self._on_excess(raw, excess, now)
            return
        try:
            message = parse_relay_message(raw, self._committed)
        except InvalidEventMessage as error:
            self._metrics.invalid_event(error.reason)
            # Costs as little as a forgery, and brings as little.
            self.is_costly |= self._sync.costs.note(Verified(forged=1), now)
            self._session.note_malformed(error.subscription, error.created_at, now, error.id)
            return
        except InvalidMessage as error:
            self._metrics.invalid_message(error.reason)
            self._count_invalid()
            return
        self._invalid_frames = 0
        self._metrics.message(message)
        if isinstance(message, KnownEvent):
            self._session.record_event_time(message.subscription, message.created_at, now, message.id)
            self._sync.on_arrival(message.id, message.created_at, message.subscription, self._session, now)
            self._metrics.duplicate()
            if self._sync.audit.is_searching:
                self._note_known(raw)
            return
        if isinstance(message, EventMessage):
            self._on_event(message, len(raw), now)
            return
        if isinstance(message, Notice):
            self._context.log.debug(self._address, "notice", relay=self._address, text=message.text)
            self._metrics.notice(classify_notice(message.text))
            # It may bring forward when something is due.
            self.is_work_due = True
        for outcome in self._session.receive(message, now):
            self._outcomes.on_outcome(outcome, now)

    def _on_excess(self, raw: bytes, excess: Excess, now: float) -> None:
        """Count a frame that is too costly to be parsed, an event towards the subscription that it came in."""
        event = sighting(SkippedMessage(raw, b"", len(raw)))
        if event is None:
            self._metrics.invalid_message(MessageFault.SHAPE)
            self._count_invalid()
            return
        self._metrics.excessive_event(excess)
        self._session.record_event_time(event.subscription or "", event.created_at, now, event.event_id)

    def _on_event(self, message: EventMessage, size: int, now: float) -> None:
        event = message.event
        if self._session.note_event(message.subscription, event, now):
            self._sync.on_arrival(event.id, event.created_at, message.subscription, self._session, now)
        if event.kind in GLOBAL_KINDS and not self._is_page(message.subscription):
            self.is_costly |= self._sync.costs.note_unasked(size, now)
        if self._sync.takes(message, self._session):
            self._batcher.add(message.event, size)

    def _is_page(self, subscription: str) -> bool:
        return subscription.startswith(PAGE_PREFIX) and self._session.key_of(subscription) is not None

    def _note_known(self, raw: bytes) -> None:
        """Read an event to its end that was recognised by its id, since a control is sought."""
        with suppress(InvalidMessage):
            message = parse_relay_message(raw)
            if isinstance(message, EventMessage):
                self._sync.takes(message, self._session)

    def _pay_for_long(self, size: int, now: float) -> None:
        """Read nothing for a while, once long messages have come faster than they may."""
        if (left := self._long.spend(size, now)) < 0:
            self.slowed_until = max(self.slowed_until, now - left / (LONG_MESSAGES.per_minute / 60))

    def on_skipped(self, message: SkippedMessage, now: float) -> None:
        """Count what was too long to be read where it belongs, and tell that it is missing."""
        self._pay_for_long(message.size, now)
        event = sighting(message)
        if event is None:
            self._metrics.skipped_message()
            return
        if event.event_id is not None and event.event_id in self._committed:
            self._metrics.duplicate()
            if event.subscription is not None:
                self._session.record_event_time(event.subscription, event.created_at, now, event.event_id)
            return
        self._metrics.skipped_event()
        live = self._session.note_skipped(event, now)
        if live is not None:
            wall = self._clock.now_ms() // 1000
            self._sync.on_live_skipped(live, wall if event.created_at is None else event.created_at)
            self._metrics.crawled(self._sync.stats)

    def _count_invalid(self) -> None:
        self._invalid_frames += 1
        if self._invalid_frames > MAX_INVALID_FRAMES:
            raise ConnectionLost(LossReason.PROTOCOL, "too many invalid frames")

    def bound_costs(self, now: float) -> None:
        """Cut off a relay that forges, and slow one that brings more of strangers than it may.

        Raises `ConnectionLost`.
        """
        self.is_costly = False
        costs = self._sync.costs
        if costs.is_forging(now):
            raise ConnectionLost(LossReason.FORGED, "too many events that are malformed or forged")
        if (pause_s := costs.pause_s(now)) > 0:
            self.slowed_until = max(self.slowed_until, now + pause_s)
        self._sync.on_costly()
