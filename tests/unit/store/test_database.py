"""Opening the file, refusing what is not ours without touching it, and what transactions promise."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import apsw
import pytest

from pipeline.process.clock import ManualClock
from pipeline.store import database, database_file
from pipeline.store.database import Database, Tx
from pipeline.store.database_errors import BUSY_TIMEOUT_S, DatabaseBusy, DatabaseFailed, DatabaseUnusable, DiskFull
from pipeline.store.database_file import APPLICATION_ID, JOURNAL_SIZE_LIMIT, wal_bytes
from pipeline.store.schema import open_database, open_to_read
from tests.fakes.net import pause
from tests.support.database import GO_SERVICE, contents, refusal

NOBODY = 65_534


def make(path: Path, *statements: str) -> None:
    with apsw.Connection(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def insert(tx: Tx, key: bytes = b"k" * 32) -> None:
    tx.execute("INSERT INTO authors (public_key) VALUES (?)", (key,))


def authors(db: Database) -> int:
    with db.read() as tx:
        count = tx.execute("SELECT count(*) FROM authors").get
    assert isinstance(count, int)
    return count


def garbage(path: Path) -> None:
    path.write_bytes(b"all sorts of things\n" * 500)


def short(path: Path) -> None:
    path.write_bytes(b"hello")


def foreign(path: Path) -> None:
    make(path, "CREATE TABLE recipes (name TEXT)")


def foreign_by_id(path: Path) -> None:
    make(path, "PRAGMA application_id = 12345", "PRAGMA user_version = 3")


def go_service(path: Path) -> None:
    make(path, *GO_SERVICE)


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (garbage, "no SQLite database"),
        (short, "no SQLite database"),
        (foreign, "another program"),
        (foreign_by_id, "another program"),
        (go_service, "Go service; it must be imported"),
    ],
)
def test_what_is_not_ours_is_refused_and_left_as_it_was(
    tmp_path: Path, write: Callable[[Path], None], why: str
) -> None:
    path = tmp_path / "some.db"
    write(path)
    before = contents(tmp_path)
    assert why in refusal(path)
    assert str(path) in refusal(path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("path", ["", "missing/events.db", "/proc/events.db"])
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, path: str) -> None:
    """The first is the folder itself. A disk that is away for a moment looks the same, so it may be tried again."""
    with pytest.raises(DatabaseFailed, match="cannot be opened or created"):
        Database.open(tmp_path / path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that users other than root can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o777)


@contextmanager
def somebody_else() -> Iterator[None]:
    """Be a user for whom permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_file_that_cannot_be_written_is_refused(folder: Path, fresh: bool) -> None:
    path = folder / "events.db"
    if fresh:
        path.touch()
    else:
        open_database(path, ManualClock()).close()
    path.chmod(0o444)
    before = path.read_bytes()
    with somebody_else():
        assert "cannot be written" in refusal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("fresh", [True, False])
def test_a_file_in_a_folder_that_cannot_be_written_is_refused(folder: Path, fresh: bool) -> None:
    """The log and the shared memory have no place there."""
    path = folder / "events.db"
    if fresh:
        path.touch()
    else:
        open_database(path, ManualClock()).close()
    path.chmod(0o666)
    folder.chmod(0o555)
    before = contents(folder)
    with somebody_else():
        assert str(path) in refusal(path)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["events.db", "missing.db"])
def test_folder_that_may_not_be_entered_is_a_failure_that_says_so(folder: Path, name: str) -> None:
    (folder / "events.db").touch()
    folder.chmod(0)
    with somebody_else(), pytest.raises(DatabaseFailed, match="who may not look into its folder"):
        open_to_read(folder / name, ManualClock())


def test_a_file_that_cannot_be_made_is_refused(folder: Path) -> None:
    folder.chmod(0o555)
    with somebody_else(), pytest.raises(DatabaseFailed, match="cannot be opened or created"):
        Database.open(folder / "events.db")
    assert contents(folder) == {}


