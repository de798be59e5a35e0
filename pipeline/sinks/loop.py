"""What the loops of all sinks share: what is said of a sink that is down, and how long it is left alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.process.backoff import Backoff
from pipeline.process.stop import Stop
from pipeline.sinks.base import SinkDown
from pipeline.sinks.ledger import Ledger
from pipeline.sinks.outage import Outage

# Asking costs next to nothing, and for as long as nobody asks the backlog waits, and health tells of what is over.
_PATIENCE: Final = Backoff(base_s=1.0, factor=2.0, cap_s=5.0, jitter=0.3)


@dataclass(slots=True)
class SinkLoop:
    """One thread's loop for one sink, whose rows are in `ledger`; `beat` is called while it waits."""

    ledger: Ledger
    outage: Outage
    stop: Stop
    beat: Callable[[], None]

    def trouble(self) -> str:
        """What an operator should know of the sink now; empty when nothing."""
        return self.outage.trouble(self.now())

    def now(self) -> float:
        """Monotonic seconds."""
        return self.ledger.clock.monotonic()

    def note_down(self, error: SinkDown, waiting: int) -> float:
        """Say that the sink is down while so many rows are held; returns for how many seconds to leave it alone."""
        ledger = self.ledger
        wait_s = _PATIENCE.delay_s(self.outage.failures, ledger.rng)
        ledger.metrics.stage_errors.labels(ledger.stage, error.reason).inc()
        ledger.log.error(
            error.reason,
            "sink is down",
            sink=ledger.name,
            reason=error.reason,
            detail=error.detail,
            advice=error.advice,
            waiting=waiting,
            retry_in_s=round(wait_s, 1),
        )
        return wait_s

    def leave_alone(self, seconds: float) -> None:
        """Wait for so long, or until stopped."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0 and not self.stop.wait(min(left, 1.0)):
            self.beat()
