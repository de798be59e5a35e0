"""Spans of what the saver does with sampled events: claimed, then enqueued for the sinks or dropped."""

from collections.abc import Sequence

from pipeline.process.event_span import EventSpan
from pipeline.process.trace_context import SAVE
from pipeline.process.tracing import EventTracer
from pipeline.saver.event_processor import Item, Outcome


def record_saved(tracer: EventTracer, items: Sequence[Item], outcome: Outcome, claimed: int, ended: int) -> None:
    """Record those of `items` that are sampled, from when they were claimed or found (`claimed`) to the commit (ms).

    A duplicate has no span: the one of the copy that was saved has its id.
    """
    sampled = [item.event for item in items if item.row.event_id in tracer.sample]
    if not sampled:
        return
    reasons = {drop.event_id: drop.reason for drop in outcome.dropped}
    for event in sampled:
        if event.id not in outcome.duplicates:
            reason = reasons.get(event.id)
            found = "enqueued" if reason is None else f"dropped: {reason}"
            attributes = (("nostr.event.kind", event.kind), ("event_service.outcome", found))
            tracer.record(EventSpan(event.id, SAVE, claimed, ended, attributes))
