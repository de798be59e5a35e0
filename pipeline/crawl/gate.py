"""Backpressure: whether crawlers read on, by how many events wait to be saved and published, and by their bytes."""

import threading
from dataclasses import dataclass
from typing import Final

from pipeline.store.lease import QueueSize

# The low mark of the bytes is this part of the high one, as the usual marks of the events are to each other.
_LOW_PART: Final = 0.75


@dataclass(frozen=True, slots=True)
class Marks:
    """`high`, `low`: events that wait, above and below which it closes and opens; `bytes`: above which it closes."""

    high: int
    low: int
    bytes: int


class Backpressure:
    """Open below the low marks, closed above a high one, as it was between them. Safe in every thread."""

    __slots__ = ("_marks", "_open")

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._open = threading.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether relays may be read from."""
        return self._open.is_set()

    def set_marks(self, marks: Marks) -> None:
        """Let later updates go by these marks."""
        self._marks = marks

    def update(self, waiting: QueueSize) -> None:
        """Note how much waits."""
        marks = self._marks
        if waiting.events > marks.high or waiting.bytes > marks.bytes:
            self._open.clear()
        elif waiting.events < marks.low and waiting.bytes < _LOW_PART * marks.bytes:
            self._open.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until open, `timeout_s` at most; returns whether it is."""
        return self._open.wait(timeout_s)
