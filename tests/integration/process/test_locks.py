"""Lock files that processes of other users hold."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import CannotStart
from pipeline.process.locks import FileLock, lock_holder

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")


@contextmanager
def locked_by_nobody(path: Path) -> Iterator[str]:
    """Another user's process that tries to lock `path`; gives what came of it, and holds the lock meanwhile."""
    said, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(pwd.getpwnam("nobody").pw_gid)
        os.setuid(pwd.getpwnam("nobody").pw_uid)
        os.close(done[1])
        try:
            os.write(said[1], b"held" if FileLock.take(path) else b"taken")
        except CannotStart as error:
            os.write(said[1], str(error).encode())
        os.read(done[0], 1)
        os._exit(0)
    try:
        yield os.read(said[0], 1000).decode()
    finally:
        for descriptor in (*said, *done):
            os.close(descriptor)
        os.waitpid(child, 0)


@needs_root
def test_lock_that_may_only_be_read_is_held_all_the_same(shared: Path) -> None:
    """Its holder cannot be named; a dead one, whose name is left in it, is not."""
    path = shared / "saver-0.lock"
    path.write_text("4194305\n")
    path.chmod(0o644)
    with locked_by_nobody(path) as outcome:
        assert outcome == "held"
        assert FileLock.take(path) is None
        assert lock_holder(path) == "another process"
    lock = FileLock.take(path)
    assert lock is not None
    assert lock_holder(path) == f"process {os.getpid()}"
    lock.release()


@needs_root
def test_lock_that_cannot_be_opened_is_a_clear_message(shared: Path) -> None:
    path = shared / "saver-0.lock"
    path.touch(0o600)
    with locked_by_nobody(path) as outcome:
        assert outcome == f"lock file {path}: Permission denied"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that other users can enter; a worker's lies one folder deeper than that of a run without workers."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
        if folder.name.startswith("pytest-of-"):
            break
    return tmp_path
