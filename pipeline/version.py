"""Which build this is: written down when a package is built, else asked of the checkout that it runs from."""

import json
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "unknown"
BUILD_FILE = Path(__file__).with_name("build.json")
"""Written into a built package by `pipeline/build.py`: `revision` and `time`."""
_GIT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Version:
    """The revision (40 hex digits) and its commit time (ISO 8601), or `unknown`, and the runtime, as python3.11.7."""

    revision: str
    time: str
    runtime: str


def read_version(build_file: Path = BUILD_FILE) -> Version:
    """Return the version of this program; never fails."""
    try:
        built = json.loads(build_file.read_bytes())
        revision, time = str(built["revision"]), str(built["time"])
    except (OSError, ValueError, KeyError, TypeError):
        revision, time = git_revision(build_file.parents[1]) or (UNKNOWN, UNKNOWN)
    return Version(revision, time, f"python{platform.python_version()}")


def git_revision(checkout: Path) -> tuple[str, str] | None:
    """Revision and commit time of the commit that is checked out at `checkout`; None if git does not know."""
    if not (checkout / ".git").exists():
        return None
    # A checkout that another user owns, as at an installation by root, is only read here.
    command = ("git", "-c", f"safe.directory={checkout}", "-C", str(checkout), "log", "-1", "--format=%H %cI")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    revision, _, time = done.stdout.strip().partition(" ")
    return (revision, time) if revision and time else None
