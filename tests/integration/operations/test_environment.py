"""`bin/event-service` after an update without a network: it starts where .venv has all, or says what it lacks."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.child import ROOT

# An index that refuses at once, whatever the machine's own configuration says.
OFFLINE = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_RETRIES": "0",
    "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": os.devnull,
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout whose .venv has the packages of this one, installed for another setup.cfg."""
    for name in ("bin", "pipeline", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    venv = tmp_path / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(ROOT / ".venv" / name)
    (venv / ".installed-run").write_text("another\n")
    return tmp_path


def version(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "bin" / "event-service"), "--version"]
    return subprocess.run(command, env=os.environ | OFFLINE, capture_output=True, text=True, timeout=120, check=False)


def test_environment_that_has_all_is_used_without_a_network(checkout: Path) -> None:
    with (checkout / "setup.cfg").open("a") as file:
        file.write("\n# An update that asks for nothing new.\n")
    for _ in range(2):
        done = version(checkout)
        assert (done.returncode, done.stderr) == (0, "")


def test_what_an_environment_lacks_is_said_without_a_network(checkout: Path) -> None:
    path = checkout / "setup.cfg"
    wanted = "    click >= 1000\n    no-such-package-of-event-service >= 2\n"
    path.write_text(path.read_text().replace("    click >= 8.1, < 9\n", wanted))
    done = version(checkout)
    assert done.returncode == 1
    lacks = "click>=1000, no-such-package-of-event-service>=2"
    assert f"downloading what {checkout}/.venv lacks: {lacks}" in done.stderr
    assert f"packages cannot be installed. Missing in {checkout}/.venv: {lacks}." in done.stderr
    assert "PIP_INDEX_URL" in done.stderr
    assert (checkout / ".venv" / ".installed-run").read_text() == "another\n"
