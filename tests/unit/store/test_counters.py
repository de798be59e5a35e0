"""Counts that are as exact as the transactions that make them, whatever ends the process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.process import metrics as process_metrics
from pipeline.process.clock import SystemClock
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot, prepare_runtime_directory
from pipeline.store.counters import CounterKind, StageCounters, StageTally, Totals
from pipeline.store.database import Database
from pipeline.store.schema import open_database

SAVER = Slot("saver", 0)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(tmp_path / "events.db", SystemClock())


@pytest.fixture
def become(tmp_path: Path) -> Iterator[Callable[[], Metrics]]:
    """Makes metrics as the next process in the saver's slot would."""
    runtime = tmp_path / "run"
    prepare_runtime_directory(runtime)

    def make() -> Metrics:
        process_metrics.uninstall()
        process_metrics.install(runtime, SAVER.name)
        return Metrics()

    yield make
    process_metrics.uninstall()


def tally(taken: int, handed_on: int, **discarded: int) -> StageTally:
    made = StageTally(taken, handed_on)
    for reason, count in discarded.items():
        made.drop(reason, count)
    return made


def shown(metrics: Metrics, stage: str = "saver") -> dict[str, float]:
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    return {
        sample.labels.get("reason", sample.name.removeprefix("event_service_stage_")): sample.value
        for sample in samples
        if sample.labels.get("stage") == stage and sample.name.endswith("_total")
    }


def commit(database: Database, counters: StageCounters, what: StageTally) -> Totals:
    with database.write() as tx:
        return counters.write(tx, what)


def test_what_is_committed_and_shown_is_the_same(database: Database) -> None:
    metrics = Metrics()
    counters = StageCounters(SAVER, metrics)
    counters.resume(database)
    for each in (tally(3, 2, duplicate=1), tally(2, 0, duplicate=1, irrelevant=1), tally(0, 0)):
        counters.show(commit(database, counters, each))
    expected = {"in_total": 5, "out_total": 2, "duplicate": 2, "irrelevant": 1}
    assert shown(metrics) == expected
    # After a reboot nothing is left but the database.
    anew = Metrics()
    StageCounters(SAVER, anew).resume(database)
    assert shown(anew) == expected


def test_what_was_committed_and_not_shown_is_shown_by_the_next_in_the_slot(
    database: Database, become: Callable[[], Metrics]
) -> None:
    """As when a process is killed right after its commit."""
    metrics = become()
    counters = StageCounters(SAVER, metrics)
    counters.show(commit(database, counters, tally(1, 1)))
    commit(database, counters, tally(5, 3, duplicate=2))
    again = become()
    for _ in range(2):
        StageCounters(SAVER, again).resume(database)
        assert shown(again) == {"in_total": 6, "out_total": 4, "duplicate": 2}


def test_metrics_show_what_stands_in_the_database_whoever_shows_last(database: Database) -> None:
    """Two threads commit one after the other, and show it the other way round; one that did not show loses nothing."""
    metrics = Metrics()
    counters = StageCounters(SAVER, metrics)
    commit(database, counters, tally(1, 1))
    earlier = commit(database, counters, tally(2, 1, duplicate=1))
    counters.show(commit(database, counters, tally(4, 4)))
    counters.show(earlier)
    assert shown(metrics) == {"in_total": 7, "out_total": 6, "duplicate": 1}


def test_a_rolled_back_transaction_counts_nothing(database: Database) -> None:
    metrics = Metrics()
    counters = StageCounters(SAVER, metrics)
    with database.write() as tx:
        counters.write(tx, tally(5, 5))
        tx.execute("ROLLBACK")
        tx.execute("BEGIN")
    counters.resume(database)
    assert shown(metrics) == {"in_total": 0, "out_total": 0}


def test_a_database_that_was_made_anew_goes_on_from_the_metrics(database: Database) -> None:
    """Counters never go down, and nothing that is counted later goes unseen."""
    metrics = Metrics()
    counters = StageCounters(SAVER, metrics)
    counters.show([(CounterKind.TAKEN, "", 100), (CounterKind.OUT, "", 100)])
    counters.resume(database)
    commit(database, counters, tally(1, 1))
    counters.resume(database)
    assert shown(metrics) == {"in_total": 101, "out_total": 101}


def test_slots_count_apart(database: Database) -> None:
    first, second = Metrics(), Metrics()
    commit(database, StageCounters(Slot("crawler", 0), first), tally(7, 7))
    commit(database, StageCounters(Slot("crawler", 1), second), tally(1, 0, unwanted=1))
    for index, metrics in enumerate((first, second)):
        StageCounters(Slot("crawler", index), metrics).resume(database)
    assert shown(first, "crawler") == {"in_total": 7, "out_total": 7}
    assert shown(second, "crawler") == {"in_total": 1, "out_total": 0, "unwanted": 1}


def test_counts_of_slots_that_nobody_has_any_more_are_counted_on(database: Database) -> None:
    """Two crawlers in place of four: what the others counted is in the sum, once, whoever starts first."""
    for index, taken in enumerate((1, 20, 300, 4000)):
        counters = StageCounters(Slot("crawler", index), Metrics())
        commit(database, counters, tally(taken, taken - 1, duplicate=1))
    commit(database, StageCounters(SAVER, Metrics()), tally(7, 7))
    gone = {"crawler-2", "crawler-3"}
    found = []
    for index in (1, 0):
        metrics = Metrics()
        StageCounters(Slot("crawler", index), metrics).resume(database, gone.__contains__)
        found.append(shown(metrics, "crawler"))
    assert found == [
        {"in_total": 4320, "out_total": 4317, "duplicate": 3},
        {"in_total": 1, "out_total": 0, "duplicate": 1},
    ]
    metrics = Metrics()
    StageCounters(Slot("crawler", 2), metrics).resume(database, set().__contains__)
    assert shown(metrics, "crawler") == {"in_total": 0, "out_total": 0}, "one that comes back begins with nothing"
