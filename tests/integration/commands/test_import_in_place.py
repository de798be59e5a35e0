"""`event-service import-go --in-place`: the old database is kept as it was, the new one stands in its place."""

import random
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.process.clock import SystemClock
from pipeline.store.database_errors import DatabaseUnusable
from pipeline.store.schema import open_database
from tests.factories.events import authors
from tests.fakes.child import Child
from tests.fakes.go_database import GoDatabase, GoSchema
from tests.fakes.net import pause
from tests.fakes.service import settings
from tests.integration.commands.operator import Operator
from tests.support.seeds import seeds

WAIT_S = 60.0
NOW = 1_700_000_000
ALICE, BOB = authors(62, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def operator(path: Path) -> Operator:
    return Operator(path)


def old(path: Path, *, events: int = 3, wal: bool = True, schema: GoSchema = GoSchema.NEWEST) -> dict[str, bytes]:
    """A Go service's database as a kill leaves it; returns the files that must be kept."""
    database = GoDatabase(path, schema, wal=wal)
    database.register(ALICE, NOW, NOW)
    with database.connection:
        for number in range(events):
            database.done(BOB.sign(f"{number}", created_at=NOW + number))
    database.leave_log()
    return kept(path.parent, "events.db")


def kept(directory: Path, name: str) -> dict[str, bytes]:
    """The files of a database by what follows its name; shared memory is no data."""
    files = {
        each.name.removeprefix(name): each.read_bytes() for each in directory.iterdir() if each.name.startswith(name)
    }
    return {suffix: data for suffix, data in files.items() if suffix in ("", "-wal", "-journal")}


def assert_done(path: Path, before: dict[str, bytes], events: int) -> None:
    assert kept(path.parent, "events.db.go-backup") == before
    assert {each.name for each in path.parent.iterdir() if not each.name.startswith("events.db.go-backup")} == {
        path.name
    }
    with open_database(path, SystemClock()) as database, database.read() as tx:
        assert tx.execute("SELECT count(*) FROM seen").get == events
        assert tx.execute("SELECT count(*) FROM monitored").get == 1
    backup = apsw.Connection(str(path.with_name("events.db.go-backup")))
    assert backup.execute("SELECT count(*) FROM events").get == events
    backup.close()


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "journal"])
@pytest.mark.parametrize("schema", GoSchema)
def test_the_old_files_are_kept_and_the_new_one_takes_their_place(
    path: Path, operator: Operator, schema: GoSchema, wal: bool
) -> None:
    before = old(path, wal=wal, schema=schema)
    assert ("-wal" in before) is wal
    assert "kept as" in operator.succeed("import-go", "--in-place")
    assert_done(path, before, 3)
    assert "nothing to import" in operator.succeed("import-go", "--in-place")
    assert "registered" not in operator.succeed("users", "list")


class Killed(BaseException):
    """Stands for the end of the process."""


def run_until_rename(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> Result | None:
    """Run the command in this process and let it end right before its rename of this number; `None` if it was."""
    renames = 0
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == number:
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        for name, value in settings(EVENTS_DATABASE_PATH=str(path)).items():
            patched.setenv(name, value)
        try:
            return CliRunner().invoke(main, ["import-go", "--in-place"], catch_exceptions=False)
        except Killed:
            return None


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "journal"])
def test_wherever_it_ends_the_next_run_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch, wal: bool) -> None:
    """Before each rename in turn; between them nobody gets to open or create what stands there."""
    before = old(path, wal=wal)
    assert run_until_rename(monkeypatch, path, 1) is None
    with pytest.raises(DatabaseUnusable, match="must be imported first"):
        open_database(path, SystemClock())
    # One rename to say that all is complete, one for each old file; the last puts the new one in their place.
    renames = 1 + len(
        [each for each in path.parent.iterdir() if each.name in ("events.db", "events.db-wal", "events.db-shm")]
    )
    for _ in range(renames):
        assert run_until_rename(monkeypatch, path, 2) is None
        with pytest.raises(DatabaseUnusable, match="import-go --in-place ends it"):
            open_database(path, SystemClock())
    result = run_until_rename(monkeypatch, path, 2)
    assert result is not None
    assert result.exit_code == 0, result.output
    assert_done(path, before, 3)


@pytest.mark.parametrize("seed", seeds(2))
def test_killed_at_any_moment_it_ends_well(path: Path, operator: Operator, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    before = old(path, events=1500)
    for _ in range(6):
        with Child(operator.command("import-go", "--in-place"), env=operator.env) as child:
            pause(rng.uniform(0.2, 0.9))
            child.kill()
    operator.succeed("import-go", "--in-place")
    assert_done(path, before, 1500)


@pytest.mark.parametrize("mode", ["wal", "journal"])
def test_a_running_go_service_must_be_stopped_first(path: Path, operator: Operator, mode: str) -> None:
    with Child.module("tests.fakes.go_writer", str(path), mode) as writer:
        writer.wait_line("^working$", WAIT_S)
        said = operator.fail("import-go", "--in-place")
        assert f"open in process {writer.pid}; stop the Go service first" in said
        assert writer.running, writer.tail()
    assert not path.with_name("events.db.go-backup").exists()
    operator.succeed("import-go", "--in-place")


def test_a_backup_of_another_time_is_never_overwritten(path: Path, operator: Operator) -> None:
    before = old(path)
    other = path.with_name("events.db.go-backup")
    other.write_bytes(b"precious")
    assert "is there already" in operator.fail("import-go", "--in-place")
    assert other.read_bytes() == b"precious"
    assert kept(path.parent, "events.db") == before


def test_nothing_there_is_said(path: Path, operator: Operator) -> None:
    assert "there is no file" in operator.fail("import-go", "--in-place")
    assert list(path.parent.iterdir()) == []


def test_a_database_behind_a_link_stays_behind_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    before = old(tmp_path / "disk" / "events.db")
    (tmp_path / "events.db").symlink_to(tmp_path / "disk" / "events.db")
    Operator(tmp_path / "events.db").succeed("import-go", "--in-place")
    assert (tmp_path / "events.db").is_symlink()
    assert_done(tmp_path / "disk" / "events.db", before, 3)
