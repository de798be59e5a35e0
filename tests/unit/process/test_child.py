import os
from pathlib import Path
from typing import cast

import pytest

from pipeline.process.child import Child, Launch, launcher
from pipeline.process.clock import ManualClock
from pipeline.process.heartbeat import Heartbeat
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
    stranger.listen(runtime, clock)
    assert not stranger.ready
    child = started(Process(os.getpid()), clock)
    child.listen(runtime, clock)
    assert child.ready
    heartbeat.close()


def test_silence_is_counted_from_the_start_then_from_the_last_beat(runtime: Path, clock: ManualClock) -> None:
    child = started(Process(os.getpid()), clock)

    def is_silent() -> bool:
        return child.is_silent(clock.monotonic(), beat_limit_s=30, first_beat_limit_s=60)

    clock.advance(60)
    assert not is_silent()
    clock.advance(1)
    assert is_silent()
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    clock.advance(30)
    child.listen(runtime, clock)
    assert not is_silent()
    clock.advance(1)
    assert is_silent()
    child.forgive(clock.monotonic())
    assert not is_silent()
    heartbeat.close()


def test_health_lasts_until_the_last_sign_of_life(runtime: Path, clock: ManualClock) -> None:
    process = Process(os.getpid())
    child = started(process, clock)
    assert child.healthy_for_s == 0
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    clock.advance(40)
    heartbeat.beat()
    clock.advance(25)
    child.listen(runtime, clock)
    process.code = 1
    assert child.reap() == 1
    assert child.healthy_for_s == pytest.approx(40)
    assert not child.running
    assert child.reap() is None
    heartbeat.close()


def test_launched_process_gets_the_runtime_directory_and_a_silent_lifeline(runtime: Path) -> None:
    env = {"PATH": os.environ["PATH"], "A": "b", "NOTIFY_SOCKET": "@x", "EVENTS_STAGE_LISTEN_ADDRESS": ":1"}
    env_file = runtime / "env"
    launch = launcher(lambda stage, index: ["sh", "-c", f"cat; env > {env_file}; exit {index}"], env, runtime)
    process = launch(Slot("saver", 7))
    assert process.poll() is None
    assert os.getpgid(process.pid) == process.pid
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 7
    written = dict(line.split("=", 1) for line in env_file.read_text().splitlines())
    assert written["A"] == "b"
    assert written["EVENTS_RUNTIME_DIRECTORY"] == str(runtime)
    assert not {"NOTIFY_SOCKET", "EVENTS_STAGE_LISTEN_ADDRESS"} & set(written)
