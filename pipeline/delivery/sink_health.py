"""Health of a sink, as its calls show it, and the base of the workers that stop and wait by it.

`SinkHealth` is pure; its times are monotonic seconds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pipeline.delivery.outbox_client import OutboxClient
from pipeline.process.backoff import Backoff
from pipeline.process.stop import Stop
from pipeline.sinks.base import SinkDown

# A try costs next to nothing. Until the next one the backlog waits, and health reports a problem that may be over.
_PATIENCE: Final = Backoff(base_s=1.0, factor=2.0, cap_s=5.0, jitter=0.3)
LASTING_S: Final = 5.0
"""A shorter outage that the operator cannot end is not reported."""


@dataclass(slots=True)
class LastAnswer:
    """Time of the sink's last answer to any of the workers that share this."""

    latest_s: float = -math.inf


@dataclass(slots=True)
class SinkHealth:
    """Health of the sink `name` by the calls of one worker, and by the answers that other workers had."""

    name: str
    last_answer: LastAnswer = field(default_factory=LastAnswer)
    failures: int = 0
    """Consecutive failed calls."""
    _calling_since_s: float | None = None
    _failing_since_s: float = math.inf
    _message: str = ""
    _needs_operator: bool = False

    def on_call(self, now_s: float) -> None:
        """A call begins."""
        self._calling_since_s = now_s

    def on_activity(self, now_s: float) -> None:
        """The sink answered within the call, or has nothing to answer yet."""
        self._calling_since_s = self.last_answer.latest_s = now_s

    def on_success(self, now_s: float) -> None:
        """The call ended and the sink is not down."""
        self.last_answer.latest_s = now_s
        self.reset()

    def on_failure(self, error: SinkDown, now_s: float) -> None:
        """The call failed. While an outage lasts, its message stays the same, and so keeps its age."""
        if not self.failures:
            self._failing_since_s = now_s if self._calling_since_s is None else self._calling_since_s
        self.failures += 1
        self._calling_since_s = None
        self._needs_operator = bool(error.advice)
        what = f"sink {self.name} is down: {error.reason}"
        if not self._message.startswith(what):
            self._message = f"{what}: {error.advice or error.detail}"

    def reset(self) -> None:
        """Forget the call: nothing is offered, so nothing is known."""
        self.failures = 0
        self._calling_since_s, self._failing_since_s = None, math.inf
        self._message, self._needs_operator = "", False

    def problem(self, now_s: float) -> str:
        """Return the problem for the operator; empty while the sink works or may soon recover by itself."""
        if self._message and (self._needs_operator or self._lasts(self._failing_since_s, now_s)):
            return self._message
        if self._calling_since_s is not None and self._lasts(self._calling_since_s, now_s):
            return f"sink {self.name} does not answer"
        return ""

    def _lasts(self, since_s: float, now_s: float) -> bool:
        return now_s - max(since_s, self.last_answer.latest_s) >= LASTING_S


@dataclass(slots=True)
class SinkWorker:
    """Loop of one thread for one sink, whose rows it has from `client`; `beat` is called while it waits."""

    client: OutboxClient
    health: SinkHealth
    stop: Stop
    beat: Callable[[], None]

    def problem(self) -> str:
        """Return the sink's problem for the operator; empty if there is none."""
        return self.health.problem(self.now())

    def now(self) -> float:
        """Return monotonic seconds."""
        return self.client.clock.monotonic()

    def report_down(self, error: SinkDown, waiting: int) -> float:
        """Log and count that the sink is down while `waiting` rows are held; return the seconds until the next try."""
        client = self.client
        wait_s = _PATIENCE.delay_s(self.health.failures, client.rng)
        client.metrics.stage_errors.labels(client.stage, error.reason).inc()
        client.log.error(
            error.reason,
            "sink is down",
            sink=client.name,
            reason=error.reason,
            detail=error.detail,
            advice=error.advice,
            waiting=waiting,
            retry_in_s=round(wait_s, 1),
        )
        return wait_s

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until stopped."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0 and not self.stop.wait(min(left, 1.0)):
            self.beat()
