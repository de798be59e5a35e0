"""Backpressure: whether crawlers read on, by how many events wait to be saved and published."""

import threading
from collections.abc import Callable

from pipeline.process.stop import Stop


class Backpressure:
    """Open below the low mark, closed above the high one, as it was between them. Safe in every thread."""

    __slots__ = ("_high", "_low", "_open")

    def __init__(self, high: int, low: int) -> None:
        self._high = high
        self._low = low
        self._open = threading.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether relays may be read from."""
        return self._open.is_set()

    def set_marks(self, high: int, low: int) -> None:
        """Let later updates go by these marks."""
        self._high, self._low = high, low

    def update(self, waiting: int) -> None:
        """Note how many events wait."""
        if waiting > self._high:
            self._open.clear()
        elif waiting < self._low:
            self._open.set()

    def wait(self, stop: Stop, still_wanted: Callable[[], bool]) -> bool:
        """Wait until open; returns whether it is, or is no longer waited for because `stop` or its owner says so."""
        while not self._open.wait(0.5):
            if stop.is_set() or not still_wanted():
                return False
        return True
