"""Children of tests are heard, ended, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.nostr.ports import SERVICE_PORTS
from tests.fakes import net
from tests.fakes.child import ROOT, Child, ChildFailed
from tests.fakes.net import free_port, loopback_address, wait_listening
from tests.fakes.procs import process, session_members

TIMEOUT_S = 60.0
ECHO = "import sys\nfor line in sys.stdin: print('heard', line.strip(), flush=True)"
PARENT = """
import subprocess, sys
# Its standard input is not ours: a pipe of ours would end it together with us, before the test looks.
program = "import threading; threading.Event().wait(60)"
child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL, process_group=0)
print("started", child.pid, flush=True)
sys.stdin.read()
"""
TEST_RUN = """
import os, sys, threading
from tests.fakes.child import Child
child = Child([sys.executable, "-c", "import threading; threading.Event().wait(60)"])
print(child.pid, flush=True)
threading.Event().wait(60)
"""


def run(program: str) -> Child:
    return Child([sys.executable, "-c", program])


def test_lines_go_both_ways() -> None:
    """Lines before the one that is waited for are consumed."""
    with run(ECHO) as child:
        child.say("one")
        child.say("two")
        assert child.wait_line(r"heard (tw.)", TIMEOUT_S)[1] == "two"
        assert child.lines() == []
        assert child.terminate() == -signal.SIGTERM
    assert not child.running


def test_silence_and_a_sudden_end_tell_the_log() -> None:
    with run("import sys; sys.exit('the reason')") as child, pytest.raises(ChildFailed, match="the reason"):
        child.wait_line("ready", TIMEOUT_S)
    with run(ECHO) as child:
        with pytest.raises(ChildFailed, match="no line 'never'"):
            child.wait_line("never", 0.05)
        with pytest.raises(ChildFailed, match="still runs"):
            child.wait(0.05)


def test_grandchildren_end_too() -> None:
    """Also those in a process group of their own, after their parent has been killed."""
    with run(PARENT) as child:
        grandchild = int(child.wait_line(r"started (\d+)", TIMEOUT_S)[1])
        assert {member.pid for member in session_members(child.pid)} == {child.pid, grandchild}
        child.kill()
        assert [member.pid for member in session_members(child.pid)] == [grandchild]
        child.close()
        assert session_members(child.pid) == []
    ended = process(grandchild)
    assert ended is None or not ended.alive


def test_a_killed_test_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """The guard ends what the killed process had started."""
    with Child([sys.executable, "-c", TEST_RUN], env=os.environ | {"TMPDIR": str(tmp_path)}) as test_run:
        grandchild = int(test_run.wait_line(r"(\d+)", TIMEOUT_S)[1])
        test_run.kill()
        for _ in range(600):
            ended = process(grandchild)
            if ended is None or not ended.alive:
                break
            threading.Event().wait(0.1)
        else:
            pytest.fail("it still runs")


def test_scratch_files_are_gone_at_the_end() -> None:
    program = "from tests.fakes.scratch import scratch_path as p; p('x').write_text(''); print(p('y').parent)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert not Path(done.stdout.strip()).exists()
    assert done.stderr == ""


def test_loopback_addresses_differ_and_can_be_bound() -> None:
    addresses = [loopback_address() for _ in range(600)]
    assert len(set(addresses)) == 600
    assert free_port(addresses[-1]) > 0


def test_waiting_for_a_listener_ends() -> None:
    with pytest.raises(TimeoutError, match="nothing listens"):
        wait_listening("127.0.0.1", free_port(), 0.1)


def test_free_port_is_one_at_which_a_relay_is_looked_for() -> None:
    assert SERVICE_PORTS.isdisjoint(net._PORTS)
    assert max(net._PORTS) < 32_768
