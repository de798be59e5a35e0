"""Token buckets: something may be done a number of times at once, and a number of times a minute. Pure.

Times are monotonic seconds.
"""

from dataclasses import dataclass
from typing import Final

MAX_RATED: Final = 10_000
"""Names with a bucket (about 2 MB); most are forgotten when their bucket is full again."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and from then on `per_minute`."""

    burst: int
    per_minute: float


class TokenBucket:
    """Token bucket for one `Rate`. For one thread."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token; return True if there was one."""
        self._fill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def is_full(self, now: float) -> bool:
        """Return True if it is full, so that it may be forgotten."""
        self._fill(now)
        return self._left >= self._rate.burst

    def _fill(self, now: float) -> None:
        self._left = min(self._rate.burst, self._left + (now - self._at) * self._rate.per_minute / 60)
        self._at = now


class OverdraftBucket:
    """Token bucket for costs that are known only afterwards, so that it may be overdrawn. For one thread.

    It begins full. The rate may be replaced at any time.
    """

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at = now

    def left(self, now: float) -> float:
        """Return what is left, below 0 if more was used."""
        self._left = min(self._rate.burst, self._left + max(0.0, now - self._at) * self._rate.per_minute / 60)
        self._at = now
        return self._left

    def spend(self, amount: float, now: float) -> float:
        """Take `amount`, or give it back if it is below 0; return what is left."""
        self._left = min(self._rate.burst, self.left(now) - amount)
        return self._left

    def set_rate(self, rate: Rate, now: float) -> None:
        """Apply `rate` from now on."""
        if rate != self._rate:
            self._left = min(float(rate.burst), self.left(now))
            self._rate = rate


class TokenBuckets:
    """Token bucket per name, for a bounded number of names; beyond it the oldest are forgotten."""

    __slots__ = ("_max_names", "_names", "_rate")

    def __init__(self, rate: Rate, max_names: int = MAX_RATED) -> None:
        self._rate = rate
        self._max_names = max_names
        self._names: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._names)

    def take(self, name: str, now: float) -> bool:
        """Take a token of `name`; return True if there was one."""
        bucket = self._names.get(name)
        if bucket is None:
            if len(self._names) >= self._max_names:
                self._make_room(now)
            bucket = self._names[name] = TokenBucket(self._rate, now)
        return bucket.take(now)

    def _make_room(self, now: float) -> None:
        kept = {name: bucket for name, bucket in self._names.items() if not bucket.is_full(now)}
        # Room for many at once, since looking through all of them for each newcomer would be slow.
        surplus = len(kept) - self._max_names * 3 // 4
        self._names = dict(list(kept.items())[max(0, surplus) :])
