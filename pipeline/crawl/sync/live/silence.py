"""When the silence of one relay's live subscriptions is longer than what they brought before lets expect. Pure.

A relay may drop a subscription without a word. A lull looks the same, so that a long silence is only a reason to sweep
what should have come. `mono` is monotonic seconds.
"""

import math
from typing import Final

# So many events show how often they come.
LEAST_EVENTS: Final = 20
# A silence is long when so many events should have come in it.
EXPECTED_EVENTS: Final = 20
LEAST_S: Final = 20.0
# Lulls must not cost more than a poll: after each that was one, the next is looked into so much later, up to the most.
PAUSE_S: Final = 60.0
MAX_PAUSE_S: Final = 300.0
_WEIGHT: Final = 0.1


class LiveSilence:
    """How often events come live over one connection."""

    __slots__ = ("_count", "_interval_s", "_last", "_lulls", "_not_before")

    def __init__(self) -> None:
        self._count = 0
        self._interval_s = 0.0
        self._last = math.inf
        self._lulls = 0
        self._not_before = 0.0

    def on_connected(self) -> None:
        """Restart: events over another connection may come at another rate."""
        self._count, self._interval_s, self._last = 0, 0.0, math.inf

    def on_live(self, mono: float) -> None:
        """Note that an event came."""
        if self._count and self._last < math.inf:
            self._interval_s += _WEIGHT * (max(0.0, mono - self._last) - self._interval_s)
        self._count += 1
        self._last = mono

    def on_missed(self) -> None:
        """Note that events were missed: the silence was none of theirs."""
        self._lulls = 0

    @property
    def due_at(self) -> float:
        """When this silence is long; infinite where too little is known, or it was looked into already."""
        if self._count < LEAST_EVENTS:
            return math.inf
        return max(self._not_before, self._last + max(LEAST_S, EXPECTED_EVENTS * self._interval_s))

    def take_long(self, mono: float) -> bool:
        """Return True if the silence is long, once for each."""
        if mono < self.due_at:
            return False
        self._last = math.inf
        self._not_before = mono + min(PAUSE_S * 2.0**self._lulls, MAX_PAUSE_S)
        self._lulls = min(self._lulls + 1, 8)
        return True
