"""A bound on how often something is done: so many times in any minute. Pure; times are monotonic seconds."""

from collections import deque
from typing import Final

_MINUTE_S: Final = 60.0


class RateBound:
    """Lets `per_minute` things happen within any 60 s; 0 sets no bound. For one thread."""

    __slots__ = ("_done", "_per_minute")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._done: deque[float] = deque(maxlen=per_minute or None)

    def wait_s(self, now: float) -> float:
        """How long the next one has to wait."""
        if not self._per_minute or len(self._done) < self._per_minute:
            return 0.0
        return max(0.0, self._done[0] + _MINUTE_S - now)

    def note(self, now: float) -> None:
        """Count one, done now."""
        if self._per_minute:
            self._done.append(now)
