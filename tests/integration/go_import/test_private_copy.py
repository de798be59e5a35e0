"""Copies of a database that another program uses: whole, of one moment, and without a trace in the source."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import apsw
import pytest

from pipeline.go_import import private_copy
from pipeline.go_import.private_copy import Fingerprint, SourceUnusable
from pipeline.process.clock import ManualClock, SystemClock
from tests.fakes.child import Child
from tests.fakes.go_database import GoDatabase

WAIT_S = 60.0
LIVE_COPIES = 12


def clean(path: Path) -> None:
    with GoDatabase(path) as database:
        database.relay("wss://a.example")


def left_with_log(path: Path) -> None:
    database = GoDatabase(path)
    database.relay("wss://a.example")
    database.leave_log()


def left_with_log_alone(path: Path) -> None:
    left_with_log(path)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)


def left_with_hot_journal(path: Path) -> None:
    """As a power cut leaves it: half of a transaction in the file, and what it replaced in the journal."""
    work = path.with_name("work.db")
    database = GoDatabase(work, wal=False)
    database.relay("wss://a.example")
    connection = database.connection
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO relays (address) VALUES (?)", ((f"{n}" * 200,) for n in range(3000)))
    connection.cache_flush()
    for suffix in ("", "-journal"):
        path.with_name(path.name + suffix).write_bytes(work.with_name(work.name + suffix).read_bytes())
    connection.execute("ROLLBACK")
    connection.close()
    work.unlink()


def trace(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in directory.iterdir()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source" / "go.db"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "copy").mkdir()
    return tmp_path / "copy" / "source.db"


def copy(source: Path, target: Path) -> Fingerprint:
    return private_copy.copy(source, target, SystemClock(), lambda _: None)


@pytest.mark.parametrize("leave", [clean, left_with_log, left_with_log_alone, left_with_hot_journal])
def test_a_copy_has_what_was_committed_and_the_source_shows_no_trace(
    source: Path, target: Path, leave: Callable[[Path], None]
) -> None:
    leave(source)
    before = trace(source.parent)
    assert copy(source, target) == Fingerprint.of(source)
    assert trace(source.parent) == before
    with apsw.Connection(str(target)) as copied:
        assert copied.execute("SELECT address FROM relays").fetchall() == [("wss://a.example",)]
        assert copied.execute("PRAGMA integrity_check").get == "ok"
    copied.close()
    assert trace(source.parent) == before


def test_a_directory_that_nobody_may_write_to_is_read_all_the_same(source: Path, target: Path) -> None:
    left_with_log(source)
    source.chmod(0o400)
    source.parent.chmod(0o500)
    try:
        copy(source, target)
    finally:
        source.parent.chmod(0o700)
    with apsw.Connection(str(target)) as copied:
        assert copied.execute("SELECT count(*) FROM relays").get == 1
    copied.close()


@pytest.mark.parametrize("mode", ["wal", "journal"])
def test_copies_under_a_writer_are_each_of_one_moment(source: Path, target: Path, mode: str) -> None:
    """Without the locks two thirds of such copies were malformed."""
    with Child.module("tests.fakes.go_writer", str(source), mode) as writer:
        writer.wait_line("^working$", WAIT_S)
        seen: set[bytes] = set()
        deadline = monotonic() + WAIT_S
        for number in itertools.count():
            if number >= LIVE_COPIES and len(seen) > 1:
                break
            assert monotonic() < deadline, "nothing was written meanwhile"
            copy(source, target)
            seen.add(target.read_bytes())
            connection = apsw.Connection(str(target))
            assert connection.execute("PRAGMA integrity_check").get == "ok"
            waiting = connection.execute("SELECT count(*) FROM events WHERE processed_at IS NULL").get
            assert connection.execute("SELECT count(*) FROM pubsub").get == waiting
            connection.close()
        assert writer.running, writer.tail()
    allowed = {"go.db", "go.db-wal", "go.db-shm"} if mode == "wal" else {"go.db", "go.db-journal"}
    assert {each.name for each in source.parent.iterdir()} <= allowed


def test_a_lock_that_is_never_given_up_is_said(source: Path, target: Path) -> None:
    clean(source)
    script = f"import apsw; c = apsw.Connection({str(source)!r}); c.pragma('journal_mode', 'delete');"
    script += "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); input()"
    with Child([sys.executable, "-c", script]) as holder:
        holder.wait_line("locked", WAIT_S)
        assert private_copy.is_locked(source)
        with pytest.raises(SourceUnusable, match="stayed locked"):
            private_copy.copy(source, target, _HastyClock(), lambda _: None)
    assert not private_copy.is_locked(source)


class _HastyClock(ManualClock):
    """A clock on which a minute passes at every look."""

    def monotonic(self) -> float:
        self.advance(60.0)
        return super().monotonic()


def test_a_source_that_is_missing_or_too_large_is_said(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceUnusable, match="no file"):
        copy(source, target)
    clean(source)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(SourceUnusable, match="100 left"):
        copy(source, target)


def test_a_file_system_without_copies_in_the_kernel_is_copied_by_reading(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.copy_file_range", refuse)
    clean(source)
    done: list[int] = []
    private_copy.copy(source, target, SystemClock(), done.append)
    assert target.read_bytes() == source.read_bytes()
    assert sum(done) == private_copy.size(source)
