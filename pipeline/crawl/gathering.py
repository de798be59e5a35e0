"""When to look again at what many relays send: a look costs as much as several events."""

from collections.abc import Sequence
from typing import Final

# What relays send in so long is looked at once, and goes on its way together.
GATHER_S: Final = 0.04
# What comes of an answer is looked at sooner, since the next question waits for its end.
GATHER_ASKING_S: Final = 0.01
# So few messages in that time are looked at one by one.
FEW_MESSAGES: Final = 8
# A relay that sent so many at once has more.
MANY_MESSAGES: Final = 32


class Gathering:
    """Times are monotonic seconds. The looks of all processes fall together, so that what follows them does too."""

    __slots__ = ("_before", "_count", "_slice")

    def __init__(self) -> None:
        self._slice = 0
        self._count = 0
        self._before = 0

    def next_look(self, now: float, messages: Sequence[int], *, is_asking: bool) -> float:
        """When to look again after a look that brought so many from each relay; `is_asking`: one has more to answer."""
        current = int(now / GATHER_S)
        if current != self._slice:
            self._before = self._count if current == self._slice + 1 else 0
            self._slice, self._count = current, 0
        self._count += sum(messages)
        if max(self._count, self._before) <= FEW_MESSAGES or max(messages) >= MANY_MESSAGES:
            return now
        end = (current + 1) * GATHER_S
        return min(end, now + GATHER_ASKING_S) if is_asking else end
