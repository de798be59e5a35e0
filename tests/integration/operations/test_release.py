"""`bin/release` refuses what is not ready to be released, before it builds or tags anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CHANGELOG = "# Changelog\n\n## [1.2.3] - 2026-01-02\n\n### Added\n\n- A thing.\n\n## [1.2.2] - 2026-01-01\n"
IDENTITY = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | IDENTITY, capture_output=True, text=True, check=True
    )
    return done.stdout


def release(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "bin" / "release"), "--skip-tests"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a version that is ready, as far as can be seen before it is built."""
    for name in ("bin/release", "bin/environment.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init", "-q")
    return tmp_path


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


def refused(folder: Path) -> str:
    done = release(folder)
    assert done.returncode == 1
    assert not (folder / "dist").exists()
    assert not (folder / ".peers").exists()
    return done.stderr


def test_version_in_the_making_is_not_released(checkout: Path) -> None:
    (checkout / "pipeline" / "__init__.py").write_text('__version__ = "1.2.3.dev0"\n')
    commit(checkout)
    assert "version 1.2.3.dev0 is not one to release" in refused(checkout)


def test_uncommitted_change_is_not_released(checkout: Path) -> None:
    commit(checkout)
    (checkout / "stray").touch()
    assert "the tree is not clean" in refused(checkout)


def test_version_is_released_once(checkout: Path) -> None:
    commit(checkout)
    git(checkout, "tag", "v1.2.3")
    assert "v1.2.3 is tagged already" in refused(checkout)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CHANGELOG.replace("[1.2.3] - 2026-01-02", "[Unreleased]"), "has no line"),
        (CHANGELOG.replace("[1.2.3] - 2026-01-02", "[1.2.3]"), "has no line"),
        (CHANGELOG.replace("1.2.3", "1x2.3"), "has no line"),
        (CHANGELOG.replace("### Added\n\n- A thing.\n\n", ""), "says nothing of 1.2.3"),
    ],
)
def test_version_without_its_changes_is_not_released(checkout: Path, text: str, said: str) -> None:
    (checkout / "CHANGELOG.md").write_text(text)
    commit(checkout)
    assert said in refused(checkout)
