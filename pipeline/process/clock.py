"""Time as the rest of the program sees it: the only module that reads a clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where a component gets the time from; tests pass one that they move by hand."""

    def now_ms(self) -> int:
        """Wall-clock time in integer milliseconds since the Unix epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for durations and deadlines within this process."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test moves it."""

    __slots__ = ("_monotonic", "_now_ms")

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return self._now_ms

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks."""
        self._now_ms += round(seconds * 1000)
        self._monotonic += seconds


def since_boot_s() -> float:
    """Seconds since the machine was started, sleep included; needs no look at /proc, which may be hidden."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def pause(seconds: float) -> None:
    """Block this thread for a moment; only for waits that nothing need cut short, such as for a busy database."""
    if seconds > 0:
        time.sleep(seconds)


def until_next(every_s: float) -> float:
    """Seconds until the monotonic clock, which all processes of a machine share, is at a whole multiple of `every_s`.

    What several processes do at such times falls together, so that who follows them finds all of it at once.
    """
    return every_s - time.monotonic() % every_s