@pytest.mark.parametrize(
    ("version", "usable"), [("3.51.2", False), ("3.7.17", False), ("3.51.3", True), ("4.0.0", True)]
)
def test_an_sqlite_that_can_corrupt_the_file_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: str, usable: bool
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    if usable:
        Database.open(path).close()
    else:
        message = refusal(path)
        assert version in message
        assert "3.51.3" in message
        assert not path.exists()


def test_an_open_file_is_set_up_for_many_processes(db: Database) -> None:
    settings = {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 0, "application_id": APPLICATION_ID}
    assert {name: db.pragma(name) for name in settings} == settings
    assert db.pragma("journal_size_limit") == JOURNAL_SIZE_LIMIT


def test_a_file_of_no_bytes_and_one_that_was_only_opened_are_ours_to_take(path: Path) -> None:
    """A process may have been killed between making the file and making its tables."""
    path.touch()
    Database.open(path).close()
    open_database(path, ManualClock()).close()
    Database.open(path).close()


def test_a_write_is_whole_or_not_at_all(db: Database) -> None:
    with db.write() as tx:
        insert(tx)
    with pytest.raises(KeyboardInterrupt), db.write() as tx:  # noqa: PT012  (it must come after the insert)
        insert(tx, b"l" * 32)
        raise KeyboardInterrupt
    assert authors(db) == 1
    with pytest.raises(apsw.ConstraintError), db.write() as tx:  # noqa: PT012  (as above)
        insert(tx, b"m" * 32)
        insert(tx)
    assert authors(db) == 1
    with db.write() as tx:
        insert(tx, b"n" * 32)
    assert authors(db) == 2


def test_a_full_disk_is_the_fault_of_the_database_and_leaves_it_usable(db: Database) -> None:
    pages = int(db.pragma("page_count"))
    db.pragma("max_page_count", pages)
    with pytest.raises(DatabaseFailed, match="cannot be written"), db.write() as tx:
        tx.execute("INSERT INTO payloads VALUES (1, zeroblob(100000))")
    db.pragma("max_page_count", 2**30)
    with db.write() as tx:
        insert(tx)
    assert authors(db) == 1


def test_who_waits_too_long_for_the_lock_is_told_so(
    db: Database, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not told that the file is unusable, which would end the service for good."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with open_database(path, clock) as other:
        with db.write():
            with pytest.raises(DatabaseBusy, match="stayed locked"), other.write():
                pytest.fail("both hold the lock")
            with pytest.raises(DatabaseBusy):
                open_database(path, clock)
        with other.write() as tx:
            insert(tx)
    assert authors(db) == 1


def test_file_locked_while_opened_is_not_reported_unusable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with apsw.Connection(str(path)) as other:
        other.execute("COMMIT")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseBusy, match="stayed locked"):
            Database.open(path)
        other.execute("ROLLBACK")
        other.execute("BEGIN")


def test_a_writer_waits_for_the_one_before_it(db: Database, path: Path, clock: ManualClock) -> None:
    """Even where it has read before it writes, which fails at once in a deferred transaction."""
    read, seen = threading.Event(), []

    def write() -> None:
        with open_database(path, clock) as other:
            assert authors(other) == 0
            read.set()
            with other.write() as tx:
                seen.append(tx.execute("SELECT count(*) FROM authors").get)
                insert(tx, b"o" * 32)

    thread = threading.Thread(target=write)
    thread.start()
    assert read.wait(60)
    with db.write() as tx:
        insert(tx)
        pause(0.02)
    thread.join(60)
    assert authors(db) == 2
    assert seen in ([0], [1]), "whichever came first, the other waited"


