"""`event-service backup --keep N FOLDER`: dated copies, of which the newest are kept, and no other file is touched."""

import fcntl
import os
import re
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.store import backups, taken_parcels
from pipeline.store.schema import open_database
from pipeline.store.taken_parcels import Position
from tests.integration.commands.operator import Operator
from tests.integration.commands.test_backup import fill, rows_in

FOREIGN = (
    "events.db", "events-20200101T000000Z.db.gz", "other-20200101T000000Z.db", "events-2020.db",
    "my-events-20200101T000000Z.db", "notes.txt",
)  # fmt: skip
OLD = [f"events-2020010{day}T000000Z.db" for day in range(1, 5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "service").mkdir()
    fill(tmp_path / "service" / "events.db", rows=10)
    return tmp_path / "service" / "events.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "backups"
    made.mkdir()
    for name in (*FOREIGN, *OLD):
        (made / name).write_bytes(b"")
    return made


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_newest_copies_stay_and_no_other_file_is_touched(path: Path, folder: Path) -> None:
    (folder / "events-20190101T000000Z.db").symlink_to(path)
    (folder / "events-20180101T000000Z.db").mkdir()
    said = Operator(path).succeed("backup", "--keep", "3", str(folder))
    (new,) = names(folder) - {*FOREIGN, *OLD, "events-20190101T000000Z.db", "events-20180101T000000Z.db"}
    assert re.fullmatch(r"events-\d{8}T\d{6}Z\.db", new)
    assert rows_in(folder / new) == 10
    assert (folder / new).stat().st_mode & 0o777 == 0o600
    assert names(folder) >= {*FOREIGN, *OLD[2:], "events-20190101T000000Z.db", "events-20180101T000000Z.db"}
    assert not names(folder) & set(OLD[:2])
    assert said.count("removed ") == 2


def test_what_an_interrupted_backup_left_goes_and_one_under_way_stays(path: Path, folder: Path) -> None:
    left, running = (folder / f"events-2020010{day}T000000Z.db.part" for day in (1, 2))
    left.touch()
    descriptor = os.open(running, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        Operator(path).succeed("backup", "--keep", "9", str(folder))
    finally:
        os.close(descriptor)
    assert not left.exists()
    assert running.exists()


def test_damaged_database_gives_no_copy_and_removes_none(path: Path, folder: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-3 * 4096, os.SEEK_END)
        file.write(b"\xff" * 8192)
    before = names(folder)
    said = Operator(path).fail("backup", "--keep", "1", str(folder), code=1)
    assert "no backup: the copy is damaged" in said or "malformed" in said
    assert names(folder) == before


def test_folder_that_is_missing_is_an_error_of_usage(path: Path, tmp_path: Path) -> None:
    assert "is no folder" in Operator(path).fail("backup", "--keep", "1", str(tmp_path / "none"), code=2)
    assert "name a file, or use --keep" in Operator(path).fail("backup", str(tmp_path), code=2)


def test_copy_and_database_know_what_the_newest_backup_has(path: Path, folder: Path) -> None:
    with open_database(path, SystemClock()) as database:
        with database.write() as tx:
            taken_parcels.put_positions(tx, [("a" * 32, Position(7, b""))])
        Operator(path).succeed("backup", "--keep", "1", str(folder))
        (copy,) = folder.glob("events-202[1-9]*.db")
        with database.read() as tx:
            noted = backups.newest(tx)
    with open_database(copy, SystemClock()) as database, database.read() as tx:
        assert backups.newest(tx) == noted
    assert noted is not None
    assert dict(noted.positions) == {"a" * 32: 7}
    assert abs(noted.at - SystemClock().now_ms()) < 600_000
