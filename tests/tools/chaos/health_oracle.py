"""Whether health tells the truth of the sinks: that one is down, and that it is not, each within seconds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from tests.tools.chaos.cpu_delay import CompensatedClock

TRUTH_WITHIN_S = 10.0
"""Health says how things stand once they have stood like that for so long, by the compensated clock."""
UNTRUE_LOOKS = 3
"""Health is wrong when it says the wrong thing so many times running."""


class SinkStatus(Enum):
    """How a sink is treated by the run."""

    WELL = "well"
    DOWN = "down"
    ODD = "odd"
    """It does some of what it should: nobody's guess what is to be said of it."""


@dataclass(frozen=True, slots=True)
class SinkState:
    """How a sink stands since when, in monotonic seconds."""

    standing: SinkStatus
    since: float


@dataclass(slots=True)
class HealthReport:
    """How often outages were told of, and after how many fair seconds at most; the same of their ends."""

    outages: int = 0
    told_after_s: float = 0.0
    ends: int = 0
    ended_after_s: float = 0.0


@dataclass(slots=True)
class SinkHealthChecker:
    """Holds what health says of `sink` against how it stands; for one thread."""

    sink: str
    clock: CompensatedClock
    violated: Callable[[str], None]
    telling: HealthReport = field(default_factory=HealthReport)
    _state: SinkState = field(default_factory=lambda: SinkState(SinkStatus.WELL, -math.inf))
    _told: bool = True
    _was_told: bool = False
    _untrue: int = 0
    _offered_since: float = math.inf

    def look(self, now: float, state: SinkState, settled_since: float, offered: bool, body: str) -> None:
        """One answer of health: `body`, asked for at `now`.

        `settled_since`: since when nothing but the sinks can be wrong. `offered`: whether the sink's stage has events
        for it, without which it cannot know.
        """
        if state is not self._state:
            self._was_told = self._told and self._state.standing is SinkStatus.DOWN
            self._state, self._told, self._untrue, self._offered_since = state, False, 0, math.inf
        self._offered_since = min(self._offered_since, now) if offered else math.inf
        is_down = state.standing is SinkStatus.DOWN
        if state.standing is SinkStatus.ODD or settled_since == math.inf:
            return
        if (f"sink {self.sink} " in body) == is_down:
            self._untrue = 0
            self._note(self.clock.between(state.since, now), is_down)
            return
        since = max(state.since, settled_since, self._offered_since if is_down else -math.inf)
        if since == math.inf or self.clock.between(since, now) < TRUTH_WITHIN_S:
            return
        self._untrue += 1
        if self._untrue == UNTRUE_LOOKS:
            fair_s = round(self.clock.between(since, now))
            self.violated(
                f"/_health says {body[:1000]} although sink {self.sink} is {state.standing.value} for {fair_s} s"
            )

    def _note(self, after_s: float, is_down: bool) -> None:
        if self._told:
            return
        self._told = True
        if is_down:
            self.telling.outages += 1
            self.telling.told_after_s = max(self.telling.told_after_s, after_s)
        elif self._was_told:
            self.telling.ends += 1
            self.telling.ended_after_s = max(self.telling.ended_after_s, after_s)
