"""Opening of the database: its schema is brought up to date, or checked where it must be left alone.

All pending migrations run in one transaction, so that stages which start together wait for each other, and a crash
leaves the old schema.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.process.clock import Clock
from pipeline.process.stage_times import StageTimes
from pipeline.store.database import Database, Tx
from pipeline.store.database_errors import DatabaseUnusable
from pipeline.store.database_file import APPLICATION_ID, TABLES, OnLocked
from pipeline.store.migrations import MIGRATIONS, Migration

CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT, WITHOUT ROWID
"""
APPLIED_MIGRATIONS = "SELECT name FROM migrations"
RECORD_MIGRATION = "INSERT INTO migrations (name, applied_at) VALUES (?, ?)"


def migrate(database: Database, clock: Clock, migrations: Sequence[Migration] = MIGRATIONS) -> list[str]:
    """Bring the schema up to date and return the migrations applied. Raises `DatabaseUnusable` for a newer database."""
    with database.write() as tx:
        tx.execute(CREATE_MIGRATIONS)
        applied = _applied(database, tx, migrations)
        pending = [migration for migration in migrations if migration.name not in applied]
        for migration in pending:
            _apply(tx, migration, clock.now_ms())
    return [migration.name for migration in pending]


def open_database(
    path: Path,
    clock: Clock,
    on_locked: OnLocked | None = None,
    times: StageTimes | None = None,
    on_progress: Callable[[], None] | None = None,
) -> Database:
    """Open `path` with an up-to-date schema. Raises `DatabaseUnusable`, or `DatabaseFailed` if that may pass.

    `on_locked`: see `Database.open`. `on_progress` is called repeatedly during migrations, which take long for a large
    database. `times` counts the write transactions.
    """
    database = Database.open(path, on_locked, times)
    try:
        with database.progress(on_progress):
            migrate(database, clock)
    except BaseException:
        database.close()
        raise
    return database


def open_to_read(path: Path, clock: Clock) -> Database:
    """Open `path` and leave its schema alone, as a service of another version may be running on it.

    Only an empty file gets a schema. Raises `DatabaseUnusable` for the schema of another version.
    """
    database = Database.open(path)
    try:
        with database.read() as tx:
            has_schema = ("migrations",) in tx.execute(TABLES).fetchall()
            applied = _applied(database, tx, MIGRATIONS) if has_schema else set()
        missing = ", ".join(migration.name for migration in MIGRATIONS if migration.name not in applied)
        if not applied:
            migrate(database, clock)
        elif missing:
            raise DatabaseUnusable(
                f"{path} is of an older event-service (without {missing}): look at it with that one,"
                " or start the service of this version, which brings it up to date"
            )
    except BaseException:
        database.close()
        raise
    return database


def _applied(database: Database, tx: Tx, migrations: Sequence[Migration]) -> set[str]:
    applied = {str(name) for (name,) in tx.execute(APPLIED_MIGRATIONS)}
    unknown = applied - {migration.name for migration in migrations}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise DatabaseUnusable(f"{database.path} was written by a newer event-service ({names})")
    return applied


def _apply(tx: Tx, migration: Migration, now_ms: int) -> None:
    for statement in migration.statements:
        tx.execute(statement)
    tx.execute(RECORD_MIGRATION, (migration.name, now_ms))
    tx.pragma("application_id", APPLICATION_ID)
