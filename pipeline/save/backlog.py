"""The bound of what waits for the target relay: beyond it the oldest is given up, since what is new replaces it anyhow.

A relay that is away for weeks would fill the disk else. Pub/Sub needs no such bound: crawling pauses for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.store import outbox
from pipeline.store.database import Tx
from pipeline.store.lease import QueueSize
from pipeline.store.outbox import SinkName

REASON: Final = "backlog-full"
"""Why an event is given up; a metric label."""
OUTCOME: Final = "given up: backlog full"
"""The same where the event's fate is told."""

# Counting a million rows takes some 20 ms. While there is no room it is done as often as this, since the relay may take
# events again; until it is, so many may be given up without need.
RECOUNT_MS: Final = 10_000
RECOUNT_ROWS: Final = 1_000
# More at once would hold the write lock for long; a bound that was lowered is reached step by step.
STEP: Final = 1_000
# Given up at a time where there are too many bytes.
_ROWS_FOR_BYTES: Final = 10
_ANY_NUMBER: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class BacklogBounds:
    """How much may wait for the target relay; 0: any number."""

    events: int = 0
    bytes: int = 0


class Backlog:
    """Keeps the outbox of the target relay within `bounds()`, which may change. For one thread.

    Rows that the sender holds are not touched, so that there may be some hundred more.
    """

    __slots__ = ("_bounds", "_counted_at", "_counted_for", "_given_up", "_room", "_room_bytes")

    def __init__(self, bounds: Callable[[], BacklogBounds]) -> None:
        self._bounds = bounds
        self._room = self._room_bytes = self._counted_at = self._given_up = 0
        self._counted_for: BacklogBounds | None = None

    def make_room(self, tx: Tx, new: QueueSize, now: int) -> int:
        """Let `new` be appended in this transaction; returns how many others were given up for it."""
        bounds = self._bounds()
        if not (bounds.events or bounds.bytes) or not new.events:
            return 0
        is_lacking = new.events > self._room or new.bytes > self._room_bytes
        if bounds != self._counted_for or (is_lacking and self._is_due(now)):
            self._count(tx, bounds, now)
        given_up = 0
        while given_up < STEP and (lacking := self._lacking(new)):
            gone = outbox.drop_oldest(tx, SinkName.RELAY, min(lacking, STEP - given_up), OUTCOME, now)
            if not gone.events:
                break
            given_up += gone.events
            self._room += gone.events
            self._room_bytes += gone.bytes
        self._given_up += given_up
        self._room -= new.events
        self._room_bytes -= new.bytes
        return given_up

    def forget(self) -> None:
        """Count anew; the last transaction was rolled back."""
        self._counted_for = None

    def _count(self, tx: Tx, bounds: BacklogBounds, now: int) -> None:
        most = (bounds.events or _ANY_NUMBER) + STEP
        waiting = outbox.size(tx, SinkName.RELAY, most)
        self._room = (bounds.events or _ANY_NUMBER) - waiting.events
        self._room_bytes = (bounds.bytes or _ANY_NUMBER) - waiting.bytes
        # How many there are beyond one step is not known yet.
        self._counted_for = bounds if waiting.events < most else None
        self._counted_at, self._given_up = now, 0

    def _lacking(self, new: QueueSize) -> int:
        """Return how many rows are to be given up next; of their bytes little is known before."""
        return max(new.events - self._room, _ROWS_FOR_BYTES if new.bytes > self._room_bytes else 0, 0)

    def _is_due(self, now: int) -> bool:
        return now - self._counted_at >= RECOUNT_MS or self._given_up >= RECOUNT_ROWS
