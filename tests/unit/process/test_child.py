import os
from pathlib import Path
from typing import cast

import pytest

from pipeline.process import procfs
from pipeline.process.child import Child, Launch
from pipeline.process.clock import ManualClock
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.procfs import ProcessUse
from pipeline.process.slots import Slot


class Process:
    """A process that does nothing."""

    stdin = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.advance(1000)
    return clock


def started(process: Process, clock: ManualClock) -> Child:
    child = Child(Slot("saver", 0), 1)
    child.start(cast("Launch", lambda slot: process), clock.monotonic())
    return child


def test_heartbeat_of_the_slots_former_process_is_not_its_own(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    stranger = started(Process(os.getpid() + 1), clock)
    stranger.read_heartbeat(runtime, clock)
    assert not stranger.ready
    child = started(Process(os.getpid()), clock)
    child.read_heartbeat(runtime, clock)
    assert child.ready
    heartbeat.close()


def test_silence_is_counted_from_the_start_then_from_the_last_beat(runtime: Path, clock: ManualClock) -> None:
    child = started(Process(os.getpid()), clock)

    def is_silent() -> bool:
        return child.is_hung(clock.monotonic(), beat_limit_s=30, first_beat_limit_s=60)

    clock.advance(60)
    assert not is_silent()
    clock.advance(1)
    assert is_silent()
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    clock.advance(30)
    child.read_heartbeat(runtime, clock)
    assert not is_silent()
    clock.advance(1)
    assert is_silent()
    child.reset_heartbeat_timer(clock.monotonic())
    assert not is_silent()
    heartbeat.close()


class Starved:
    """What the kernel says of a process that gets little of the processor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu_s = 0.0
        monkeypatch.setattr(procfs, "process_use", lambda pid: ProcessUse(self.cpu_s, 1, 1, 1, 1))


def test_start_that_is_starved_is_no_hang(runtime: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as its processor time grows, an hour if need be; one that does not get on is killed within a minute."""
    starved, child = Starved(monkeypatch), started(Process(os.getpid()), clock)

    def is_silent() -> bool:
        child.read_heartbeat(runtime, clock)
        return child.is_hung(clock.monotonic(), beat_limit_s=30, first_beat_limit_s=60)

    for _ in range(3600):
        clock.advance(1)
        starved.cpu_s += 0.015
        assert not is_silent()
    clock.advance(60)
    assert not is_silent()
    clock.advance(1)
    assert is_silent()


def test_start_may_take_more_processor_time_each_time_it_failed(
    runtime: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 s, then twice that, at most 16 minutes; one that succeeds begins with 60 s again."""
    starved = Starved(monkeypatch)
    child = started(Process(os.getpid()), clock)

    def allowed_s() -> float:
        starved.cpu_s = 0.0
        while not child.is_hung(clock.monotonic(), beat_limit_s=30, first_beat_limit_s=60):
            starved.cpu_s += 30
            clock.advance(30)
            child.read_heartbeat(runtime, clock)
        return starved.cpu_s - 30

    allowed = []
    for _ in range(6):
        allowed.append(allowed_s())
        child.start(cast("Launch", lambda slot: Process(os.getpid())), clock.monotonic())
    assert allowed == [60, 120, 240, 480, 960, 960]
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    child.read_heartbeat(runtime, clock)
    heartbeat.close()
    child.start(cast("Launch", lambda slot: Process(os.getpid())), clock.monotonic())
    assert allowed_s() == 60


def test_health_lasts_until_the_last_sign_of_life(runtime: Path, clock: ManualClock) -> None:
    process = Process(os.getpid())
    child = started(process, clock)
    assert child.healthy_for_s == 0
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    clock.advance(40)
    heartbeat.beat()
    clock.advance(25)
    child.read_heartbeat(runtime, clock)
    process.code = 1
    assert child.reap() == 1
    assert child.healthy_for_s == pytest.approx(40)
    assert not child.running
    assert child.reap() is None
    heartbeat.close()
