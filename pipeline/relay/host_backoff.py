"""Patience with a host that asks for it, shared by all of its addresses."""

import random
import threading

FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 600.0
# A host that has been content for this long starts from the first backoff again.
QUIET_S = 120.0
# A backoff of so many seconds that was followed by so many answers was long enough: where requests are rationed, a
# longer one only wastes what may be had meanwhile.
ENOUGH_S = 16.0
ENOUGH_ANSWERS = 10


class HostBackoff:
    """The rate-limit backoff of one host; safe in every thread. Times are monotonic seconds."""

    __slots__ = ("_answers", "_backoff", "_lock", "_random", "_until")

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._lock = threading.Lock()
        # Since the last refusal.
        self._answers = 0
        self._backoff = 0.0
        self._until = 0.0

    def on_rate_limited(self, now: float) -> None:
        """Note that the host refused for too many requests; those that it refused in one go count once."""
        with self._lock:
            if now < self._until:
                return
            if not self._backoff or now - self._until > QUIET_S:
                self._backoff = FIRST_BACKOFF_S
            elif self._backoff < ENOUGH_S or self._answers < ENOUGH_ANSWERS:
                self._backoff = min(self._backoff * 2, MAX_BACKOFF_S)
            self._answers = 0
            self._until = now + self._backoff * self._random.uniform(0.75, 1.25)

    def on_success(self) -> None:
        """Note that the host served a request."""
        with self._lock:
            self._answers += 1

    def can_send(self, now: float) -> bool:
        """Whether the host may be asked for anything now."""
        return now >= self._until

    def remaining_ms(self, now: float) -> int:
        """How much longer to be patient."""
        return max(0, round((self._until - now) * 1000))
