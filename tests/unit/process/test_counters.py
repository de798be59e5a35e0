"""Counters read out of the metrics files."""

from pathlib import Path

from pipeline.process import metrics
from pipeline.process.counters import Counted, read_counters, read_newest
from pipeline.process.metrics import Metrics
from pipeline.process.slots import prepare_runtime_directory


def test_the_counters_asked_for_are_read_with_their_labels(tmp_path: Path) -> None:
    prepare_runtime_directory(tmp_path / "run")
    metrics.install(tmp_path / "run", "saver-0")
    try:
        made = Metrics()
        made.stage_errors.labels("saver", 'odd "kind" \\ {').inc(2)
        made.stage_in.labels("saver").inc(5)
        found = read_counters(tmp_path / "run", ["event_service_stage_errors_total"])
    finally:
        metrics.uninstall()
    labels = {"stage": "saver", "kind": 'odd "kind" \\ {'}
    assert found == [Counted("event_service_stage_errors_total", labels, 2.0)]


def test_no_files_are_no_counters(tmp_path: Path) -> None:
    prepare_runtime_directory(tmp_path / "run")
    assert read_counters(tmp_path / "run", ["event_service_stage_errors_total"]) == []


def test_of_a_gauge_the_newest_value_counts_whoever_set_it(tmp_path: Path) -> None:
    """A relay moves from one crawler to another, and the first one's file stays."""
    prepare_runtime_directory(tmp_path / "run")
    for slot, seconds in (("crawler-1", 70), ("crawler-0", 5)):
        metrics.install(tmp_path / "run", slot)
        try:
            Metrics().crawl_relay_behind.labels("wss://r1.example").set(seconds)
        finally:
            metrics.uninstall()
    assert read_newest(tmp_path / "run", "event_service_crawl_relay_seconds_behind", "address") == {
        "wss://r1.example": 5.0
    }
