"""Whether it is the messages that a topic refuses one by one, or the topic that refuses everything. Pure.

A refusal says "invalid argument" of a bad message and of a topic whose schema fits none, or whose name is wrong. A
topic may begin and cease to refuse everything at any moment, so that a message is at fault only where the topic took
another one between two refusals of it that lie close together.

    refused, first                 alone it is doubted; with others any of them may be at fault
    refused alone, again           at fault if another was taken between, `WITHIN_S` before at most; else doubted
    `MAX_DOUBTED` messages are doubted and nothing was taken since: the topic is down
    taken                          nothing is doubted any more
"""

import math
import threading
from collections.abc import Iterable
from typing import Final

MAX_DOUBTED: Final = 3
"""So many messages refused in a row, each alone, say that it is not the messages."""
WITHIN_S: Final = 3.0
"""A topic that works again and fails again takes longer."""
# Ids that are never offered again are forgotten all at once.
_MOST_REMEMBERED: Final = 50_000


class TopicDoubts:
    """What the refusals of one topic mean; for several threads. Times are monotonic seconds."""

    __slots__ = ("_doubted", "_lock", "_refused_at", "_taken_at")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken_at: float | None = None
        self._doubted: set[bytes] = set()
        self._refused_at: dict[bytes, float] = {}

    def on_success(self, now: float) -> None:
        """The topic took something."""
        with self._lock:
            self._taken_at = now
            self._doubted.clear()

    def on_refusal_together(self, event_ids: Iterable[bytes], now: float) -> None:
        """Messages were refused in one call: any of them may be at fault."""
        with self._lock:
            if len(self._refused_at) >= _MOST_REMEMBERED:
                self._refused_at.clear()
            for event_id in event_ids:
                self._note(event_id, now)

    def _note(self, event_id: bytes, now: float) -> None:
        """Remember the earliest refusal that still counts."""
        if now - self._refused_at.get(event_id, -math.inf) > WITHIN_S:
            self._refused_at[event_id] = now

    def on_refusal(self, event_id: bytes, now: float) -> bool:
        """Return a message was refused alone; return True if it is at fault."""
        with self._lock:
            before = self._refused_at.get(event_id, -math.inf)
            if self._taken_at is not None and before <= self._taken_at and now - before <= WITHIN_S:
                del self._refused_at[event_id]
                return True
            self._note(event_id, now)
            self._doubted.add(event_id)
            return False

    def is_down(self, offered: int) -> bool:
        """Return True if the topic is to be doubted; `offered`: how many messages it was offered together."""
        with self._lock:
            return len(self._doubted) >= (MAX_DOUBTED if self._taken_at is not None else min(MAX_DOUBTED, offered))
