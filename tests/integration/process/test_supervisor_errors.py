"""The supervisor where a stage cannot be killed or launched, and where it fails itself."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.process import drain
from pipeline.process.backoff import Backoff
from pipeline.process.child import Launch
from pipeline.process.clock import SystemClock
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.metrics import Metrics
from pipeline.process.notify import Notifier
from pipeline.process.restart import RestartPolicy
from pipeline.process.slots import Slot
from pipeline.process.stop import Stop
from pipeline.process.supervisor import StageSpec, Supervisor, SupervisorEnvironment, Timeouts

SPECS = [StageSpec("saver", 1, 0)]


class Unkillable:
    """A process that the kernel holds: it neither beats nor ends; looked at often enough after that, `stop` is set."""

    pid = 2**22 + 1
    stdin = None

    def __init__(self, stop: Stop) -> None:
        self.received: list[int] = []
        self._stop = stop
        self._looks = 0

    def poll(self) -> int | None:
        self._looks += bool(self.received)
        if self._looks == 50:
            self._stop.set("enough")
        return None

    def send_signal(self, number: int) -> None:
        self.received.append(number)

    def wait(self, timeout_s: float) -> None:
        """It takes longer than anybody waits."""


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0event-service-test-supervisor-{os.getpid()}")
        systemd.settimeout(30)
        yield systemd


@pytest.fixture
def environment(runtime: Path, systemd: socket.socket) -> Iterator[SupervisorEnvironment]:
    clock = SystemClock()
    heartbeat = Heartbeat(runtime, "supervisor", clock)
    timeouts = Timeouts(
        beat_limit_s=0.1,
        first_beat_limit_s=0.1,
        drain_s=0.1,
        starting_check_s=0.02,
        restart=RestartPolicy(Backoff(0.01, 1.0, 1.0)),
    )
    notifier = Notifier("@" + systemd.getsockname()[1:].decode(), watchdog_interval_s=30)
    yield SupervisorEnvironment(runtime, clock, Stop(), notifier, Metrics(), heartbeat, random.Random(1), timeouts)
    heartbeat.close()


def test_watchdog_is_not_told_of_silence_that_no_kill_ends(
    environment: SupervisorEnvironment, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "KILL_GRACE_S", 0.1)
    process = Unkillable(environment.stop)
    told: list[bytes] = []

    def listen() -> None:
        while not told or told[-1] != b"STOPPING=1":
            told.append(systemd.recv(4096))

    listener = threading.Thread(target=listen)
    listener.start()
    launch = cast("Launch", lambda slot: process)
    assert Supervisor(SPECS, launch, environment).run() == 1
    listener.join()
    assert process.received[0] == signal.SIGKILL
    # A look every 20 ms; only those of the first 100 ms found nothing wrong.
    assert told.count(b"WATCHDOG=1") < 15


def test_stage_that_cannot_be_launched_is_tried_again(
    environment: SupervisorEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[Slot] = []

    def launch(slot: Slot) -> Any:
        attempts.append(slot)
        if len(attempts) == 3:
            environment.stop.set("enough")
        raise FileNotFoundError(2, "no such program")

    assert Supervisor(SPECS, launch, environment).run() == 0
    assert attempts == [Slot("saver", 0)] * 3
    assert caplog.text.count("stage cannot be launched") == 3


def test_own_error_leaves_no_stage_behind(environment: SupervisorEnvironment) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def launch(slot: Slot) -> "subprocess.Popen[bytes]":
        if slot.index == 1:
            raise ValueError("a fault of ours")
        processes.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return processes[0]

    with pytest.raises(ValueError, match="a fault of ours"):
        Supervisor([StageSpec("saver", 2, 0)], launch, environment).run()
    assert processes[0].returncode == -signal.SIGKILL
    assert processes[0].stdin is not None
    processes[0].stdin.close()
