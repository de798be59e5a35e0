"""The bound on the outbox of a sink that crawling does not pause for: beyond it the oldest are dropped.

That is the target relay, for which newer versions replace them, and each sink of `EVENTS_SINK` but the first named.
Without it a sink that is away for weeks fills the disk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.store import outbox
from pipeline.store.database import Tx
from pipeline.store.lease import QueueSize
from pipeline.store.sinks import SinkName

REASON: Final = "backlog-full"
"""Why an event is dropped; a metric label."""
OUTCOME: Final = "discarded: backlog full"
"""The same in the trace of an event."""

# Counting a million rows takes some 20 ms. While there is no room it is repeated this often, since the relay may accept
# events again; in between, this many may be dropped without need.
RECOUNT_MS: Final = 10_000
RECOUNT_ROWS: Final = 1_000
# More at once would hold the write lock for long; a bound that was lowered is reached step by step.
STEP: Final = 1_000
# Dropped at a time while there are too many bytes.
_ROWS_FOR_BYTES: Final = 10
_ANY_NUMBER: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class OutboxBounds:
    """How much may be pending for the sink; 0: any number."""

    events: int = 0
    bytes: int = 0


class OutboxLimit:
    """Limit that keeps the outbox of `sink` within `bounds()`, which may change. For one thread.

    Rows that its worker has leased are not touched, so that there may be some hundred more.
    """

    __slots__ = ("_bounds", "_counted_at", "_counted_for", "_dropped", "_room", "_room_bytes", "sink")

    def __init__(self, sink: SinkName, bounds: Callable[[], OutboxBounds]) -> None:
        self.sink = sink
        self._bounds = bounds
        self._room = self._room_bytes = self._counted_at = self._dropped = 0
        self._counted_for: OutboxBounds | None = None

    def make_room(self, tx: Tx, new: QueueSize, now: int) -> int:
        """Make room for `new` rows in this transaction; return how many others were dropped for them."""
        bounds = self._bounds()
        if not (bounds.events or bounds.bytes) or not new.events:
            return 0
        is_lacking = new.events > self._room or new.bytes > self._room_bytes
        if bounds != self._counted_for or (is_lacking and self._is_due(now)):
            self._count(tx, bounds, now)
        dropped = 0
        while dropped < STEP and (lacking := self._lacking(new)):
            gone = outbox.drop_oldest(tx, self.sink, min(lacking, STEP - dropped), OUTCOME, now)
            if not gone.events:
                break
            dropped += gone.events
            self._room += gone.events
            self._room_bytes += gone.bytes
        self._dropped += dropped
        self._room -= new.events
        self._room_bytes -= new.bytes
        return dropped

    def forget(self) -> None:
        """Count again: the last transaction was rolled back."""
        self._counted_for = None

    def _count(self, tx: Tx, bounds: OutboxBounds, now: int) -> None:
        most = (bounds.events or _ANY_NUMBER) + STEP
        waiting = outbox.size(tx, self.sink, most)
        self._room = (bounds.events or _ANY_NUMBER) - waiting.events
        self._room_bytes = (bounds.bytes or _ANY_NUMBER) - waiting.bytes
        # The number beyond one step is not known yet.
        self._counted_for = bounds if waiting.events < most else None
        self._counted_at, self._dropped = now, 0

    def _lacking(self, new: QueueSize) -> int:
        """Return how many rows to drop next; their bytes are not known before."""
        return max(new.events - self._room, _ROWS_FOR_BYTES if new.bytes > self._room_bytes else 0, 0)

    def _is_due(self, now: int) -> bool:
        return now - self._counted_at >= RECOUNT_MS or self._dropped >= RECOUNT_ROWS
