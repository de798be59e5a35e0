"""Waits and write transactions as the metrics count them."""

from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.metrics import Metrics
from pipeline.process.stage_times import StageTimes, WaitReason
from pipeline.store.schema import open_database


class Counted:
    """The times of the saver, by a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.times = StageTimes(self.metrics, "saver", self.clock)

    def waited(self, reason: WaitReason) -> float:
        return self._value("event_service_stage_waited_seconds_total", reason=reason)

    def held(self) -> float:
        return self._value("event_service_write_lock_held_seconds_total")

    def writes(self) -> float:
        return self._value("event_service_write_transactions_total")

    def _value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(name, {"stage": "saver", **labels})
        assert found is not None
        return found


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_waits_are_added_up_by_reason(counted: Counted) -> None:
    for seconds in (1.0, 2.0):
        with counted.times.waiting(WaitReason.WORK):
            counted.clock.advance(seconds)
        counted.clock.advance(10.0)
    assert {reason: counted.waited(reason) for reason in WaitReason} == {
        WaitReason.LOCK: 0,
        WaitReason.WORK: 3,
        WaitReason.TIMER: 0,
        WaitReason.NETWORK: 0,
    }


def test_a_wait_that_ends_in_an_error_counts(counted: Counted) -> None:
    def time_out() -> None:
        with counted.times.waiting(WaitReason.NETWORK):
            counted.clock.advance(5.0)
            raise TimeoutError

    with pytest.raises(TimeoutError):
        time_out()
    assert counted.waited(WaitReason.NETWORK) == 5


def test_a_transaction_counts_its_wait_and_its_hold(counted: Counted) -> None:
    asked_at = counted.times.now()
    counted.clock.advance(2.0)
    began_at = counted.times.now()
    counted.clock.advance(3.0)
    counted.times.note_write(asked_at, began_at)
    assert (counted.waited(WaitReason.LOCK), counted.held(), counted.writes()) == (2, 3, 1)


def test_committed_transactions_of_a_database_are_counted(counted: Counted, tmp_path: Path) -> None:
    with open_database(tmp_path / "events.db", counted.clock, times=counted.times) as database:
        before = counted.writes()
        with database.write():
            counted.clock.advance(3.0)
        with database.read():
            counted.clock.advance(10.0)
        with pytest.raises(ZeroDivisionError), database.write():
            raise ZeroDivisionError
    assert (counted.held(), counted.writes() - before) == (3, 1)
