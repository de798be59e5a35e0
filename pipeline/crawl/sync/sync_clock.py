"""What one relay's crawl knows of time: when it was last looked at, since when it is connected, how long it was away.

Pure; `mono` is monotonic seconds, `wall` Unix seconds, by a clock that may be set.
"""

from enum import Enum, auto
from typing import Final

from pipeline.crawl.sync.sweep import FUTURE_S

# A wall clock that gains so much on the monotonic one was set.
CLOCK_JUMP_S: Final = 60.0
# Later than any time that a clock shows.
_NEVER: Final = 1 << 62


class ClockChange(Enum):
    """What became of the wall clock since the last look."""

    NONE = auto()
    BACK = auto()
    """It was set back."""
    FAR_BACK = auto()
    """It was set back by more than events may be dated ahead, or this is the first look."""
    FORWARD = auto()


class SyncClock:
    """The times of one relay's crawl, over all its connections."""

    __slots__ = ("_away_since", "_is_back", "connected_at", "mono", "wall")

    def __init__(self) -> None:
        self.mono = 0.0
        """When it was last looked at."""
        self.wall = _NEVER
        self.connected_at: int | None = None
        """When (Unix seconds) the connection came to be asked."""
        # Until when it was surely connected, as long as it is not known when it came back.
        self._away_since: int | None = None
        self._is_back = False

    def on_connected(self) -> None:
        """A new connection stands."""
        self.connected_at = None
        self._is_back = True
        self._away_since = None if self.wall == _NEVER else self.wall

    def follow(self, mono: float, wall: int) -> ClockChange:
        """Take the time of a look."""
        gained = (wall - self.wall) - (mono - self.mono)
        change = ClockChange.NONE
        if wall < self.wall:
            change = ClockChange.FAR_BACK if gained < -FUTURE_S else ClockChange.BACK
        elif gained > CLOCK_JUMP_S:
            change = ClockChange.FORWARD
        self.wall, self.mono = wall, mono
        if self.connected_at is None:
            self.connected_at = wall
        return change

    def take_return(self) -> bool:
        """Return True once for each connection."""
        is_back, self._is_back = self._is_back, False
        return is_back

    @property
    def away_since(self) -> int | None:
        """Since when (Unix seconds) it was away before this connection; None if this process does not know it."""
        return self._away_since
