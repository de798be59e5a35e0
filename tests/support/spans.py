"""Spans as they are recorded, kept for a look."""

from collections.abc import Sequence
from typing import Final

from pipeline.process.clock import ManualClock
from pipeline.process.event_span import EventSpan
from pipeline.process.logs import RateLimitedLogger, get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.trace_context import TraceSample
from pipeline.process.tracing import EventTracer

_PATIENCE_S: Final = 60.0


class _Kept:
    def __init__(self) -> None:
        self.spans: list[EventSpan] = []

    def export(self, spans: Sequence[EventSpan]) -> bool:
        self.spans += spans
        return True

    def close(self) -> None:
        """Nothing to close."""


class Recorder:
    """A tracer of a share of the events; `finish` returns what it was given."""

    def __init__(self, share: float = 1.0) -> None:
        self._kept = _Kept()
        log = RateLimitedLogger(get_logger("test"), ManualClock())
        self.tracer = EventTracer(TraceSample(share), self._kept, Metrics(), log, linger_s=0.0)

    def finish(self) -> list[EventSpan]:
        self.tracer.close(_PATIENCE_S)
        return self._kept.spans
