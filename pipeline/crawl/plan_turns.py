"""In which order the connections of a process follow a new plan. Pure.

A plan of many queries costs each connection some ten milliseconds of the one thread that reads from all of them. All at
once they would delay that reading, and a crowd that registers makes several such plans a second. So they take turns,
and a connection that waits follows the newest plan when its turn comes.
"""

from collections.abc import Iterable
from typing import Final

# A plan of so few queries is followed by all connections at once.
FEW_QUERIES: Final = 20
# All have had their turn after so many calls of `take`, however many plans came since.
ROUNDS: Final = 20


class PlanTurns:
    """The connections that follow an older plan than the newest, the one that waits for the longest first."""

    __slots__ = ("_most", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[int, None] = {}
        # How many have to take their turn at once for the last to have its own in time.
        self._most = 0

    def add(self, relays: Iterable[int]) -> None:
        """Note that there is a newer plan for `relays`; those that wait keep their places."""
        for relay in relays:
            self._waiting.setdefault(relay)
        self._most = -(-len(self._waiting) // ROUNDS)

    @property
    def are_over(self) -> bool:
        """Whether all connections follow the newest plan."""
        return not self._waiting

    def take(self, queries: int) -> list[int]:
        """Return the relays whose turn it is to follow a plan of so many `queries`."""
        most = len(self._waiting) if queries <= FEW_QUERIES else self._most
        taken = list(self._waiting)[:most]
        for relay in taken:
            del self._waiting[relay]
        return taken
