"""The counters of one relay, bound once so that counting an event costs no look-up."""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from prometheus_client import Counter

from pipeline.crawl.sync.stats import SyncStats
from pipeline.nostr.event import Reason
from pipeline.nostr.frame_bounds import Excess
from pipeline.nostr.message import (
    AuthChallenge,
    Closed,
    Eose,
    EventMessage,
    KnownEvent,
    MessageFault,
    Notice,
    NoticeType,
    Ok,
    RelayMessage,
)
from pipeline.process.metrics import Metrics
from pipeline.relay.errors import DialReason
from pipeline.relay.refusals import RelayRefusal

_STAGE: Final = "crawler"
_TYPES: Final[dict[type, str]] = {
    EventMessage: "event",
    KnownEvent: "event",
    Eose: "eose",
    Notice: "notice",
    AuthChallenge: "auth",
    Ok: "ok",
    Closed: "close",
}


class _Page(StrEnum):
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"


class _Result(StrEnum):
    SUCCESS = "success"
    ERROR = "error"


class RelayMetrics:
    """What one relay's connections count; used by one thread at a time.

    Messages are only noted until `tell`, which costs as much for a thousand of them as for one.
    """

    __slots__ = (
        "_address", "_dense", "_known", "_messages", "_metrics", "_noted", "_pages", "_received", "_set_aside", "_told",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, address: str, set_aside: Callable[[str, int], object]) -> None:
        """`set_aside` counts events that go no further, by their reason."""
        self._set_aside = set_aside
        self._metrics = metrics
        self._address = metrics.address_labels.label(address)
        self._received = metrics.received_events.labels(self._address)
        self._pages = {each: metrics.crawl_pages.labels(self._address, each.value) for each in _Page}
        self._dense = metrics.crawl_dense_seconds.labels(self._address)
        self._told = SyncStats()
        self._messages = {name: self._message_counter(name) for name in (*_TYPES.values(), "unknown")}
        self._noted: dict[str, int] = {}
        self._known = 0

    def message(self, message: RelayMessage) -> None:
        """Note a message that was understood."""
        name = _TYPES.get(type(message), "unknown")
        self._noted[name] = self._noted.get(name, 0) + 1

    def duplicate(self) -> None:
        """Note an event that was known already, beside `message`."""
        self._known += 1

    def tell(self) -> None:
        """Count what was noted."""
        for name, count in self._noted.items():
            self._messages[name].inc(count)
        self._received.inc(self._noted.get("event", 0))
        if self._known:
            self._set_aside("duplicate", self._known)
        self._noted.clear()
        self._known = 0

    def invalid_event(self, reason: Reason) -> None:
        """Count an EVENT frame whose event is malformed."""
        self._message_counter("event", _Result.ERROR).inc()
        self._set_aside(f"invalid-{reason}", 1)

    def excessive_event(self, excess: Excess) -> None:
        """Count an EVENT frame whose event cannot be one that is saved."""
        self._message_counter("event", _Result.ERROR).inc()
        self._set_aside(excess.value, 1)

    def invalid_message(self, reason: MessageFault) -> None:
        """Count a frame that is no message."""
        self._message_counter("unknown", _Result.ERROR).inc()
        self._metrics.stage_errors.labels(_STAGE, f"message-{reason}").inc()

    def skipped_event(self) -> None:
        """Count an event that was too long to be read."""
        self._set_aside("too-large", 1)

    def skipped_message(self) -> None:
        """Count another message that was too long to be read."""
        self._metrics.stage_errors.labels(_STAGE, "message-too-large").inc()

    def notice(self, kind: NoticeType) -> None:
        """Count a NOTICE by what it is about."""
        self._metrics.notices.labels(self._address, kind.value).inc()

    def refusal(self, refusal: RelayRefusal) -> None:
        """Count a request that the relay did not answer to its end."""
        self._metrics.stage_errors.labels(_STAGE, f"refused-{refusal}").inc()

    def crawled(self, stats: SyncStats) -> None:
        """Count what `stats`, which only ever grow, have gained since the last call."""
        told = self._told
        self._pages[_Page.COMPLETE].inc(stats.pages - told.pages)
        self._pages[_Page.INCOMPLETE].inc(stats.incomplete_pages - told.incomplete_pages)
        self._dense.inc(stats.dense_seconds - told.dense_seconds)
        for gap, number in (stats.gap_reasons - told.gap_reasons).items():
            self._metrics.crawl_gaps.labels(self._address, gap.value).inc(number)
        for result, number in (stats.reconciliations - told.reconciliations).items():
            self._metrics.crawl_reconciliations.labels(self._address, result).inc(number)
        if stats.needed > told.needed:
            self._metrics.crawl_needed_ids.labels(self._address).inc(stats.needed - told.needed)
        if stats.compared_bytes > told.compared_bytes:
            said = stats.compared_bytes - told.compared_bytes
            self._metrics.crawl_reconciliation_bytes.labels(self._address).inc(said)
        self._told = stats.copy()

    def unasked(self, events: int) -> None:
        """Count events that belong to no request, or do not match it."""
        self._metrics.stage_errors.labels(_STAGE, "unasked-event").inc(events)

    def late(self, events: int) -> None:
        """Count events that came under ids that had long been closed."""
        self._metrics.stage_errors.labels(_STAGE, "late-event").inc(events)

    def not_dialled(self, reason: DialReason) -> None:
        """Count a dial that led to no connection by what was wrong."""
        self._metrics.dial_failures.labels(reason.value).inc()

    def disconnected(self, reason: str) -> None:
        """Count the end of a connection, or a dial that led to none."""
        self._metrics.disconnections.labels(self._address, reason).inc()

    def reconnected(self) -> None:
        """Count a connection that follows an earlier one."""
        self._metrics.reconnections.labels(self._address).inc()

    def _message_counter(self, name: str, result: _Result = _Result.SUCCESS) -> Counter:
        return self._metrics.received_messages.labels(self._address, name, result.value)
