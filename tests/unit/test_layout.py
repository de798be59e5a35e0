"""The top level holds what was agreed on and nothing else."""

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
