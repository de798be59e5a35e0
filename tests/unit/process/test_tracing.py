"""Spans wait in a bounded queue, and no exporter holds up or ends the stage."""

import threading
from collections.abc import Sequence
from typing import Final

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.event_span import EventSpan
from pipeline.process.logs import RateLimitedLogger, get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.trace_context import CRAWL, TraceSample
from pipeline.process.tracing import MAX_BATCH, MAX_QUEUED, EventTracer, tracing

PATIENCE_S: Final = 60.0
LOG: Final = RateLimitedLogger(get_logger("test"), ManualClock())


def span(number: int = 1) -> EventSpan:
    return EventSpan(number.to_bytes(32), CRAWL, 1, 2)


class Exporter:
    """One that takes what it is given once it may, or fails as it is told."""

    def __init__(self, *, answer: bool | Exception = True) -> None:
        self.spans: list[EventSpan] = []
        self.batches: list[int] = []
        self.may_go = threading.Event()
        self.has_begun = threading.Event()
        self.is_closed = threading.Event()
        self.answer = answer

    def export(self, spans: Sequence[EventSpan]) -> bool:
        self.has_begun.set()
        assert self.may_go.wait(PATIENCE_S)
        if isinstance(self.answer, Exception):
            raise self.answer
        self.spans += spans
        self.batches.append(len(spans))
        return self.answer

    def close(self) -> None:
        self.is_closed.set()


class Traced:
    """A tracer before such an exporter, and what is counted."""

    def __init__(self, exporter: Exporter, linger_s: float = 0.0) -> None:
        self.exporter, self.metrics = exporter, Metrics()
        self.tracer = EventTracer(TraceSample(1), exporter, self.metrics, LOG, linger_s)

    def exported(self) -> float:
        return self.metrics.registry.get_sample_value("event_service_trace_spans_exported_total") or 0

    def dropped(self, reason: str) -> float:
        name = "event_service_trace_spans_dropped_total"
        return self.metrics.registry.get_sample_value(name, {"reason": reason}) or 0


def test_spans_are_exported_in_order() -> None:
    traced = Traced(Exporter())
    traced.exporter.may_go.set()
    sent = [span(number) for number in range(1, 2 * MAX_BATCH)]
    for each in sent:
        traced.tracer.record(each)
    traced.tracer.close(PATIENCE_S)
    assert traced.exporter.spans == sent
    assert max(traced.exporter.batches) <= MAX_BATCH
    assert traced.exported() == len(sent)
    assert traced.exporter.is_closed.is_set()


def test_close_ends_the_wait_for_a_fuller_batch() -> None:
    traced = Traced(Exporter(), linger_s=10 * PATIENCE_S)
    traced.exporter.may_go.set()
    traced.tracer.record(span())
    traced.tracer.close(PATIENCE_S)
    assert traced.exporter.spans == [span()]


def test_full_queue_drops_and_counts_and_never_waits() -> None:
    traced = Traced(Exporter())
    traced.tracer.record(span())
    assert traced.exporter.has_begun.wait(PATIENCE_S)
    for number in range(MAX_QUEUED + 7):
        traced.tracer.record(span(number))
    assert traced.dropped("queue-full") == 7
    traced.exporter.may_go.set()
    traced.tracer.close(PATIENCE_S)
    assert traced.exported() == 1 + MAX_QUEUED


def test_exporter_that_hangs_is_left_behind_and_counted_once() -> None:
    traced = Traced(Exporter())
    traced.tracer.record(span())
    assert traced.exporter.has_begun.wait(PATIENCE_S)
    traced.tracer.record(span(2))
    traced.tracer.close(0.0)
    assert traced.dropped("stopped") == 2
    assert traced.exporter.is_closed.is_set()
    traced.exporter.may_go.set()
    traced.tracer.close(PATIENCE_S)
    assert (traced.exported(), traced.dropped("stopped")) == (0, 2)


@pytest.mark.parametrize("answer", [False, RuntimeError("boom"), OSError("no route")])
def test_exporter_that_fails_costs_its_batch_alone(answer: bool | Exception) -> None:
    traced = Traced(Exporter(answer=answer))
    traced.exporter.may_go.set()
    traced.tracer.record(span())
    traced.tracer.close(PATIENCE_S)
    assert traced.dropped("export-failed") == 1
    again = Traced(Exporter(answer=answer))
    again.tracer.record(span())
    assert again.exporter.has_begun.wait(PATIENCE_S)
    again.tracer.record(span(2))
    again.exporter.may_go.set()
    again.tracer.close(PATIENCE_S)
    assert again.dropped("export-failed") == 2, "the thread goes on after a failure"


def test_share_of_none_makes_no_exporter_and_no_thread() -> None:
    def exporter() -> Exporter:
        raise AssertionError("made without need")

    with tracing(0.0, exporter, Metrics(), LOG) as tracer:
        assert tracer is None
    assert not [thread for thread in threading.enumerate() if thread.name == "spans"]


def test_end_of_the_stage_closes_the_tracer() -> None:
    exporter = Exporter()

    def work() -> None:
        with tracing(1.0, lambda: exporter, Metrics(), LOG) as tracer:
            assert tracer is not None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert exporter.is_closed.is_set()
