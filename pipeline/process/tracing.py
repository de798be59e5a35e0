"""Spans of sampled events on their way to a collector, which no stage ever waits for.

A span that is recorded goes into a bounded queue. One thread, made when a stage begins and so never in a process that
forks, takes batches from it and exports them. Where the collector is slow, away or silent, spans are dropped and
counted; a stage that stops gives the exporter `FLUSH_S` and leaves it behind if it has not ended by then.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from pipeline.errors import CannotStart
from pipeline.process.event_span import EventSpan
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.process.trace_context import TraceSample

# Some 2 MB.
MAX_QUEUED: Final = 2_048
MAX_BATCH: Final = 512
# How long a batch waits for more spans.
LINGER_S: Final = 1.0
# A small part of what the supervisor gives its stages to stop.
FLUSH_S: Final = 3.0


class SpanExporter(Protocol):
    """What sends spans to a collector; used by one thread, but for `close`."""

    def export(self, spans: Sequence[EventSpan]) -> bool:
        """Send `spans`; return False if the collector did not take them."""
        ...

    def close(self) -> None:
        """Let an `export` in another thread end soon, if it can."""
        ...


class EventTracer:
    """Queue of spans before an exporter; every method may be called in every thread."""

    def __init__(
        self, sample: TraceSample, exporter: SpanExporter, metrics: Metrics, log: RateLimitedLogger,
        linger_s: float = LINGER_S,
    ) -> None:  # fmt: skip
        self.sample = sample
        self._exporter = exporter
        self._metrics = metrics
        self._log = log
        self._linger_s = linger_s
        self._queue: deque[EventSpan] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        # Taken from the queue and not counted yet.
        self._under_way = 0
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def record(self, span: EventSpan) -> None:
        """Queue `span`, or drop it when the queue is full."""
        with self._changed:
            if len(self._queue) >= MAX_QUEUED:
                self._drop("queue-full", 1)
                return
            self._queue.append(span)
            self._changed.notify()

    def close(self, within_s: float = FLUSH_S) -> None:
        """Export what is queued, for `within_s` at most, and drop the rest."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(within_s)
        with self._changed:
            self._drop("stopped", len(self._queue) + self._under_way)
            self._queue.clear()
            self._under_way = 0
        self._exporter.close()

    def _run(self) -> None:
        while batch := self._next():
            reason = self._export(batch)
            with self._changed:
                # What `close` has left behind is counted already.
                if self._under_way and reason is None:
                    self._metrics.trace_spans_exported.inc(len(batch))
                elif self._under_way and reason is not None:
                    self._drop(reason, len(batch))
                self._under_way = 0

    def _next(self) -> list[EventSpan]:
        """Wait for spans and return a batch; return [] when closed and none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closing)
            self._changed.wait_for(lambda: len(self._queue) >= MAX_BATCH or self._is_closing, self._linger_s)
            batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
            self._under_way = len(batch)
        return batch

    def _export(self, batch: Sequence[EventSpan]) -> str | None:
        """Return why the batch is dropped, None if the collector has it; no error of an exporter ends a stage."""
        try:
            return None if self._exporter.export(batch) else "export-failed"
        except Exception as error:
            kind = type(error).__name__
            self._log.error(kind, "spans not exported", reason=f"{kind}: {error}"[:200])
            return "export-failed"

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self._metrics.trace_spans_dropped.labels(reason).inc(count)


def otlp_exporter(slot: Slot) -> SpanExporter:
    """Return what exports the spans of the process in `slot`. Raises `CannotStart` if it cannot be made."""
    try:
        from pipeline.process.otlp import OtlpExporter  # noqa: PLC0415  # 12 MB, for those who want it
    except ImportError:
        raise CannotStart("EVENTS_TRACE_SAMPLE needs OpenTelemetry: pip install 'event-service[tracing]'") from None
    return OtlpExporter(slot)


@contextmanager
def tracing(
    share: float, exporter: Callable[[], SpanExporter], metrics: Metrics, log: RateLimitedLogger
) -> Iterator[EventTracer | None]:
    """Yield what takes the spans of this share of the events, None for a share of 0; it is closed at the end."""
    sample = TraceSample(share)
    if not sample:
        yield None
        return
    tracer = EventTracer(sample, exporter(), metrics, log)
    try:
        yield tracer
    finally:
        tracer.close()