def test_snapshot_stays_fixed_while_held_and_pins_nothing_afterwards(
    db: Database, path: Path, clock: ManualClock
) -> None:
    with open_database(path, clock) as other:
        with db.write() as tx:
            tx.executemany("INSERT INTO authors (public_key) VALUES (?)", ((bytes([n]) * 32,) for n in range(99)))
        with other.read() as tx:
            assert tx.execute("SELECT id FROM authors ORDER BY id").fetchone() == (1,)
            with db.write() as writing:
                insert(writing)
            assert tx.execute("SELECT count(*) FROM authors").get == 99
            assert not db.restart_log()
        assert db.restart_log()
        assert authors(other) == 100


def test_restarting_the_log_gives_up_soon_while_a_reader_needs_it(db: Database, path: Path, clock: ManualClock) -> None:
    """Writers wait meanwhile, so a reader that was stopped in the middle must not stop the whole service."""
    with open_database(path, clock) as reader, reader.read() as snapshot:
        assert snapshot.execute("SELECT count(*) FROM authors").get == 0
        with db.write() as tx:
            insert(tx)
        began = monotonic()
        assert not db.restart_log()
        assert monotonic() - began < BUSY_TIMEOUT_S
        assert snapshot.execute("SELECT count(*) FROM authors").get == 0
    assert db.restart_log()
    assert authors(db) == 1


