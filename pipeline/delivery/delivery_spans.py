"""Spans of deliveries of sampled events, and the trace context by which a consumer continues them."""

from pipeline.delivery.unsettled import Settlement
from pipeline.process.event_span import EventSpan
from pipeline.process.trace_context import deliver, traceparent
from pipeline.process.tracing import EventTracer
from pipeline.sinks.base import Refused, Retry
from pipeline.store.outbox import OutboxRow


def context_of(tracer: EventTracer | None, row: OutboxRow, sink: str) -> str:
    """Return the trace context of the delivery of `row` to `sink`; empty if its event is not sampled."""
    if tracer is None or row.event_id not in tracer.sample:
        return ""
    return traceparent(row.event_id, deliver(sink))


def record_delivered(tracer: EventTracer, settlement: Settlement, sink: str) -> None:
    """Record deliveries of sampled events from their claim to the answer of the sink.

    One that is to be retried has no span yet: it has the id of the one that is settled in the end.
    """
    for row, verdict in settlement.verdicts:
        if row.event_id in tracer.sample and not isinstance(verdict, Retry):
            attributes: list[tuple[str, str | int]] = [
                ("event_service.sink", sink),
                ("event_service.claims", row.receipt.claims),
            ]
            if row.address:
                attributes.append(("nostr.relay", row.address))
            error = f"refused: {verdict.reason}" if isinstance(verdict, Refused) else ""
            span = EventSpan(
                row.event_id, deliver(sink), row.claimed_at, settlement.at_ms, tuple(attributes), error=error
            )
            tracer.record(span)
