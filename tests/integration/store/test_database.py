"""The database beside other programs and users, and on a full disk."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.process import procfs
from pipeline.process.clock import ManualClock, SystemClock
from pipeline.process.stage import WRITE_LOCK_BYTE, shared_memory
from pipeline.store.database import Database
from pipeline.store.database_errors import DiskFull
from pipeline.store.schema import open_database
from tests.support.database import GO_SERVICE, contents, refusal


def test_the_write_ahead_log_of_another_program_is_left_as_it_was(tmp_path: Path) -> None:
    """The Go service may have been killed: what it left in its log is for it, or the import, to take."""
    path = tmp_path / "go.db"
    program = "import apsw, os, sys; c = apsw.Connection(sys.argv[1])\nfor s in sys.argv[2:]: c.execute(s)\nos._exit(0)"
    subprocess.run([sys.executable, "-c", program, path, "PRAGMA journal_mode = wal", *GO_SERVICE], check=True)
    before = contents(tmp_path)
    assert len(before["go.db-wal"]) > 0
    assert "Go service" in refusal(path)
    assert contents(tmp_path) == before


def fill(db: Database) -> None:
    """Write until there is no room."""
    while True:
        with db.write() as tx:
            tx.execute("INSERT INTO drops (event_id, reason, relay, at) VALUES (zeroblob(9000), '', 1, 1)")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")
def test_disk_that_is_full_leaves_every_step_with_one_error(tmp_path: Path, clock: ManualClock) -> None:
    """A real one, down to its last byte: opening, writing, checkpoints and a log that begins again."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)), check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with open_database(path / "events.db", clock) as db:
            with pytest.raises(DiskFull):
                fill(db)
            with contextlib.suppress(OSError), (path / "rest").open("wb", buffering=0) as rest:
                while True:
                    rest.write(b"x")
            for step in (db.checkpoint, db.restart_log):
                with contextlib.suppress(DiskFull):
                    step()
            with db.read() as tx:
                tx.execute("SELECT count(*) FROM drops").fetchall()
    finally:
        subprocess.run(("umount", "--lazy", str(path)), check=True)


def test_holder_of_the_write_lock_is_known_to_the_kernel(db: Database, path: Path) -> None:
    """An operator's sqlite3, by its process and name."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); input()"
    )
    assert procfs.lock_owner(shared_memory(path), WRITE_LOCK_BYTE) == ""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        owner = procfs.lock_owner(shared_memory(path), WRITE_LOCK_BYTE)
        holder.kill()
    assert owner.startswith(f"process {holder.pid} (python")


SERVICE = 64_123


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


STRANGER = """
import os, sys
from pathlib import Path
from pipeline.store.database import Database
from pipeline.store.database_errors import DatabaseUnusable
os.setuid(int(sys.argv[2]))
try:
    Database.open(Path(sys.argv[1]))
except DatabaseUnusable as error:
    print(error)
"""


@needs_root
def test_a_database_that_cannot_be_written_names_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    open_database(path, SystemClock()).close()
    os.chown(path, SERVICE, SERVICE)
    path.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("pytest", "popen", "test")):
            folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(path), str(SERVICE + 1)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert f"it belongs to user {SERVICE} with mode 0644, and this is user {SERVICE + 1}" in done.stdout
