"""A bound on how often something is done: so many times in any minute. Pure; times are monotonic seconds."""

from collections import deque
from collections.abc import Callable
from typing import Final

_MINUTE_S: Final = 60.0


class RateBound:
    """Lets `per_minute()` things happen within any 60 s; 0 sets no bound. The bound may change. For one thread."""

    __slots__ = ("_done", "_per_minute")

    def __init__(self, per_minute: Callable[[], int]) -> None:
        self._per_minute = per_minute
        self._done: deque[float] = deque()

    def room(self, now: float, wanted: int) -> int:
        """How many of `wanted` may be done now."""
        most = self._per_minute()
        if not most:
            return wanted
        while self._done and self._done[0] + _MINUTE_S <= now:
            self._done.popleft()
        return max(0, min(wanted, most - len(self._done)))

    def note(self, now: float) -> None:
        """Count one, done now."""
        most = self._per_minute()
        if most:
            self._done.append(now)
        while len(self._done) > most:
            self._done.popleft()
