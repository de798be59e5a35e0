"""Sliding window rate limiter: a bound on events within any minute. Pure; times are monotonic seconds."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

_MINUTE_S: Final = 60.0
# Where so few may be done in a minute, each is written down by itself; of more so often.
_WRITTEN_EACH: Final = 600
_WRITE_EVERY_S: Final = 0.2


class SlidingWindowLimiter:
    """Limiter to `per_minute()` events within any 60 s; 0 sets no bound. The bound may change. For one thread.

    `done`: when such things were done before, the oldest first. `write` gets the number that is about to be done, so
    that the next process knows: of each one before it is done, or of several after a moment where there may be many.
    """

    __slots__ = ("_done", "_pending", "_per_minute", "_write", "_written_at")

    def __init__(
        self, per_minute: Callable[[], int], done: Iterable[float] = (), write: Callable[[int], None] = lambda _: None
    ) -> None:
        self._per_minute = per_minute
        self._done: deque[float] = deque(done)
        self._write = write
        self._pending = 0
        self._written_at = 0.0

    def room(self, now: float, wanted: int) -> int:
        """Return how many of `wanted` may be done now."""
        most = self._per_minute()
        if self._pending and now - self._written_at >= _WRITE_EVERY_S:
            self.flush(now)
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
            self._pending += 1
            if most <= _WRITTEN_EACH or now - self._written_at >= _WRITE_EVERY_S:
                self.flush(now)
        while len(self._done) > most:
            self._done.popleft()

    def flush(self, now: float) -> None:
        """Write down what is not written yet."""
        if self._pending:
            self._write(self._pending)
            self._pending, self._written_at = 0, now
