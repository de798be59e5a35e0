"""Which of a plan's late queries are looked at next for what is due. Pure; times are monotonic seconds.

A crowd brings hundreds of queries, and a relay answers several times a second. So that each answer costs what a few
queries do, late ones are looked at some at a time, in turns. Once all were looked at since something happened, none is
until the first of them comes due.
"""

import math
from collections.abc import Sequence
from typing import Final

from pipeline.crawl.sync.query import Query

# How many are looked at together: about half a millisecond's worth.
AT_ONCE: Final = 100
# Between two looks while there are some that were not looked at, or that are due and could not begin.
LOOK_EVERY_S: Final = 0.25


class LateQueries:
    """The turns of one relay's late queries."""

    __slots__ = ("_due_at", "_left", "_next", "_queries")

    def __init__(self) -> None:
        self._queries: Sequence[Query] = ()
        # Where the turn is, and how many are to be looked at from there on.
        self._next = 0
        self._left = 0
        # When the first of those that were looked at comes due.
        self._due_at = math.inf

    def follow(self, queries: Sequence[Query]) -> None:
        """Look at these `queries` from now on."""
        if queries is not self._queries:
            self._queries = queries
            self.look_again()

    def look_again(self) -> None:
        """Look at all of them once more: something happened that may have made any of them due."""
        self._left, self._due_at = len(self._queries), math.inf

    def take(self, mono: float) -> list[Query]:
        """Return those that are to be looked at now; the caller says of each by `note` when it comes due."""
        if not self._left and mono >= self._due_at:
            self.look_again()
        count = min(self._left, AT_ONCE)
        began = self._next % max(1, len(self._queries))
        taken = [*self._queries[began : began + count]]
        taken += self._queries[: count - len(taken)]
        self._next, self._left = began + count, self._left - count
        return taken

    def note(self, due_at: float) -> None:
        """Note that one which was taken comes due at a time, unless something happens before."""
        self._due_at = min(self._due_at, due_at)

    def next_time(self, mono: float) -> float:
        """Return when `take` is to be called again at the latest."""
        at = mono if self._left else self._due_at
        return max(at, mono + LOOK_EVERY_S)
