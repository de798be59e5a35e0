"""Verdicts of a sink that are not committed yet: they ride in the transaction of the next claim.

A claim and the verdicts on the rows before it change the same pages, so that one transaction costs little more than
either, and the write lock is taken once. Where no claim follows within `SETTLE_WITHIN_S`, the verdicts are committed by
themselves. A process that is killed between delivers such rows again, as it does those of a call under way.
"""

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.sinks.base import Verdict
from pipeline.store.outbox import OutboxRow

# At 25 events a second most verdicts meet a claim within this time.
SETTLE_WITHIN_S: Final = 0.1
# Rows settled in one transaction, and one batch more: 25 ms of the write lock.
MAX_SETTLED: Final = 1_000

RowVerdicts = Sequence[tuple[OutboxRow, Verdict]]


class Settlement(NamedTuple):
    """The verdicts of one call that took `took_s`, at least one; `at_ms`: when it ended, `at_s` by monotonic time."""

    verdicts: RowVerdicts
    took_s: float
    at_ms: int
    at_s: float


class Unsettled:
    """Settlements of the workers that share one sink, in their order; thread-safe."""

    __slots__ = ("_lock", "_settlements", "_within_s")

    def __init__(self, within_s: float = SETTLE_WITHIN_S) -> None:
        self._within_s = within_s
        self._lock = threading.Lock()
        self._settlements: deque[Settlement] = deque()

    def add(self, settlement: Settlement) -> None:
        """Keep `settlement` for the next transaction."""
        with self._lock:
            self._settlements.append(settlement)

    def take(self) -> list[Settlement]:
        """Remove and return the first ones, up to `MAX_SETTLED` rows; the caller commits them."""
        taken: list[Settlement] = []
        rows = 0
        with self._lock:
            while self._settlements and rows < MAX_SETTLED:
                taken.append(self._settlements.popleft())
                rows += len(taken[-1].verdicts)
        return taken

    def due_in_s(self, now_s: float) -> float:
        """Return how long the first one may wait for a claim; infinity if there is none."""
        with self._lock:
            if not self._settlements:
                return math.inf
            return max(0.0, self._settlements[0].at_s + self._within_s - now_s)
