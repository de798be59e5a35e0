"""The tree that the product of another revision runs in."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tools.bench import against
from tests.tools.bench.against import NoSuchRevision, lay_out


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, whose working tree has changed since."""
    root = tmp_path / "checkout"
    for name in ("pipeline", "stages", "tests"):
        (root / name).mkdir(parents=True)
        (root / name / "file.py").write_text("old")
    environment: Mapping[str, str] = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "all")):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    for name in ("pipeline", "tests"):
        (root / name / "file.py").write_text("new")
    monkeypatch.setattr(against, "ROOT", root)
    return root


def test_product_is_of_the_revision_and_tests_are_of_this_tree(checkout: Path, tmp_path: Path) -> None:
    lay_out("HEAD", tmp_path / "other")
    files = sorted((tmp_path / "other").rglob("*.py"))
    assert [(each.parent.name, each.read_text()) for each in files] == [
        ("pipeline", "old"),
        ("stages", "old"),
        ("tests", "new"),
    ]


def test_revision_that_is_not_there_is_named(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSuchRevision, match="no-such-revision"):
        lay_out("no-such-revision", tmp_path / "other")
