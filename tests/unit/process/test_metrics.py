import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families

from pipeline.process import metrics
from pipeline.process.clock import ManualClock, SystemClock
from pipeline.process.exposition import render
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.metrics import DELIVERY_BUCKETS_S, OTHER, BoundedLabels, Metrics, Observations
from pipeline.process.slots import acquire_slot, metrics_directory

# Every metric of the contract that a process counts: name as exposed, type, labels.
CONTRACT = [
    ("application_handler_calls_total", "counter", ("handlerName", "result")),
    ("application_handler_calls_duration", "histogram", ("handlerName", "result")),
    ("version", "gauge", ("vcsRevision", "vcsTime", "go")),
    ("relay_downloader_gauge", "gauge", ()),
    ("received_events_counter", "counter", ("address",)),
    ("relay_connection_received_messages_counter", "counter", ("address", "messageType", "result")),
    ("relay_connection_disconnections_counter", "counter", ("address", "reason")),
    ("relay_connection_reconnections_counter", "counter", ("address",)),
    ("events_sent_to_relay_counter", "counter", ("address", "decision", "result")),
    ("notice_type_total", "counter", ("address", "noticeType")),
    ("event_service_stage_in_total", "counter", ("stage",)),
    ("event_service_stage_out_total", "counter", ("stage",)),
    ("event_service_stage_errors_total", "counter", ("stage", "kind")),
    ("event_service_stage_discarded_total", "counter", ("stage", "reason")),
    ("event_service_stage_exits_total", "counter", ("slot", "reason")),
    ("event_service_sink_in_flight", "gauge", ("sink",)),
    ("event_service_sink_retries_total", "counter", ("sink", "reason")),
    ("event_service_sink_ignored_total", "counter", ("sink", "reason")),
    ("event_service_sink_batch_events", "histogram", ("sink",)),
    ("event_service_sink_call_seconds", "histogram", ("sink",)),
    ("event_service_delivery_seconds", "histogram", ("sink",)),
]


def touch_all(one: Metrics) -> None:
    one.handler("saveReceivedEvent").record(0.2, count=4)
    one.version.labels("abc", "2026", "python3.11").set(1)
    one.relay_downloader_gauge.inc(3)
    one.received_events.labels("wss://a").inc()
    one.received_messages.labels("wss://a", "eose", "success").inc()
    one.disconnections.labels("wss://a", "dial").inc()
    one.reconnections.labels("wss://a").inc()
    one.events_sent_to_relay.labels("wss://a", "send", "success").inc()
    one.notices.labels("wss://a", "EMPTY").inc()
    one.stage_in.labels("saver").inc()
    one.stage_out.labels("saver").inc()
    one.stage_errors.labels("saver", "busy").inc()
    one.stage_discarded.labels("saver", "duplicate").inc()
    one.stage_exits.labels("saver-0", "exit").inc()
    one.sink_in_flight.labels("pubsub").inc()
    one.sink_retries.labels("pubsub", "UNAVAILABLE").inc()
    one.sink_ignored.labels("relay", "kind").inc()
    one.sink_batch.labels("pubsub").observe(7)
    one.sink_call.labels("pubsub").observe(0.1)
    Observations(one.delivery.labels("pubsub")).record([0.1])


def sample(text: bytes, series: str) -> float | None:
    """The value of `series`, written as in the text format; None when it is not there."""
    for line in text.decode().splitlines():
        name, _, value = line.rpartition(" ")
        if name == series:
            return float(value)
    return None


def test_exposed_names_types_and_labels_are_the_contract(
    runtime: Path, process_metrics: Callable[[str], Metrics]
) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", SystemClock())
    touch_all(process_metrics("saver-0"))
    lines = render(runtime).decode().splitlines()
    heartbeat.close()
    for name, kind, labels in CONTRACT:
        assert f"# TYPE {name} {kind}" in lines
        assert any(line.startswith(f"# HELP {name} ") for line in lines)
        first = f"{name}_count" if kind == "histogram" else name
        series = [line for line in lines if line.startswith((f"{first}{{", f"{first} "))]
        assert len(series) == 1
        shown = series[0].rpartition(" ")[0].removeprefix(first).strip("{}")
        assert sorted(pair.partition("=")[0] for pair in shown.split(",") if pair) == sorted(labels)
    assert not any("_created" in line or "counter_total" in line or "pid=" in line for line in lines)


def test_exposition_can_be_parsed(runtime: Path, process_metrics: Callable[[str], Metrics]) -> None:
    one = process_metrics("saver-0")
    touch_all(one)
    hostile = 'wss://a/"\\\nreceived_events_counter_total{x="y"} 7'
    one.received_events.labels(hostile).inc(5)
    families = {family.name: family for family in text_string_to_metric_families(render(runtime).decode())}
    shown = {s.labels["address"]: s.value for s in families["received_events_counter"].samples}
    assert shown == {"wss://a": 1, hostile: 5}


def test_restarted_slot_goes_on_counting_and_adds_no_file(
    runtime: Path, process_metrics: Callable[[str], Metrics]
) -> None:
    """Two hundred restarts: one process after the other in one slot."""
    files: list[list[Path]] = []
    for _ in range(200):
        held = acquire_slot(runtime, "saver", 0)
        heartbeat = Heartbeat(runtime, held.slot.name, SystemClock())
        touch_all(process_metrics(held.slot.name))
        files.append(sorted(runtime.rglob("*")))
        text = render(runtime)
        heartbeat.close()
        held.release()
    assert files[-1] == files[0]
    assert sample(text, 'event_service_stage_in_total{stage="saver"}') == 200
    assert (
        sample(text, "application_handler_calls_duration_count" + '{handlerName="saveReceivedEvent",result="success"}')
        == 800
    )
    # A gauge is the present process's alone.
    assert sample(text, "relay_downloader_gauge") == 3


