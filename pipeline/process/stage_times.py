"""What the threads of a stage wait for, and how long they hold the write lock of the database, in its metrics."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum

from pipeline.process.clock import Clock
from pipeline.process.metrics import Metrics


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
    """Times of one stage, which all its threads may add to. Several threads may wait at the same time."""

    __slots__ = ("_clock", "_held", "_waited", "_writes")

    def __init__(self, metrics: Metrics, stage: str, clock: Clock) -> None:
        self._clock = clock
        self._waited = {reason: metrics.stage_waited.labels(stage, reason) for reason in WaitReason}
        self._held = metrics.write_lock_held.labels(stage)
        self._writes = metrics.write_transactions.labels(stage)

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._clock.monotonic()

    @contextmanager
    def waiting(self, reason: WaitReason) -> Iterator[None]:
        """Count the time until the end of this context as waited for `reason`."""
        began = self.now()
        try:
            yield
        finally:
            self._waited[reason].inc(max(0.0, self.now() - began))

    def note_write(self, asked_at: float, began_at: float) -> None:
        """Count a transaction that ends now; its thread asked for the lock and got it at these times."""
        self._waited[WaitReason.LOCK].inc(max(0.0, began_at - asked_at))
        self._held.inc(max(0.0, self.now() - began_at))
        self._writes.inc()
