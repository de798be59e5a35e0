"""Whether it is the messages that a topic refuses one by one, or the topic that refuses everything. Pure.

A refusal says "invalid argument" of a bad message and of a topic whose schema fits none, or whose name is wrong. It is
put down to the message only once the topic has taken another one since.

    refused alone      the message is doubted; after `MAX_DOUBTED` without a success between, the topic is
    taken              nothing is doubted any more; what was refused before is the fault of those messages
"""

import threading
from typing import Final

MAX_DOUBTED: Final = 3
"""So many messages refused in a row, each alone, say that it is not the messages."""
# A message is remembered until it was refused again after a success; what nobody offers again is forgotten all at once.
_MOST_REMEMBERED: Final = 10_000


class Doubts:
    """What the refusals of one topic mean; for several threads."""

    __slots__ = ("_doubted", "_first_refused", "_lock", "_successes")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._successes = 0
        self._doubted: set[bytes] = set()
        # By message, how many successes there had been when it was first refused.
        self._first_refused: dict[bytes, int] = {}

    @property
    def has_worked(self) -> bool:
        """Whether the topic has ever taken anything."""
        return self._successes > 0

    def on_success(self) -> None:
        """The topic took something."""
        with self._lock:
            self._successes += 1
            self._doubted.clear()

    def on_refusal(self, event_id: bytes) -> bool:
        """A message was refused alone; returns whether it is at fault, since the topic took others meanwhile."""
        with self._lock:
            if len(self._first_refused) >= _MOST_REMEMBERED:
                self._first_refused.clear()
            first = self._first_refused.setdefault(event_id, self._successes)
            if self._successes > first:
                del self._first_refused[event_id]
                return True
            self._doubted.add(event_id)
            return False

    def is_down(self, offered: int) -> bool:
        """Return True if the topic is to be doubted; `offered`: how many messages it was offered together."""
        with self._lock:
            return len(self._doubted) >= (MAX_DOUBTED if self._successes else min(MAX_DOUBTED, offered))
