"""Commands beside a running service of another version: who only looks changes nothing, and says what is the matter."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.store.database import Database
from pipeline.store.migrations import MIGRATIONS, Migration
from pipeline.store.schema import migrate
from tests.integration.commands.operator import Operator

NEWER = Migration("9999-newer", ("CREATE TABLE newer (x INTEGER) STRICT",))
LOOKS = (
    ("status",),
    ("status", "--json"),
    ("explain", "0" * 64),
    ("users", "list"),
    ("relays", "list"),
    ("relays", "show", "wss://relay.example.com"),
    ("dead", "list"),
    ("dead", "show", "inbox", "1"),
    ("backfill", "--list"),
    ("backfill", "--attach", "1"),
)


def database(directory: Path, migrations: tuple[Migration, ...]) -> Path:
    path = directory / "events.db"
    with Database.open(path) as opened:
        migrate(opened, SystemClock(), migrations)
    return path


def schema(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()


@pytest.mark.parametrize(
    ("migrations", "said"), [(MIGRATIONS[:-1], "of an older"), ((*MIGRATIONS, NEWER), "by a newer")]
)
def test_looking_says_that_the_database_is_of_another_version(
    tmp_path: Path, migrations: tuple[Migration, ...], said: str
) -> None:
    path = database(tmp_path, migrations)
    before = schema(path)
    for command in LOOKS:
        result = Operator(path).run(*command)
        assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (3, "", 1), command
        assert f"{path} " in result.stderr
        assert f"{said} event-service" in result.stderr
    assert schema(path) == before


@pytest.mark.parametrize("migrations", [MIGRATIONS[:-1], (*MIGRATIONS, NEWER)])
def test_a_backup_is_of_the_version_that_the_database_has(tmp_path: Path, migrations: tuple[Migration, ...]) -> None:
    path = database(tmp_path, migrations)
    before = schema(path)
    assert Operator(path).run("backup", str(tmp_path / "copy.db")).returncode == 0
    assert schema(tmp_path / "copy.db") == schema(path) == before


def test_who_changes_something_brings_an_older_database_up_to_date(tmp_path: Path) -> None:
    path = database(tmp_path, MIGRATIONS[:-1])
    assert (
        Operator(path)
        .run("users", "add", "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
        .returncode
        == 0
    )
    with Database.open(path) as opened:
        assert migrate(opened, SystemClock()) == []
