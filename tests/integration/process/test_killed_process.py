"""What a killed process leaves behind, and who finds it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.process.heartbeat import Heartbeat, read_heartbeat
from pipeline.process.slots import (
    SlotTaken,
    acquire_slot,
)


def test_the_file_of_a_killed_process_tells_that_it_is_gone(runtime: Path) -> None:
    program = (
        "import sys, threading; from pathlib import Path; from pipeline.process.heartbeat import Heartbeat;"
        "from pipeline.process.clock import SystemClock;"
        "beat = Heartbeat(Path(sys.argv[1]), 'saver-0', SystemClock()); beat.beat('at work');"
        "print('beat', flush=True);"
        "threading.Event().wait(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(runtime)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        living = read_heartbeat(runtime, "saver-0", SystemClock())
        process.kill()
        process.wait()
        dead = read_heartbeat(runtime, "saver-0", SystemClock())
    assert living is not None
    assert dead is not None
    assert (living.alive, living.pid) == (True, process.pid)
    assert (dead.alive, dead.status) == (False, "at work")
    # A successor in the same slot is the living one, though the file is the same.
    heartbeat = Heartbeat(runtime, "saver-0", SystemClock())
    successor = read_heartbeat(runtime, "saver-0", SystemClock())
    assert successor is not None
    assert (successor.alive, successor.pid) == (True, os.getpid())
    heartbeat.close()


def test_slot_of_a_killed_process_is_free(runtime: Path) -> None:
    code = (
        "import sys, pathlib; from pipeline.process.slots import acquire_slot;"
        "held = acquire_slot(pathlib.Path(sys.argv[1]), 'saver', 0); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(runtime)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SlotTaken, match=f"process {process.pid}"):
            acquire_slot(runtime, "saver", 0)
        process.kill()
        process.wait()
        acquire_slot(runtime, "saver", 0).release()
