"""How fast pages are asked for at a relay that limits the rate of requests. Pure; times are monotonic seconds.

Such a relay drops whatever is one too many, a live subscription as well as a page. So after a refusal pages keep a
distance, which leaves room for what cannot wait:

| event | distance |
|---|---|
| refused for the first time, or the first time in `QUIET_S` | `FIRST_S` |
| refused again, and no page was answered since | the double, `MAX_BLIND_S` at most: nothing shows what it serves |
| refused again | the double, or more if fewer pages were answered since the last refusal |
| a page is answered | a hundredth less; a third less where nothing showed what it serves |
| `QUIET_S` after the last refusal | none |
"""

import math
from typing import Final

QUIET_S: Final = 300.0
FIRST_S: Final = 0.5
MAX_S: Final = 60.0
MAX_BLIND_S: Final = 4.0
# What is left to live subscriptions and to CLOSEs.
_SPARE: Final = 1.25
_LESS: Final = 0.99
_LESS_IF_BLIND: Final = 0.67
# Refusals of what was sent together come together.
_TOGETHER_S: Final = 0.5


class PagePace:
    """The distance of pages on one connection."""

    __slots__ = ("_answers", "_is_blind", "_limited_at", "_opened_at", "distance_s")

    def __init__(self) -> None:
        self.distance_s = 0.0
        self._limited_at = -math.inf
        self._opened_at = -math.inf
        # Since the last refusal.
        self._answers = 0
        self._is_blind = True

    def on_limited(self, now: float) -> None:
        """Note a refusal for too many requests."""
        since = now - self._limited_at
        if since < _TOGETHER_S:
            return
        self._is_blind = since >= QUIET_S or not self._answers
        if since >= QUIET_S:
            self.distance_s = FIRST_S
        elif self._is_blind:
            self.distance_s = max(self.distance_s, min(MAX_BLIND_S, max(2 * self.distance_s, FIRST_S)))
        else:
            served_s = _SPARE * since / self._answers
            self.distance_s = min(MAX_S, max(2 * self.distance_s, FIRST_S, served_s))
        self._limited_at, self._answers = now, 0

    def on_answered(self) -> None:
        """Note that a page was answered."""
        self._answers += 1
        self.distance_s *= _LESS_IF_BLIND if self._is_blind else _LESS

    def on_opened(self, now: float) -> None:
        """Note that a page is asked for."""
        self._opened_at = now

    def wait_until(self, now: float) -> float | None:
        """Return until when no page may be asked for; None if one may."""
        if now - self._limited_at >= QUIET_S:
            self.distance_s = 0.0
        at = self._opened_at + self.distance_s
        return at if at > now else None
