"""The clock by which chaos judges how long something took."""

import os

import pytest

from tests.tools.chaos import cpu_delay
from tests.tools.chaos.cpu_delay import MOST_FORGIVEN, CompensatedClock, waited_s

PIDS = (1, 2)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """How long each process has waited for a processor, instead of what the kernel says."""
    waits = dict.fromkeys(PIDS, 5.0)
    monkeypatch.setattr(cpu_delay, "waited_s", waits.__getitem__)
    return waits


def test_an_idle_machine_forgives_nothing(waits: dict[int, float]) -> None:
    clock = CompensatedClock(100.0)
    for now in (101.0, 102.0, 103.0):
        clock.tick(now, PIDS)
    assert clock.between(100.5, 103.0) == pytest.approx(2.5)
    assert clock.between(103.0, 110.0) == pytest.approx(7.0), "what is not measured yet counts in full"


def test_the_process_that_waits_longest_says_how_late_all_are(waits: dict[int, float]) -> None:
    clock = CompensatedClock(100.0)
    clock.tick(101.0, PIDS)
    waits[1] += 0.2
    waits[2] += 0.5
    clock.tick(102.0, PIDS)
    assert clock.between(101.0, 102.0) == pytest.approx(0.5)
    assert clock.between(101.5, 102.0) == pytest.approx(0.25)
    assert clock.forgiven_s == pytest.approx(0.5)


def test_whatever_lasts_is_judged_in_the_end(waits: dict[int, float]) -> None:
    clock = CompensatedClock(0.0)
    for second in range(1, 41):
        waits[1] += 30.0
        clock.tick(float(second), PIDS)
    assert clock.between(1.0, 40.0) == pytest.approx(39 * (1 - MOST_FORGIVEN))


def test_a_process_that_is_new_or_gone_forgives_nothing(waits: dict[int, float]) -> None:
    clock = CompensatedClock(0.0)
    clock.tick(1.0, PIDS[:1])
    clock.tick(2.0, PIDS[1:])
    assert clock.forgiven_s == 0.0


def test_the_kernel_tells_how_long_a_process_has_waited() -> None:
    assert waited_s(os.getpid()) >= 0.0
    assert waited_s(2**22 + 1) == 0.0, "there is none"
