"""The one flag that ends a process, awaited by everything in it that waits."""

import os
import threading
import weakref


class Stop:
    """Set once and never cleared; any thread may set it or wait on it.

    Signal handlers must not set it (its lock is not re-entrant): `signals.py` does that from a thread.
    """

    __slots__ = ("__weakref__", "_descriptor", "_event", "_lock", "_reason")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._reason = ""

    def set(self, reason: str = "") -> None:
        """End the process's work; the first caller's `reason` is kept, later calls change nothing."""
        with self._lock:
            if self._event.is_set():
                return
            self._reason = reason
            self._event.set()
            if self._descriptor is not None:
                os.eventfd_write(self._descriptor, 1)

    def is_set(self) -> bool:
        """Return True if the work must end."""
        return self._event.is_set()

    @property
    def reason(self) -> str:
        """Why it was set; empty before that."""
        return self._reason

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until set or for `timeout_s` seconds (`None`: for ever); return True if it is set."""
        return self._event.wait(timeout_s)

    def fileno(self) -> int:
        """Return a descriptor that is readable once this is set, for selectors; owned by this object, never read."""
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.eventfd(int(self._event.is_set()), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                weakref.finalize(self, os.close, self._descriptor)
            return self._descriptor
