"""How fast the past of a crowd is asked for: the slower, the busier the thread is that serves all relays. Pure.

A crowd brings thousands of long requests within moments. The thread that sends them also reads what all others publish,
so that they may take a part of its time only. One pace for all relays of a process; times are monotonic seconds.
"""

from typing import Final

# Seconds between two sweeps that begin at one relay for the past of authors of the last tier. Each takes a REQ and a
# CLOSE, and relays that allow four messages a second must have room for what others wait for.
LEAST_S: Final = 0.6
MOST_S: Final = 6.0
# How often it is looked how busy the thread was; above the first share of the time it slows down, below the second it
# goes faster, each by this factor.
LOOK_EVERY_S: Final = 0.5
BUSY: Final = 0.4
CALM: Final = 0.25
FACTOR: Final = 1.5


class LatePace:
    """The pace, which the thread itself adapts."""

    __slots__ = ("_since", "_worked_s", "every_s")

    def __init__(self) -> None:
        self.every_s = LEAST_S
        """Seconds between two such sweeps at one relay, for now."""
        self._since = 0.0
        self._worked_s = 0.0

    def note(self, worked_s: float, mono: float) -> None:
        """Note that the thread has worked so long without a pause, until now."""
        self._worked_s += worked_s
        passed_s = mono - self._since
        if passed_s < LOOK_EVERY_S:
            return
        share = self._worked_s / passed_s
        if share > BUSY:
            self.every_s = min(MOST_S, FACTOR * self.every_s)
        elif share < CALM:
            self.every_s = max(LEAST_S, self.every_s / FACTOR)
        self._since, self._worked_s = mono, 0.0