def test_processes_are_added_up_and_dead_ones_keep_only_their_counters(
    runtime: Path, process_metrics: Callable[[str], Metrics]
) -> None:
    clock = ManualClock()
    beats = [Heartbeat(runtime, f"crawler-{index}", clock) for index in range(2)]
    for index in range(2):
        one = process_metrics(f"crawler-{index}")
        one.received_events.labels("wss://a").inc(10)
        one.relay_downloader_gauge.set(4)
        one.version.labels("abc", "2026", "python").set(1)
    text = render(runtime)
    assert sample(text, 'received_events_counter{address="wss://a"}') == 20
    assert sample(text, "relay_downloader_gauge") == 8
    assert sample(text, 'version{go="python",vcsRevision="abc",vcsTime="2026"}') == 1
    beats[0].close()
    text = render(runtime)
    assert sample(text, 'received_events_counter{address="wss://a"}') == 20
    assert sample(text, "relay_downloader_gauge") == 4
    beats[1].close()


def test_duration_is_spread_over_the_calls_of_a_batch(runtime: Path, process_metrics: Callable[[str], Metrics]) -> None:
    process_metrics("saver-0").handler("saveReceivedEvent", success=False).record(0.3, count=10)
    labels = 'handlerName="saveReceivedEvent",result="error"'
    text = render(runtime)
    assert sample(text, f"application_handler_calls_total{{{labels}}}") == 10
    assert sample(text, f"application_handler_calls_duration_count{{{labels}}}") == 10
    total = sample(text, f"application_handler_calls_duration_sum{{{labels}}}")
    assert total is not None
    assert abs(total - 0.3) < 1e-9
    at_most_25_ms = 'handlerName="saveReceivedEvent",le="0.025",result="error"'
    at_most_50_ms = 'handlerName="saveReceivedEvent",le="0.05",result="error"'
    assert sample(text, f"application_handler_calls_duration_bucket{{{at_most_25_ms}}}") == 0
    assert sample(text, f"application_handler_calls_duration_bucket{{{at_most_50_ms}}}") == 10


def test_overgrown_file_begins_anew(runtime: Path, process_metrics: Callable[[str], Metrics]) -> None:
    process_metrics("crawler-0").received_events.labels("wss://a").inc()
    metrics.uninstall()
    with (metrics_directory(runtime) / "counter_crawler-0.db").open("ab") as file:
        file.truncate(metrics.MAX_FILE_BYTES + 1)
    process_metrics("crawler-0").received_events.labels("wss://b").inc()
    text = render(runtime)
    assert sample(text, 'received_events_counter{address="wss://a"}') is None
    assert sample(text, 'received_events_counter{address="wss://b"}') == 1


def test_without_install_metrics_live_in_the_process() -> None:
    one = Metrics()
    another = Metrics()
    touch_all(one)
    assert one.registry.get_sample_value("event_service_stage_in_total", {"stage": "saver"}) == 1
    assert another.registry.get_sample_value("event_service_stage_in_total", {"stage": "saver"}) is None


def test_a_batch_counts_as_so_many_calls_of_equal_length() -> None:
    """As if each had been observed by itself, on and beside the bounds of the buckets."""
    batched, single = Metrics(), Metrics()
    for seconds, count in ((0.005, 1), (0.02, 4), (0.5, 2), (300.0, 3), (0.0, 7), (1.0, 0)):
        batched.handler("saveReceivedEvent").record(seconds, count)
        for _ in range(count):
            single.handler_duration.labels("saveReceivedEvent", "success").observe(seconds / count)
    one, other = ({(each.name, *each.labels.values()): each.value for each in family.samples} for family in (
        next(iter(batched.handler_duration.collect())), next(iter(single.handler_duration.collect()))
    ))  # fmt: skip
    created = "application_handler_calls_duration_created"
    assert {key: value for key, value in one.items() if key[0] != created} == {
        key: pytest.approx(value) for key, value in other.items() if key[0] != created
    }


def test_labels_from_the_network_are_bounded() -> None:
    labels = BoundedLabels(limit=2)
    assert [labels.label(value) for value in ("a", "b", "c", "a", "d", "b")] == ["a", "b", OTHER, "a", OTHER, "b"]


def test_bound_holds_for_threads_at_once() -> None:
    labels = BoundedLabels(limit=50)
    passed: list[str] = []

    def offer(thread: int) -> None:
        passed.extend(labels.label(f"{thread}-{number}") for number in range(100))

    threads = [threading.Thread(target=offer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(passed) - {OTHER}) == 50


def test_many_values_at_once_count_as_if_they_came_one_by_one() -> None:
    """Those on a bound and beyond the last one too."""
    amounts = [0.0, 0.004, *DELIVERY_BUCKETS_S, 0.3, 5e6]
    together, apart = Metrics().delivery, Metrics().delivery
    Observations(together.labels("pubsub")).record(amounts)
    for amount in amounts:
        apart.labels("pubsub").observe(amount)
    Observations(together.labels("pubsub")).record([])

    def samples(histogram: Histogram) -> list[tuple[str, dict[str, str], float]]:
        found = [sample for metric in histogram.collect() for sample in metric.samples]
        return [(each.name, each.labels, each.value) for each in found if not each.name.endswith("_created")]

    assert samples(together) == samples(apart)
