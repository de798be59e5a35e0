"""What the spans of deliveries say, and which messages continue a trace."""

from pipeline.delivery.delivery_spans import context_of, record_delivered
from pipeline.delivery.unsettled import Settlement
from pipeline.process.trace_context import deliver, traceparent
from pipeline.sinks.base import DELIVERED, Refused, Retry, Verdict
from pipeline.store.lease import Receipt
from pipeline.store.outbox import OutboxRow
from tests.support.spans import Recorder

ADDRESS = "wss://relay.example.com"


def row(number: int, claims: int = 1) -> OutboxRow:
    return OutboxRow(
        Receipt(number, claims), 0, 0, number, number.to_bytes(1) * 32, b"{}", 1, address=ADDRESS, claimed_at=10
    )


def test_delivery_has_a_span_from_its_claim_to_the_answer() -> None:
    recorder = Recorder()
    verdicts: list[tuple[OutboxRow, Verdict]] = [
        (row(1, claims=3), DELIVERED),
        (row(2), Refused("blocked")),
        (row(3), Retry("UNAVAILABLE")),
    ]
    record_delivered(recorder.tracer, Settlement(verdicts, 0.5, 20, 0.0), "relay")
    delivered, refused = recorder.finish()
    assert [each.event_id for each in (delivered, refused)] == [row(1).event_id, row(2).event_id]
    for each in (delivered, refused):
        assert (each.step, each.began, each.ended) == (deliver("relay"), 10, 20)
        assert dict(each.attributes)["nostr.relay"] == ADDRESS
    assert dict(delivered.attributes)["event_service.claims"] == 3
    assert (delivered.error, refused.error) == ("", "refused: blocked")


def test_message_of_a_sampled_event_alone_continues_its_trace() -> None:
    recorder, of_none = Recorder(), Recorder(share=2**-64)
    expected = traceparent(row(1).event_id, deliver("pubsub"))
    assert context_of(recorder.tracer, row(1), "pubsub") == expected
    assert context_of(of_none.tracer, row(1), "pubsub") == ""
    assert context_of(None, row(1), "pubsub") == ""
    record_delivered(of_none.tracer, Settlement([(row(1), DELIVERED)], 0.5, 20, 0.0), "pubsub")
    assert [*recorder.finish(), *of_none.finish()] == []
