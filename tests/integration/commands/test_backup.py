"""`event-service backup PATH`: one moment of a service at work, complete or not there."""

import os
import random
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.store import inbox, users
from pipeline.store.database import Database
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database
from tests.factories.events import authors
from tests.fakes.child import Child
from tests.fakes.net import pause
from tests.integration.commands.operator import Operator
from tests.integration.stages.support import wait_until
from tests.support.seeds import seeds

WAIT_S = 60.0
USERS = authors(63, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "service").mkdir()
    return tmp_path / "service" / "events.db"


@pytest.fixture
def operator(path: Path) -> Operator:
    return Operator(path)


def fill(path: Path, *, rows: int, size: int = 1000) -> None:
    with open_database(path, SystemClock()) as database:
        with database.write() as tx:
            for user in USERS:
                users.register(tx, bytes.fromhex(user.pubkey), 1)
        append(database, 0, rows, size)


def append(database: Database, first: int, count: int, size: int) -> None:
    with database.write() as tx:
        inbox.append(tx, (Arrival(n.to_bytes(32), b"x" * size, 1, 1, 1) for n in range(first, first + count)))


def rows_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM monitored").fetchone() == (3,)
        (count,) = connection.execute("SELECT count(*) FROM inbox").fetchone()
    assert isinstance(count, int)
    return count


def test_a_backup_is_one_file_that_works_in_the_place_of_the_database(
    path: Path, tmp_path: Path, operator: Operator
) -> None:
    fill(path, rows=100)
    target = tmp_path / "backup.db"
    assert f"{target}: " in operator.succeed("backup", str(target))
    assert [each.name for each in tmp_path.iterdir()] in (["service", "backup.db"], ["backup.db", "service"])
    for each in path.parent.iterdir():
        each.unlink()
    shutil.copyfile(target, path)
    assert operator.succeed("users", "list").count("npub1") == 3
    assert rows_in(path) == 100


def test_a_backup_holds_one_moment_while_others_write(path: Path, tmp_path: Path, operator: Operator) -> None:
    """Every transaction adds ten rows; the backup ends although they never cease."""
    fill(path, rows=20_000)
    stop = threading.Event()
    written = [20_000]

    def write() -> None:
        with open_database(path, SystemClock()) as database:
            while not stop.wait(0.001):
                append(database, written[0], 10, 2000)
                written[0] += 10

    writer = threading.Thread(target=write)
    writer.start()
    try:
        first, counts = written[0], []
        for number in range(3):
            operator.succeed("backup", str(tmp_path / f"{number}.db"))
            counts.append(rows_in(tmp_path / f"{number}.db"))
            wait_until(lambda: written[0] > counts[-1], "more written", WAIT_S)
    finally:
        stop.set()
        writer.join(WAIT_S)
    assert first <= counts[0] < counts[1] < counts[2] <= written[0]
    assert all(count % 10 == 0 for count in counts)


def test_what_is_there_stays_unless_told_otherwise(path: Path, tmp_path: Path, operator: Operator) -> None:
    fill(path, rows=10)
    target = tmp_path / "backup.db"
    target.write_bytes(b"precious")
    assert "--force" in operator.fail("backup", str(target), code=2)
    assert target.read_bytes() == b"precious"
    operator.succeed("backup", "--force", str(target))
    assert rows_in(target) == 10


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_the_database_is_never_its_own_backup(path: Path, operator: Operator, suffix: str) -> None:
    fill(path, rows=10)
    assert "the database itself" in operator.fail("backup", "--force", f"{path}{suffix}", code=2)
    assert rows_in(path) == 10


def test_without_a_database_or_a_place_there_is_no_backup(path: Path, tmp_path: Path, operator: Operator) -> None:
    assert "there is no database" in operator.fail("backup", str(tmp_path / "backup.db"), code=3)
    assert not path.exists()
    fill(path, rows=10)
    assert "no backup" in operator.fail("backup", str(tmp_path / "missing" / "backup.db"))


@pytest.mark.parametrize("seed", seeds(2))
def test_a_killed_backup_leaves_nothing_by_its_name_and_the_next_one_works(
    path: Path, tmp_path: Path, operator: Operator, seed: int
) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    fill(path, rows=60_000)
    target = tmp_path / "backup.db"
    unfinished = 0
    for _ in range(6):
        with Child(operator.command("backup", "--force", str(target)), env=operator.env) as child:
            pause(rng.uniform(0.2, 0.6))
            child.kill()
        unfinished += target.with_name("backup.db.part").exists()
        if target.exists():
            assert rows_in(target) == 60_000
            target.unlink()
    print(f"{unfinished} were killed at work")
    operator.succeed("backup", str(target))
    assert rows_in(target) == 60_000
    assert not target.with_name("backup.db.part").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path))
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield path
    subprocess.run(("umount", "--lazy", str(path)), check=True)


def test_full_disk_is_said_to_be_the_backups(path: Path, operator: Operator, small_disk: Path) -> None:
    """Not the database's, which is well."""
    fill(path, rows=3000)
    done = operator.run("backup", str(small_disk / "copy.db"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"event-service: no backup: the disk of {small_disk}, where the backup goes, is full"
    )
    assert list(small_disk.iterdir()) == []
