"""What the saver's spans say of sampled events."""

from pipeline.nostr.event import event_from_json
from pipeline.process.event_span import EventSpan
from pipeline.process.trace_context import SAVE
from pipeline.saver.event_processor import Item, Outcome
from pipeline.saver.save_spans import record_saved
from pipeline.store.inbox import InboxRow
from pipeline.store.lease import Receipt
from tests.factories.events import authors
from tests.support.spans import Recorder

(ALICE,) = authors(101, 1)


def item(text: str) -> Item:
    event = event_from_json(ALICE.sign(text, created_at=1).raw.encode())
    return Item(InboxRow(Receipt(1, 1), 0, 1, event.id, event.to_json(), 1, 1), event)


KEPT, DROPPED, AGAIN = (item(text) for text in ("kept", "dropped", "again"))


def span(of: Item, outcome: str) -> EventSpan:
    attributes = (("nostr.event.kind", of.event.kind), ("event_service.outcome", outcome))
    return EventSpan(of.event.id, SAVE, 10, 20, attributes)


def test_span_says_what_became_of_the_event_and_a_duplicate_has_none() -> None:
    outcome = Outcome(duplicates={AGAIN.event.id})
    outcome.drop(DROPPED.event.id, 1, "irrelevant")
    recorder = Recorder()
    record_saved(recorder.tracer, [KEPT, DROPPED, AGAIN], outcome, 10, 20)
    assert recorder.finish() == [span(KEPT, "enqueued"), span(DROPPED, "dropped: irrelevant")]


def test_event_that_is_not_sampled_has_no_span() -> None:
    recorder = Recorder(share=2**-64)
    record_saved(recorder.tracer, [KEPT, DROPPED], Outcome(), 10, 20)
    assert recorder.finish() == []
