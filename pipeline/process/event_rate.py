"""Rate of the events that come, as a moving average. Pure."""

import math
from typing import Final

# After this time an event counts a third.
_MEMORY_S: Final = 0.5


class EventRate:
    """Events a second. Times are monotonic seconds."""

    __slots__ = ("_at", "_per_s")

    def __init__(self) -> None:
        self._at = 0.0
        self._per_s = 0.0

    def note(self, now: float, events: int) -> None:
        """Take note of `events` that have come by `now`."""
        self._per_s = self.per_s(now) + events / _MEMORY_S
        self._at = now

    def per_s(self, now: float) -> float:
        """Return the rate at `now`."""
        return self._per_s * math.exp(min(0.0, self._at - now) / _MEMORY_S)
