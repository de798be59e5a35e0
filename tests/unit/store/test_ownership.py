"""What root makes here stays usable for the service's own user."""

import os
import stat
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.store.ownership import describe_owner, give_as
from pipeline.store.schema import open_database

SERVICE = 64_123

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@needs_root
def test_database_made_by_root_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    """Its log and index too, which SQLite makes beside it."""
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, SERVICE, SERVICE)
    with open_database(folder / "events.db", SystemClock()) as database, database.write() as tx:
        tx.execute("UPDATE generations SET latest = latest")
        owners = {path.name: path.stat().st_uid for path in folder.iterdir()}
    assert owners == dict.fromkeys(("events.db", "events.db-wal", "events.db-shm"), SERVICE)
    assert stat.S_IMODE((folder / "events.db").stat().st_mode) == 0o600


def test_a_database_may_be_read_by_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    """Its log and index too."""
    before = os.umask(0)
    try:
        with open_database(tmp_path / "events.db", SystemClock()) as database, database.write() as tx:
            tx.execute("UPDATE generations SET latest = latest")
            modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o600}


@needs_root
def test_a_replaced_file_keeps_owner_and_mode(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    new.touch()
    os.chown(old, SERVICE, SERVICE + 1)
    old.chmod(0o640)
    give_as(new, old)
    found = new.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (SERVICE, SERVICE + 1, 0o640)


def test_the_owner_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.touch()
    path.chmod(0o604)
    assert "belongs to user " in describe_owner(path)
    assert "with mode 0604" in describe_owner(path)
    assert describe_owner(tmp_path / "missing") == ""
    assert describe_owner(tmp_path) == "it is a directory"


def test_read_only_file_system_is_named_rather_than_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.db"
    path.touch()
    found = list(os.statvfs(tmp_path))
    found[8] |= os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(found))
    assert describe_owner(path) == describe_owner(tmp_path / "missing") == "the file system is mounted read-only"
