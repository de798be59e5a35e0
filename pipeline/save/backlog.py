"""The bound of what waits for the target relay: beyond it the oldest is given up, since what is new replaces it anyhow.

A relay that is away for weeks would fill the disk else. Pub/Sub needs no such bound: crawling pauses for it.
"""

from collections.abc import Callable
from typing import Final

from pipeline.store import outbox
from pipeline.store.database import Tx
from pipeline.store.outbox import SinkName

REASON: Final = "backlog-full"
"""Why an event is given up; a metric label."""
OUTCOME: Final = "given up: backlog full"
"""The same where the event's fate is told."""

# Counting a million rows takes some 20 ms. While there is no room it is done as often as this, since the relay may take
# events again; until it is, so many may be given up without need.
RECOUNT_MS: Final = 10_000
RECOUNT_ROWS: Final = 1_000
# More at once would hold the write lock for long; a bound that was lowered is reached step by step.
STEP: Final = 1_000


class Backlog:
    """Keeps the outbox of the target relay to `most()` rows, which may change; 0: no bound. For one thread.

    Rows that the sender holds are not touched, so that there may be some hundred more.
    """

    __slots__ = ("_counted_at", "_counted_for", "_given_up", "_most", "_room")

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._room = self._counted_at = self._given_up = 0
        self._counted_for: int | None = None

    def make_room(self, tx: Tx, count: int, now: int) -> int:
        """Let `count` rows be appended in this transaction; returns how many others were given up for them."""
        most = self._most()
        if not most or not count:
            return 0
        if most != self._counted_for or (count > self._room and self._is_due(now)):
            waiting = outbox.waiting(tx, SinkName.RELAY, most + STEP)
            self._room = most - waiting
            # Of what is more than a step too many nobody knows yet how many there are.
            self._counted_for = most if waiting < most + STEP else None
            self._counted_at, self._given_up = now, 0
        given_up = 0
        if count > self._room:
            given_up = outbox.give_up_oldest(tx, SinkName.RELAY, min(count - self._room, STEP), OUTCOME, now)
        self._given_up += given_up
        self._room += given_up - count
        return given_up

    def forget(self) -> None:
        """Count anew; the last transaction was rolled back."""
        self._counted_for = None

    def _is_due(self, now: int) -> bool:
        return now - self._counted_at >= RECOUNT_MS or self._given_up >= RECOUNT_ROWS
