"""Backpressure with its two marks."""

import threading

from pipeline.crawl.gate import Backpressure


def test_it_closes_above_the_high_mark_and_opens_below_the_low_one() -> None:
    gate = Backpressure(high=20, low=15)
    seen = []
    for waiting in (0, 20, 21, 20, 15, 14, 20, 21, 100, 0):
        gate.update(waiting)
        seen.append(gate.is_open)
    assert seen == [True, True, False, False, False, True, True, False, False, True]


def test_between_the_marks_it_stays_as_it_was() -> None:
    for start in (0, 100):
        gate = Backpressure(high=20, low=15)
        gate.update(start)
        before = gate.is_open
        for waiting in range(15, 21):
            gate.update(waiting)
            assert gate.is_open is before


def test_waiting_ends_when_it_opens() -> None:
    gate, passed = Backpressure(high=1, low=1), threading.Event()
    assert gate.wait(0)
    gate.update(2)
    assert not gate.wait(0.01)

    def wait() -> None:
        if gate.wait(10):
            passed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not passed.wait(0.05)
    gate.update(0)
    assert passed.wait(10)
    thread.join(10)