def test_after_a_restart_of_the_log_a_writer_is_as_patient_as_before(
    db: Database, path: Path, clock: ManualClock
) -> None:
    assert db.restart_log()
    held = threading.Event()

    def hold() -> None:
        with open_database(path, clock) as holder, holder.write():
            held.set()
            pause(4 * database.RESTART_PATIENCE_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    with db.write() as tx:
        insert(tx)
    thread.join(60)
    assert authors(db) == 1


def test_checkpoints_empty_the_log_without_waiting_for_readers(db: Database, path: Path, clock: ManualClock) -> None:
    assert wal_bytes(path.with_name("none.db")) == 0
    with db.write() as tx:
        insert(tx)
    assert wal_bytes(path) > 0
    with open_database(path, clock) as reader, reader.read() as snapshot:
        snapshot.execute("SELECT count(*) FROM authors").fetchall()
        began = monotonic()
        db.checkpoint()
        assert monotonic() - began < BUSY_TIMEOUT_S
    db.checkpoint()
    assert db.restart_log()


def test_a_checkpoint_is_left_to_whoever_is_at_it(db: Database, path: Path, clock: ManualClock) -> None:
    """SQLite calls the second of two checkpoints at once busy, and never waits for the first."""
    done: list[bool] = []

    def while_the_other_waits(_: int) -> bool:
        # What a busy handler raises would come out of the other's checkpoint, where busy is what is expected.
        done.append(False)
        db.checkpoint()
        done[-1] = True
        return False

    with open_database(path, clock) as reader, reader.read() as snapshot, closing(apsw.Connection(str(path))) as other:
        snapshot.execute("SELECT count(*) FROM authors").fetchall()
        with db.write() as tx:
            insert(tx)
        other.execute("SELECT count(*) FROM authors").fetchall()
        other.set_busy_handler(while_the_other_waits)
        with pytest.raises(apsw.BusyError):
            other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
    assert done == [True]


def test_the_data_version_tells_of_commits_by_others_only(db: Database, path: Path, clock: ManualClock) -> None:
    with open_database(path, clock) as other:
        before = other.data_version()
        assert other.data_version() == before
        with other.write() as tx:
            insert(tx)
        assert other.data_version() == before
        with db.write() as tx:
            insert(tx, b"p" * 32)
        assert other.data_version() != before


def test_closing_twice_is_closing(path: Path) -> None:
    opened = Database.open(path)
    opened.close()
    opened.close()
    assert path.exists()


def test_a_broken_file_is_the_fault_of_the_database_when_it_is_read(path: Path, clock: ManualClock) -> None:
    with open_database(path, clock) as db, db.write() as tx:
        tx.executemany("INSERT INTO authors (public_key) VALUES (?)", ((n.to_bytes(32),) for n in range(6_000)))
    content = bytearray(path.read_bytes())
    # The first pages hold the schema, which is read whenever the file is opened.
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with open_database(path, clock) as db:
        with pytest.raises(DatabaseFailed, match="cannot be read"), db.read() as tx:
            tx.execute("SELECT sum(length(public_key)) FROM authors").fetchall()
        with db.read() as tx:
            assert tx.execute("SELECT 1").get == 1


@pytest.mark.parametrize("replaces", [True, False])
def test_nothing_more_is_written_to_a_file_whose_place_another_has_taken(
    path: Path, db: Database, replaces: bool
) -> None:
    with db.write() as tx:
        tx.execute("INSERT INTO authors (public_key) VALUES (randomblob(32))")
    path.rename(path.with_name("away.db"))
    if replaces:
        make(path, "CREATE TABLE recipes (name TEXT)")
    with pytest.raises(DatabaseUnusable, match="moved away or replaced") as error, db.write() as tx:
        tx.execute("INSERT INTO authors (public_key) VALUES (randomblob(32))")
    assert str(path) in str(error.value)
    assert authors(db) == 1


def test_full_disk_is_told_as_such_wherever_it_is_met(db: Database) -> None:
    """By checkpoints too, which nobody expects to fail."""
    pages = int(db.pragma("page_count"))
    db.pragma("max_page_count", pages)
    with pytest.raises(DiskFull, match="disk is full"), db.write() as tx:
        tx.execute("INSERT INTO payloads VALUES (1, zeroblob(100000))")


class _CountingFile(apsw.VFSFile):
    synced: ClassVar[list[str]] = []

    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._name = str(name.filename() if isinstance(name, apsw.URIFilename) else name)

    def xSync(self, flags: int) -> None:  # noqa: N802  (apsw's name)
        self.synced.append(self._name.rpartition("-")[2])
        super().xSync(flags)


class _CountingVFS(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("counting", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _CountingFile(name, flags) if flags[0] & apsw.SQLITE_OPEN_WAL else apsw.VFSFile("unix", name, flags)


@pytest.fixture
def synced() -> Iterator[list[str]]:
    """The write-ahead logs that were synced, each time."""
    vfs = _CountingVFS()
    _CountingFile.synced.clear()
    yield _CountingFile.synced
    vfs.unregister()


def test_durable_transaction_is_synced_and_others_are_not(synced: list[str], path: Path, clock: ManualClock) -> None:
    with open_database(path, clock) as db:
        for durable in (False, True, False):
            synced.clear()
            with db.write(durable=durable) as tx:
                tx.execute("INSERT INTO drops (event_id, reason, relay, at) VALUES (x'00', '', 1, 1)")
            assert synced == ["wal"] * durable
        with pytest.raises(ZeroDivisionError), db.write(durable=True):
            raise ZeroDivisionError
        assert db.pragma("synchronous") == 1


def test_lock_held_by_another_is_told_and_waited_for_as_long_as_wanted(
    db: Database, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the time-out that holds for who tells nobody."""
    monkeypatch.setattr(database_file, "TELL_LOCKED_S", 0.05)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    told: list[float] = []

    def on_locked(waited_s: float) -> bool:
        told.append(waited_s)
        return len(told) < 2

    patient = Database.open(path, on_locked)
    with patient, db.write() as tx:
        tx.execute("INSERT INTO drops (event_id, reason, relay, at) VALUES (x'00', '', 1, 1)")
        with pytest.raises(DatabaseBusy), patient.write():
            pass
    assert len(told) == 2
    assert told[1] > 1.0


def test_progress_is_told_of_while_a_statement_takes_its_time(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PROGRESS_STEPS", 1000)
    told: list[None] = []
    with open_database(path, clock, on_progress=lambda: told.append(None)) as db:
        after = len(told)
        assert after > 0
        with db.read() as tx:
            count = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < 9999) SELECT max(x) FROM n"
            assert tx.execute(count).fetchall() == [(9999,)]
        assert len(told) == after, "no longer than the migration"
