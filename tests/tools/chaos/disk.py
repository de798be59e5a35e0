"""A small disk for the database, where the machine lets us mount one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_BYTES = 512 << 20
"""Several times what a run writes; health warns of the last 64 MiB."""
_TIMEOUT_S = 10.0


@contextmanager
def small_disk(path: Path) -> Iterator[bool]:
    """Mount an empty one at `path`; tells whether that worked, and there is a plain folder if not."""
    path.mkdir(parents=True, exist_ok=True)
    mounted = _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", str(path))
    try:
        yield mounted
    finally:
        if mounted:
            _run("umount", "--lazy", str(path))


def make_read_only(path: Path) -> bool:
    """Let a mounted disk that nobody writes to take no more writes; tells whether that worked."""
    return _run("mount", "-o", "remount,ro", str(path))


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S).returncode == 0
    except OSError:
        return False
