"""The time that an operation of several steps may take as a whole."""

from collections.abc import Callable

from pipeline.process.clock import Clock
from pipeline.relay.errors import DialError, DialReason

# How long a dial waits at a stretch, and so how late it notices that it was cancelled.
WAIT_SLICE_S = 0.25


class Deadline:
    """A moment `seconds` from now on `clock`'s monotonic time."""

    __slots__ = ("_at", "_clock")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; 0.0 when none are."""
        return max(0.0, self._at - self._clock.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the moment has come."""
        return self._clock.monotonic() >= self._at

    def within(self, seconds: float) -> "Deadline":
        """The same, at the latest `seconds` from now."""
        return Deadline(self._clock, min(self.remaining(), seconds))

    def share(self, parts: int) -> "Deadline":
        """A deadline after one of `parts` equal parts of the time left."""
        return Deadline(self._clock, self.remaining() / parts)


class AttemptDeadline:
    """One dial's deadline, and whether the dial is still wanted; `cancelled` is asked from the dialling thread."""

    __slots__ = ("_cancelled", "_deadline")

    def __init__(self, deadline: Deadline, cancelled: Callable[[], bool]) -> None:
        self._deadline = deadline
        self._cancelled = cancelled

    def check(self, doing: str) -> None:
        """Raise `DialError` if the dial is not wanted any more; to be called before the other side hears of it."""
        if self._cancelled():
            raise DialError(DialReason.CANCELLED, doing)

    def wait_s(self, doing: str) -> float:
        """Seconds to wait before asking again, above 0; raises `DialError` once there is no reason to wait."""
        self.check(doing)
        remaining = self._deadline.remaining()
        if remaining <= 0.0:
            raise DialError(DialReason.TIMEOUT, doing)
        return min(remaining, WAIT_SLICE_S)

    def share(self, parts: int) -> "AttemptDeadline":
        """The same with one of `parts` equal parts of the time left."""
        return AttemptDeadline(self._deadline.share(parts), self._cancelled)

    def within(self, seconds: float) -> "AttemptDeadline":
        """The same, at the latest `seconds` from now."""
        return AttemptDeadline(self._deadline.within(seconds), self._cancelled)
