"""Backpressure with its two marks."""

import threading

from pipeline.crawl.flow_control import Backpressure, Marks
from pipeline.store.lease import QueueSize


def gate_of(high: int, low: int, size: int = 1 << 30) -> Backpressure:
    return Backpressure(Marks(high, low, size))


def test_it_closes_above_the_high_mark_and_opens_below_the_low_one() -> None:
    gate = gate_of(20, 15)
    seen = []
    for waiting in (0, 20, 21, 20, 15, 14, 20, 21, 100, 0):
        gate.update(QueueSize(waiting, 0))
        seen.append(gate.is_open)
    assert seen == [True, True, False, False, False, True, True, False, False, True]


def test_between_the_marks_it_stays_as_it_was() -> None:
    for start in (0, 100):
        gate = gate_of(20, 15)
        gate.update(QueueSize(start, 0))
        before = gate.is_open
        for waiting in range(15, 21):
            gate.update(QueueSize(waiting, 0))
            assert gate.is_open is before


def test_full_database_closes_it_however_little_waits() -> None:
    gate = gate_of(20, 15)
    seen = []
    for waiting, is_full in ((0, True), (0, False), (17, True), (17, False), (14, False)):
        gate.update(QueueSize(waiting, 0), is_full=is_full)
        seen.append(gate.is_open)
    assert seen == [False, True, False, False, True]


def test_bytes_close_it_too_and_open_it_below_three_quarters() -> None:
    gate = gate_of(20, 15, size=1_000)
    seen = []
    for size in (1_000, 1_001, 800, 750, 749, 1_001):
        gate.update(QueueSize(1, size))
        seen.append(gate.is_open)
    assert seen == [True, False, False, False, True, False]


def test_it_opens_only_below_both_low_marks() -> None:
    gate = gate_of(20, 15, size=1_000)
    for waiting, is_open in ((QueueSize(21, 1_001), False), (QueueSize(1, 900), False), (QueueSize(18, 1), False)):
        gate.update(waiting)
        assert gate.is_open is is_open
    gate.update(QueueSize(14, 700))
    assert gate.is_open


def test_it_is_far_while_a_second_of_everything_would_not_close_it() -> None:
    gate = gate_of(20_000, 15_000, size=1_000)
    assert not gate.is_far, "nothing is known"
    seen = []
    for waiting, is_full in (
        (QueueSize(0, 0), False),
        (QueueSize(7_999, 499), False),
        (QueueSize(8_000, 0), False),
        (QueueSize(0, 500), False),
        (QueueSize(0, 0), True),
    ):
        gate.update(waiting, is_full=is_full)
        seen.append(gate.is_far)
    assert seen == [True, True, False, False, False]


def test_waiting_ends_when_it_opens() -> None:
    gate, passed = gate_of(1, 1), threading.Event()
    assert gate.wait(0)
    gate.update(QueueSize(2, 0))
    assert not gate.wait(0.01)

    def wait() -> None:
        if gate.wait(60):
            passed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not passed.wait(0.05)
    gate.update(QueueSize(0, 0))
    assert passed.wait(60)
    thread.join(60)
