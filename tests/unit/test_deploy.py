"""The unit files are what systemd takes, and hardened."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "pipeline" / "deploy"
UNITS = ("event-service.service", "event-service@.service")
MAX_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit with a program that exists here, since systemd looks for it."""
    name: str = request.param
    path = tmp_path / name
    text = (DEPLOY / name).read_text()
    path.write_text(text.replace("/opt/event-service/bin/event-service", sys.executable))
    return path


@needs_systemd
def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_the_exposure_is_low(unit: Path) -> None:
    if "@" in unit.name:
        unit = unit.rename(unit.with_name("event-service-forwarder.service"))
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    level = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    assert level is not None, said
    assert float(level[1]) <= MAX_EXPOSURE


def test_the_supervisor_has_time_to_drain() -> None:
    """systemd must wait longer than the supervisor gives its stages."""
    from pipeline.process.supervisor import Times

    stop = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / UNITS[0]).read_text(), re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) > Times().drain_s


@pytest.mark.parametrize("name", UNITS)
def test_a_reload_reaches_the_process_that_reads_the_file(name: str) -> None:
    """SIGHUP would end a service that follows no file."""
    text = (DEPLOY / name).read_text()
    assert re.search(r"^ExecStart=.* --env-file /etc/event-service/environment$", text, re.MULTILINE)
    assert "\nExecReload=kill -HUP $MAINPID\n" in text


def test_the_readme_makes_the_file_that_the_units_read() -> None:
    """Readable for the service, which reads it under a user of its own."""
    readme = (DEPLOY.parents[1] / "README.md").read_text()
    assert "install -D -m 0644 /dev/stdin /etc/event-service/environment" in readme
