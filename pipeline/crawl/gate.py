"""Backpressure: whether crawlers read on, by how many events wait to be saved and published."""

import threading


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

    def wait(self, timeout_s: float) -> bool:
        """Wait until open, `timeout_s` at most; returns whether it is."""
        return self._open.wait(timeout_s)
