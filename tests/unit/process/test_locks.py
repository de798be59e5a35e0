"""Lock files, of whatever owner and mode."""

import os
import pwd
from pathlib import Path

import pytest

from pipeline.errors import CannotStart
from pipeline.process.locks import FileLock, locks_directory, owner_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    path.touch()
    path.chmod(0o640)
    return path


def test_lock_is_as_accessible_as_the_database(database: Path) -> None:
    """Whatever the umask."""
    before = os.umask(0o077)
    try:
        directory = locks_directory(database)
        lock = FileLock.take(directory / "saver-0.lock", owner_of(database))
    finally:
        os.umask(before)
    assert lock is not None
    assert directory.stat().st_mode & 0o777 == 0o750
    assert lock.path.stat().st_mode & 0o777 == 0o640
    lock.release()


@needs_root
def test_lock_made_by_root_is_the_database_owners(database: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(database, nobody.pw_uid, nobody.pw_gid)
    lock = FileLock.take(locks_directory(database) / "saver-0.lock", owner_of(database))
    assert lock is not None
    for path in (lock.path, lock.path.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (nobody.pw_uid, nobody.pw_gid)
    lock.release()


def test_link_in_the_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(CannotStart, match="lock file"):
        FileLock.take(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
