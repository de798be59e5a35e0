"""How often something may be done: so many times at once, and so many a minute (a token bucket). Pure.

Times are monotonic seconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and from then on `per_minute`."""

    burst: int
    per_minute: float


class Allowance:
    """What is left of one `Rate`; it fills up again as time passes. For one thread."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Use one; returns whether there was one left."""
        self._fill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def is_full(self, now: float) -> bool:
        """Whether nothing would be lost by forgetting it."""
        self._fill(now)
        return self._left >= self._rate.burst

    def _fill(self, now: float) -> None:
        self._left = min(self._rate.burst, self._left + (now - self._at) * self._rate.per_minute / 60)
        self._at = now
