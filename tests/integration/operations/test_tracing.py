"""Spans of sampled events by OTLP: linked from relay to consumer, and never in the way of an event."""

import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from time import time

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from pipeline.process.trace_context import CRAWL, SAVE, TraceSample, deliver, span_id
from tests.factories.events import SignedEvent, authors, from_raw
from tests.fakes.behaviour import Behaviour, OkRule
from tests.fakes.collector import Collector
from tests.fakes.pubsub import FakePubSub
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.operations.support import until

PEOPLE = authors(97, 60)
STEPS = (CRAWL.name, SAVE.name, deliver("pubsub").name)
Traces = dict[str, dict[str, Span]]


@pytest.fixture
def pubsub() -> Iterator[FakePubSub]:
    with FakePubSub() as running:
        yield running


def profiles() -> list[SignedEvent]:
    now = int(time())
    return [person.sign("{}", kind=0, created_at=now - 60 + number) for number, person in enumerate(PEOPLE)]


def environment(relay: ScriptedRelay, pubsub: FakePubSub, collector: Collector, share: str = "1") -> dict[str, str]:
    return settings(
        relays=[relay.url],
        pubsub=pubsub.address,
        EVENTS_TRACE_SAMPLE=share,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        EVENTS_CRAWLERS="1",
    )


def traces(collector: Collector) -> Traces:
    """The spans by trace id and name; a span that came twice is there once, and has the same id."""
    found: defaultdict[str, dict[str, Span]] = defaultdict(dict)
    for span in collector.spans:
        before = found[span.trace_id.hex()].setdefault(span.name, span)
        assert before.span_id == span.span_id
    return dict(found)


def messages(pubsub: FakePubSub) -> dict[str, Mapping[str, str]]:
    """The attributes by event id; those of a redelivery are the same."""
    found: dict[str, Mapping[str, str]] = {}
    for each in pubsub.deliveries():
        attributes = each.attributes or {}
        assert found.setdefault(from_raw(each.data).id, attributes) == attributes
    return found


def has_all(collector: Collector, events: list[SignedEvent]) -> bool:
    found = traces(collector)
    return all(set(found.get(event.id[:32], ())) == set(STEPS) for event in events)


def test_one_trace_leads_from_the_relay_to_the_message(tmp_path: Path, pubsub: FakePubSub) -> None:
    events = profiles()
    with (
        Collector() as collector,
        ScriptedRelay(events=events) as relay,
        EventService(tmp_path, environment(relay, pubsub, collector)) as service,
    ):
        until(lambda: has_all(collector, events), lambda: traces(collector))
        assert service.stop() == 0
    sent = messages(pubsub)
    assert set(traces(collector)) == {event.id[:32] for event in events}
    for event in events:
        crawled, saved, delivered = (traces(collector)[event.id[:32]][step] for step in STEPS)
        assert crawled.parent_span_id == b""
        assert (saved.parent_span_id, delivered.parent_span_id) == (crawled.span_id, saved.span_id)
        for name in ("traceparent", "googclient_traceparent"):
            assert sent[event.id][name] == f"00-{event.id[:32]}-{delivered.span_id.hex()}-01"
        assert crawled.start_time_unix_nano <= crawled.events[0].time_unix_nano <= crawled.end_time_unix_nano
        assert crawled.end_time_unix_nano <= delivered.end_time_unix_nano
        assert saved.start_time_unix_nano <= saved.end_time_unix_nano
        assert crawled.events[0].name == "verified"
        outcome = {each.key: each.value.string_value for each in saved.attributes}
        assert (outcome["event_service.outcome"], outcome["nostr.event.id"]) == ("enqueued", event.id)
    assert {each["deployment.environment"] for each in collector.resources} == {"test"}
    assert {each["service.name"] for each in collector.resources} == {"event-service"}
    slots = {each["service.instance.id"].rpartition("/")[2] for each in collector.resources}
    assert slots == {"crawler-0", "saver-0", "forwarder-0"}


def test_share_traces_the_same_events_in_every_stage(tmp_path: Path, pubsub: FakePubSub) -> None:
    events, sample = profiles(), TraceSample(0.5)
    chosen = [event for event in events if bytes.fromhex(event.id) in sample]
    assert 0 < len(chosen) < len(events)
    with (
        Collector() as collector,
        ScriptedRelay(events=events) as relay,
        EventService(tmp_path, environment(relay, pubsub, collector, "0.5")) as service,
    ):
        pubsub.wait_count(len(events))
        until(lambda: has_all(collector, chosen), lambda: traces(collector))
        assert service.stop() == 0
    assert set(traces(collector)) == {event.id[:32] for event in chosen}
    traced = {event_id for event_id, attributes in messages(pubsub).items() if "traceparent" in attributes}
    assert traced == {event.id for event in chosen}


def test_supervisor_has_one_thread_and_loads_no_exporter(tmp_path: Path, pubsub: FakePubSub) -> None:
    """It forks: only stages may have threads."""
    with (
        Collector() as collector,
        ScriptedRelay() as relay,
        EventService(tmp_path, environment(relay, pubsub, collector)) as service,
    ):
        status = Path(f"/proc/{service.child.pid}/status").read_text()
        assert "\nThreads:\t1\n" in status
        tasks = [Path(f"/proc/{each.pid}/task") for each in service.stages("saver")]
        names = {(one / "comm").read_text().strip() for task in tasks for one in task.iterdir()}
        assert len(names) >= 1
        assert service.stop() == 0


