import os
import socket
from pathlib import Path

import pytest

from pipeline.process.notify import Notifier


@pytest.mark.parametrize("abstract", [True, False])
def test_messages_reach_the_socket(tmp_path: Path, abstract: bool) -> None:
    name = f"@event-service-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        systemd.settimeout(10)
        notifier = Notifier.from_env({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
        assert notifier.watchdog_interval_s == 30
        notifier.ready("8 stages\nrun")
        notifier.status("x")
        notifier.watchdog()
        notifier.stopping()
        received = [systemd.recv(4096) for _ in range(4)]
    assert received == [b"READY=1\nSTATUS=8 stages run", b"STATUS=x", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.parametrize(
    "env",
    [
        {"NOTIFY_SOCKET": "@x"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "junk"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "junk", "WATCHDOG_USEC": "1000000"},
        {"WATCHDOG_USEC": "1000000"},
    ],
)
def test_watchdog_that_is_not_meant_for_us(env: dict[str, str]) -> None:
    assert Notifier.from_env(env).watchdog_interval_s is None


def test_watchdog_of_this_process() -> None:
    env = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier.from_env(env).watchdog_interval_s == 0.5


def test_nobody_to_tell_is_logged_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier(str(tmp_path / "nobody")).ready("x")
    assert "systemd cannot be told" in caplog.text


def test_without_systemd_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_env({})
    notifier.ready("x")
    notifier.status("x")
    notifier.watchdog()
    notifier.stopping()
    assert caplog.text == ""
