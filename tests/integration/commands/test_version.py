"""The revision is the build's own word, else the checkout's, else unknown; the release stands in one place."""

import configparser
import json
import os
import platform
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline import __version__
from pipeline.cli import main
from pipeline.version import UNKNOWN, git_revision, read_version

ROOT = Path(__file__).resolve().parents[3]
RUNTIME = f"python{platform.python_version()}"


@pytest.fixture
def build_file(tmp_path: Path) -> Path:
    """Where a package in an otherwise empty folder has its file."""
    (tmp_path / "pipeline").mkdir()
    return tmp_path / "pipeline" / "build.json"


def test_what_was_written_at_build_time_is_told(build_file: Path) -> None:
    build_file.write_text(json.dumps({"revision": "a" * 40, "time": "2026-01-02T03:04:05+00:00"}))
    version = read_version(build_file)
    assert (version.revision, version.time, version.runtime) == ("a" * 40, "2026-01-02T03:04:05+00:00", RUNTIME)


@pytest.mark.parametrize("text", [None, "", "[]", '{"revision": "a"}', "\0"])
def test_without_a_good_file_and_a_checkout_it_is_unknown(build_file: Path, text: str | None) -> None:
    if text is not None:
        build_file.write_text(text)
    version = read_version(build_file)
    assert (version.revision, version.time, version.runtime) == (UNKNOWN, UNKNOWN, RUNTIME)


def test_a_checkout_tells_its_commit(build_file: Path) -> None:
    checkout = build_file.parents[1]
    git = ["git", "-C", str(checkout), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    when = {"GIT_AUTHOR_DATE": "2026-01-02T03:04:05+00:00", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05+00:00"}
    subprocess.run([*git, "init", "-q"], check=True)
    assert git_revision(checkout) is None
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True, env=os.environ | when)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    version = read_version(build_file)
    assert (version.revision, version.time) == (head, "2026-01-02T03:04:05+00:00")


def test_without_git_it_is_unknown(build_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (build_file.parents[1] / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert read_version(build_file).revision == UNKNOWN


def test_release_is_named_in_one_place() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: pipeline.__version__"
    assert CliRunner().invoke(main, ["--version"], prog_name="event-service").output.split()[-1] == __version__


def test_changelog_begins_with_what_is_being_made() -> None:
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased" if ".dev" in __version__ else __version__)
    assert len(headings) == len(set(headings))
