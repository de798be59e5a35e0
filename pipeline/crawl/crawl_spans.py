"""Spans of what a crawler does with sampled events: read, verified, appended to the inbox."""

from collections.abc import Iterable

from pipeline.process.event_span import EventSpan
from pipeline.process.trace_context import CRAWL
from pipeline.process.tracing import EventTracer
from pipeline.store.inbox import Arrival


def record_crawled(tracer: EventTracer, appended: Iterable[Arrival], verified_at: int, ended: int) -> None:
    """Record the crawl of those of `appended` that are sampled; all were verified at `verified_at` (ms)."""
    for arrival in appended:
        if arrival.event_id in tracer.sample:
            bytes_ = ("nostr.event.bytes", len(arrival.raw))
            marks = (("verified", verified_at),)
            tracer.record(EventSpan(arrival.event_id, CRAWL, arrival.received_at, ended, (bytes_,), marks))
