import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.process import procfs


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
    assert use.threads >= threading.active_count()
    assert use.open_files is not None
    assert use.open_files >= 3


def test_start_time_is_when_the_process_was_made() -> None:
    use = procfs.process_use(os.getpid())
    assert use is not None
    # The kernel makes a process's folder with the process; its clocks tick in hundredths and btime in whole seconds.
    made_s = Path(f"/proc/{os.getpid()}").stat().st_ctime
    assert use.start_time_s == pytest.approx(made_s, abs=60)


def test_start_ticks_tell_processes_with_one_pid_apart() -> None:
    assert procfs.start_ticks(os.getpid()) == procfs.start_ticks(os.getpid())
    assert procfs.start_ticks(os.getpid()) != procfs.start_ticks(1)


def test_nobody_has_no_use(pid_of_nobody: int) -> None:
    assert procfs.process_use(pid_of_nobody) is None
    assert procfs.start_ticks(pid_of_nobody) is None


def test_a_killed_process_is_gone_before_its_parent_looks() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert procfs.start_ticks(process.pid) is not None
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.start_ticks(process.pid) is None


def test_name_with_parenthesis_and_spaces_is_read() -> None:
    code = (
        "from pipeline.process.procfs import *; set_process_name('a) S 1 (b'); print(process_use(os.getpid()).threads)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"
