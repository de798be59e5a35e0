"""The top level holds what was agreed on and nothing else; each tier of tests what it is for."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AGREED = {"setup.cfg", "pyproject.toml", "Dockerfile", "README.md", "pipeline", "stages", "bin", "tests"}
CUSTOMARY = {"SECURITY.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"}
"""Documents that convention looks for at the top of a repository."""


def test_the_top_level() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    present = {name.split("/")[0] for name in listed.splitlines() if not name.startswith(".")}
    assert present >= AGREED
    assert present <= AGREED | CUSTOMARY


STARTS_PROCESSES = re.compile(
    r"subprocess\.(run|Popen|check_\w+)\(|multiprocessing|os\.fork\b"
    r"|from tests\.fakes\.(\w+_process|child|service|procs)\b"
)
LISTS_FILES_BY_GIT = {"test_layout.py", "test_documents.py"}


def test_unit_tests_and_simulations_start_no_process() -> None:
    """So that all of them are done within a minute; such tests belong into tests/integration."""
    files = [path for tier in ("unit", "simulation") for path in (ROOT / "tests" / tier).rglob("*.py")]
    assert len(files) > 100
    starting = {path.name for path in files if STARTS_PROCESSES.search(path.read_text())}
    assert starting == LISTS_FILES_BY_GIT
