import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.process import procfs
from pipeline.process.clock import since_boot_s


@pytest.fixture
def pid_of_nobody() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_use_of_this_process() -> None:
    use = procfs.process_use(os.getpid())
    assert use is not None
    assert use.cpu_s > 0
    assert 2**20 < use.resident_bytes < 2**40
    assert use.virtual_bytes > use.resident_bytes
    assert use.threads >= threading.active_count()
    assert use.open_files is not None
    assert use.open_files >= 3


def test_a_process_starts_between_boot_and_now() -> None:
    before = since_boot_s()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = procfs.started_after_boot_s(process.pid)
        process.kill()
    assert started is not None
    # The kernel's ticks are hundredths.
    assert before - 0.02 <= started <= since_boot_s() + 0.02


def test_nobody_has_no_use(pid_of_nobody: int) -> None:
    assert procfs.process_use(pid_of_nobody) is None
    assert procfs.started_after_boot_s(pid_of_nobody) is None


def test_a_killed_process_is_gone_before_its_parent_looks() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert procfs.started_after_boot_s(process.pid) is not None
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.started_after_boot_s(process.pid) is None


def test_name_with_parenthesis_and_spaces_is_read() -> None:
    code = (
        "from pipeline.process.procfs import *; set_process_name('a) S 1 (b'); print(process_use(os.getpid()).threads)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


def test_command_line_is_shown_as_far_as_there_is_room() -> None:
    program = """
from pathlib import Path
from pipeline.process import procfs
room = len(Path("/proc/self/cmdline").read_bytes())
procfs.set_command_line(["event-service", "stage", "saver"])
print(Path("/proc/self/cmdline").read_text().rstrip(chr(0)).split(chr(0)))
procfs.set_command_line(["x" * 100_000])
print(len(Path("/proc/self/cmdline").read_text().rstrip(chr(0))) == room - 1)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["['event-service', 'stage', 'saver']", "True"]


def test_hidden_proc_leaves_the_command_line_and_names_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = Path("/proc/self/cmdline").read_bytes()
    monkeypatch.setattr(procfs, "_PROC", tmp_path)
    procfs.set_command_line(["event-service"])
    assert procfs.open_descriptors() is None
    assert Path("/proc/self/cmdline").read_bytes() == before
