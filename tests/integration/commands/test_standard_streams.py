"""Commands whose standard streams are closed, or take no more."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.process.clock import SystemClock
from pipeline.store.schema import open_database
from tests.fakes.service import EventService

_COMMAND = [sys.executable, "-m", "pipeline.cli"]


def run(tmp_path: Path, command: str, *, redirected: str) -> subprocess.CompletedProcess[str]:
    """A command with the settings of an empty database, its streams as a shell redirects them."""
    database = tmp_path / "events.db"
    open_database(database, SystemClock()).close()
    env = {**os.environ, "EVENTS_DATABASE_PATH": str(database), "EVENTS_ENVIRONMENT": "DEVELOPMENT"}
    line = f"exec {' '.join(_COMMAND)} {command} {redirected}"
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False, env=env)


def test_full_device_as_output_is_one_line_and_code_1(tmp_path: Path) -> None:
    done = run(tmp_path, "check", redirected=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "Error: the output cannot be written: No space left on device\n")


def test_closed_standard_streams_become_the_null_device(tmp_path: Path) -> None:
    said = tmp_path / "said"
    code = (
        "import os, pathlib, sys\n"
        "from pipeline.process.standard_streams import open_closed_streams\n"
        "open_closed_streams()\n"
        "print('out'), print('err', file=sys.stderr)\n"
        "os.write(2, b'as libraries in C do')\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    file.write(' '.join(os.readlink(f'/proc/self/fd/{number}') for number in range(3)))\n"
    )
    line = 'exec "$@" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", line, "sh", sys.executable, "-c", code, said], timeout=60, check=True)
    assert said.read_text() == "/dev/null /dev/null /dev/null"


def test_service_runs_with_closed_standard_streams(tmp_path: Path) -> None:
    """The descriptors of database, sink and sockets are no standard streams, and logging fails nowhere."""
    closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *_COMMAND)
    with EventService(tmp_path, command=closed) as service:
        for stage in service.stages():
            streams = [Path(f"/proc/{stage.process.pid}/fd/{number}").readlink() for number in (1, 2)]
            assert streams == [Path(os.devnull)] * 2
        assert service.stop() == 0
