"""What the threads of a stage wait for, and how long they hold the write lock of the database, in its metrics."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Final

from pipeline.process.clock import Clock
from pipeline.process.metrics import Metrics

# A counter of the metrics costs several times what a look at the clock does.
_FLUSH_EVERY_S: Final = 0.5


class WaitReason(StrEnum):
    """What a thread waits for; a metric label."""

    LOCK = "lock"
    """The write lock of the database."""
    WORK = "work"
    """Work of another stage or thread."""
    TIMER = "timer"
    """More to join what has come already."""
    NETWORK = "network"
    """Relays or a sink."""


Waiting = Callable[[WaitReason], AbstractContextManager[None]]
"""What counts the time of a context as waited for a reason."""


def uncounted(_: WaitReason) -> AbstractContextManager[None]:
    """Count nothing."""
    return nullcontext()


class StageTimes:
    """Times of one stage, which all its threads may add to. Several threads may wait at the same time.

    The metrics show them up to half a second later, at the next time that is added.
    """

    __slots__ = ("_clock", "_counted", "_flush_at", "_held", "_held_s", "_lock", "_waited", "_waited_s", "_writes")

    def __init__(self, metrics: Metrics, stage: str, clock: Clock) -> None:
        self._clock = clock
        self._waited = {reason: metrics.stage_waited.labels(stage, reason) for reason in WaitReason}
        self._held = metrics.write_lock_held.labels(stage)
        self._writes = metrics.write_transactions.labels(stage)
        # Not in the metrics yet.
        self._lock = threading.Lock()
        self._waited_s = dict.fromkeys(WaitReason, 0.0)
        self._held_s = 0.0
        self._counted = 0
        self._flush_at = clock.monotonic()

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._clock.monotonic()

    def waiting(self, reason: WaitReason) -> AbstractContextManager[None]:
        """Count the time of the context as waited for `reason`."""
        return _Wait(self, reason)

    def note_wait(self, reason: WaitReason, began_at: float) -> None:
        """Count a wait that ends now."""
        now = self.now()
        with self._lock:
            self._waited_s[reason] += max(0.0, now - began_at)
            self._flush(now)

    def note_write(self, asked_at: float, began_at: float) -> None:
        """Count a transaction that ends now; its thread asked for the lock and got it at these times."""
        now = self.now()
        with self._lock:
            self._waited_s[WaitReason.LOCK] += max(0.0, began_at - asked_at)
            self._held_s += max(0.0, now - began_at)
            self._counted += 1
            self._flush(now)

    def _flush(self, now: float) -> None:
        """Let the metrics show what was added, if that is due; the lock is held."""
        if now < self._flush_at:
            return
        self._flush_at = now + _FLUSH_EVERY_S
        for reason, seconds in self._waited_s.items():
            if seconds:
                self._waited[reason].inc(seconds)
                self._waited_s[reason] = 0.0
        self._held.inc(self._held_s)
        self._writes.inc(self._counted)
        self._held_s, self._counted = 0.0, 0


class _Wait:
    """A wait under way."""

    __slots__ = ("_began_at", "_reason", "_times")

    def __init__(self, times: StageTimes, reason: WaitReason) -> None:
        self._times = times
        self._reason = reason
        self._began_at = 0.0

    def __enter__(self) -> None:
        self._began_at = self._times.now()

    def __exit__(self, *_: object) -> None:
        self._times.note_wait(self._reason, self._began_at)
