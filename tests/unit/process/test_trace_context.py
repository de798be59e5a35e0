"""Which events are traced, and the ids that every process gives their spans."""

import random

import pytest
from google.cloud.pubsub_v1.open_telemetry.context_propagation import OpenTelemetryContextGetter
from google.pubsub_v1.types import PubsubMessage
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline.process.trace_context import CRAWL, SAVE, TraceSample, TraceStep, deliver, span_id, trace_id, traceparent
from pipeline.sinks.attributes import attributes
from pipeline.sinks.base import Message
from tests.support.seeds import told_seed

EVENT = bytes(range(1, 33))
PUBSUB = deliver("pubsub")
RANDOM = random.Random(told_seed())
IDS = [RANDOM.randbytes(32) for _ in range(2_000)]


def sampled(share: float) -> set[bytes]:
    sample = TraceSample(share)
    return {event_id for event_id in IDS if event_id in sample}


def test_sample_of_none_is_empty_and_of_all_is_whole() -> None:
    assert not TraceSample(0)
    assert sampled(0) == set()
    assert sampled(1) == set(IDS)


def test_larger_share_has_all_of_a_smaller_one() -> None:
    assert sampled(0.01) <= sampled(0.1) <= sampled(0.5)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 1.0])
def test_sample_is_the_one_of_opentelemetry(share: float) -> None:
    """A consumer that samples by ratio with its SDK keeps what was sampled with the same share."""
    sampler = TraceIdRatioBased(share)
    theirs = {
        each for each in IDS if sampler.should_sample(None, trace_id(each), "").decision is Decision.RECORD_AND_SAMPLE
    }
    assert theirs == sampled(share)


def test_proof_of_work_changes_no_chance() -> None:
    """Ids with many leading zeros are sampled as others are."""
    worked = [bytes(7) + event_id[7:] for event_id in IDS]
    sample = TraceSample(0.5)
    assert {each[7:] for each in worked if each in sample} == {each[7:] for each in sampled(0.5)}


def test_event_without_a_valid_trace_id_is_not_sampled() -> None:
    assert bytes(16) + bytes([1] * 16) not in TraceSample(1)


def test_spans_of_an_event_differ_and_none_is_zero() -> None:
    steps = [CRAWL, SAVE, PUBSUB, deliver("relay")]
    ids = {span_id(event_id, step.name) for event_id in IDS for step in steps}
    assert len(ids) == len(IDS) * len(steps)
    assert 0 not in ids


def test_each_step_continues_the_one_before() -> None:
    assert (CRAWL.parent, SAVE.parent, PUBSUB.parent) == (None, CRAWL.name, SAVE.name)


def test_ids_never_change() -> None:
    """Processes of two versions take part in one trace."""
    assert traceparent(EVENT, PUBSUB) == "00-0102030405060708090a0b0c0d0e0f10-695f7950560c2c35-01"
    found = [span_id(EVENT, step.name) for step in (CRAWL, SAVE, deliver("relay"))]
    assert found == [0xDF8543A837E0BB85, 0xD4D58DD42A0EFECE, 0x9314C75321475317]


def sent(traceparent: str) -> dict[str, str]:
    payload = b'{"pubkey":"%s","created_at":1,"kind":1}' % (b"02" * 32)
    return attributes(Message(EVENT, payload, 1000, traceparent=traceparent))


def test_attributes_continue_the_trace_for_clients_of_both_kinds() -> None:
    found = sent(traceparent(EVENT, PUBSUB))
    propagator = TraceContextTextMapPropagator()
    plain = propagator.extract(found)
    google = propagator.extract(PubsubMessage(attributes=found), getter=OpenTelemetryContextGetter())
    for context in (plain, google):
        parent = get_current_span(context).get_span_context()
        assert (parent.trace_id, parent.span_id) == (trace_id(EVENT), span_id(EVENT, PUBSUB.name))
        assert parent.trace_flags.sampled


def test_event_that_is_not_traced_has_no_context() -> None:
    assert not [name for name in sent("") if "trace" in name]


def test_steps_are_told_apart_by_name() -> None:
    assert span_id(EVENT, "a") != span_id(EVENT, "b")
    assert TraceStep("a") != TraceStep("b")