@pytest.mark.parametrize("status", [0, 503, 404])
def test_collector_that_fails_or_hangs_costs_spans_alone(tmp_path: Path, pubsub: FakePubSub, status: int) -> None:
    """Every event arrives, no stage fails, and the service stops by itself."""
    events = profiles()
    with (
        Collector(status) as collector,
        ScriptedRelay(events=events) as relay,
        EventService(tmp_path, environment(relay, pubsub, collector)) as service,
    ):
        pubsub.wait_count(len(events))
        collector.wait(lambda each: each.requests > 0)
        if status == 404:
            service.wait_metric("event_service_trace_spans_dropped_total", lambda count: count > 0)
        assert service.get("/_health")[0] == 200
        assert service.stop() == 0
        # One that had to be killed would have left this.
        assert "killed" not in service.log_text()
    assert set(messages(pubsub)) == {event.id for event in events}


def test_killed_stages_give_the_same_spans_again(tmp_path: Path, pubsub: FakePubSub) -> None:
    """SIGKILL of every stage that traces while events come: each event arrives, and no trace has a foreign span."""
    events = profiles()
    known = {span_id(bytes.fromhex(event.id), step).to_bytes(8) for event in events for step in STEPS}
    with (
        Collector() as collector,
        ScriptedRelay(events=events[:20]) as relay,
        EventService(tmp_path, environment(relay, pubsub, collector)) as service,
    ):
        for number, stage in enumerate(("crawler", "saver", "forwarder")):
            pubsub.wait_count(20 * (number + 1))
            for victim in service.stages(stage):
                with suppress(ProcessLookupError):
                    victim.signal(signal.SIGKILL)
            if number < 2:
                relay.publish(*events[20 * (number + 1) : 20 * (number + 2)])
        until(lambda: set(messages(pubsub)) == {event.id for event in events}, lambda: len(messages(pubsub)))
        service.wait_healthy()
        late = [PEOPLE[0].sign("{}", kind=0, created_at=int(time()))]
        relay.publish(*late)
        until(lambda: has_all(collector, late), lambda: traces(collector))
        assert service.stop() == 0
    known |= {span_id(bytes.fromhex(event.id), step).to_bytes(8) for event in late for step in STEPS}
    assert {span.span_id for span in collector.spans} <= known
    # `traces` and `messages` have compared what came twice.
    assert set(traces(collector)) <= {event.id[:32] for event in (*events, *late)}


def broken(folder: Path) -> str:
    """A path on which OpenTelemetry cannot be imported."""
    (folder / "opentelemetry").mkdir()
    (folder / "opentelemetry/__init__.py").write_text('raise ImportError("as if it were not installed")')
    return str(folder)


def test_off_means_not_imported(tmp_path: Path) -> None:
    """With the plain sink: Google's client imports OpenTelemetry's interface by itself."""
    with EventService(tmp_path / "service", settings(PYTHONPATH=broken(tmp_path))) as service:
        assert service.stop() == 0


def test_without_the_extra_it_cannot_start(tmp_path: Path) -> None:
    env = settings(EVENTS_TRACE_SAMPLE="0.1", PYTHONPATH=broken(tmp_path))
    with closing(EventService(tmp_path / "service", env)) as service:
        service.start(wait=False)
        assert service.wait_exit() == 3
        assert "pip install 'event-service[tracing]'" in service.log_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/does/not/exist.pem"),
    ],
)
def test_wrong_variable_of_opentelemetry_is_named(tmp_path: Path, name: str, value: str) -> None:
    env = settings(EVENTS_TRACE_SAMPLE="0.1", **{name: value})
    with closing(EventService(tmp_path, env)) as service:
        service.start(wait=False)
        assert service.wait_exit() == 3
        assert f"{name} " in service.log_text()


def test_spans_that_opentelemetry_does_not_make_count_as_dropped(tmp_path: Path, pubsub: FakePubSub) -> None:
    events = profiles()
    with Collector() as collector, ScriptedRelay(events=events) as relay:
        env = environment(relay, pubsub, collector) | {"OTEL_SDK_DISABLED": "true"}
        with EventService(tmp_path, env) as service:
            pubsub.wait_count(len(events))
            service.wait_metric("event_service_trace_spans_dropped_total", lambda count: count > 0)
            assert service.scrape().value("event_service_trace_spans_exported_total") == 0
            assert service.stop() == 0
        assert collector.requests == 0


def test_refused_delivery_is_an_error(tmp_path: Path) -> None:
    """The target relay takes no event of this kind; the topic is not concerned."""
    event = PEOPLE[0].sign("{}", kind=0, created_at=int(time()) - 30)
    with (
        FakePubSub() as pubsub,
        Collector() as collector,
        ScriptedRelay(events=[event]) as relay,
        ScriptedRelay(Behaviour(ok_rules=(OkRule(reason="blocked: not here"),))) as target,
        EventService(tmp_path, environment(relay, pubsub, collector) | {"EVENTS_TARGET_RELAY": target.url}) as service,
    ):
        step = deliver("relay").name
        until(lambda: step in traces(collector).get(event.id[:32], ()), lambda: traces(collector))
        span = traces(collector)[event.id[:32]][step]
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert span.status.message.startswith("refused: ")
        assert service.stop() == 0
