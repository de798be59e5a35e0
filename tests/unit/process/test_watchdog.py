"""systemd hears of a lone stage's first heartbeat, and nothing once it hangs."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.notify import Notifier
from pipeline.process.watchdog import StageWatchdog

INTERVAL_S = 30.0


class Systemd:
    """The other end of the socket."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self._socket.recv(4096).decode().splitlines()[0])
            except BlockingIOError:
                return said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


def test_ready_at_the_first_beat_and_silent_once_it_hangs(
    runtime: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.process.watchdog._LOOK_EVERY_S", 3600.0)
    clock = ManualClock()
    clock.advance(100)
    watchdog = StageWatchdog(runtime, "saver-0", Notifier(systemd.address, INTERVAL_S), clock)
    watchdog.look()
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    watchdog.look()
    assert systemd.heard() == []
    heartbeat.beat()
    watchdog.look()
    assert systemd.heard() == ["READY=1", "WATCHDOG=1"]
    for _ in range(20):
        clock.advance(1)
        heartbeat.beat()
        watchdog.look()
    assert systemd.heard().count("WATCHDOG=1") == 2, "often enough and no more"
    clock.advance(INTERVAL_S / 2)
    watchdog.look()
    clock.advance(INTERVAL_S)
    watchdog.look()
    assert systemd.heard() == []
    watchdog.close()
    assert systemd.heard() == ["STOPPING=1"]
    heartbeat.close()


def test_without_systemd_no_thread_runs(runtime: Path) -> None:
    watchdog = StageWatchdog(runtime, "saver-0", Notifier.from_env({}), ManualClock())
    watchdog.look()
    watchdog.close()
