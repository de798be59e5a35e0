"""`event-service backup`: a copy of the database while the service runs."""

import sys
from pathlib import Path

import click

from pipeline.commands.bootstrap import cannot_start, config_or_exit
from pipeline.commands.output import say
from pipeline.commands.progress import Progress
from pipeline.errors import CannotStart, EventServiceError
from pipeline.process.clock import SystemClock
from pipeline.store.backup import back_up
from pipeline.store.database import Database
from pipeline.store.database_errors import DatabaseUnusable
from pipeline.store.dated_backups import dated_path, remove_older


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace PATH if it is there already.")
@click.option(
    "--keep", type=click.IntRange(1, 10_000), metavar="N",
    help="PATH is a folder: make a copy there that has the time in its name, and remove all such but the newest N.",
)  # fmt: skip
def backup(path: Path, force: bool, keep: int | None) -> None:
    """Copy the database, as of this moment, to PATH. The service continues.

    PATH appears when the copy is complete, checked (PRAGMA integrity_check) and on the disk, not before.

    \b
    Examples:
      event-service backup /var/backups/event-service.db
      event-service backup --keep 7 /var/backups/event-service
    """
    try:
        if keep is None:
            _back_up(path.resolve(), force=force)
        else:
            _back_up_dated(path.resolve(), keep)
    except CannotStart as error:
        cannot_start(error)
    except (EventServiceError, OSError) as error:
        say(f"event-service: no backup: {error}", err=True)
        sys.exit(1)


def _back_up_dated(folder: Path, keep: int) -> None:
    if not folder.is_dir():
        raise click.UsageError(f"{folder} is no folder: make it, readable by the service's user only")
    source = _source()
    _copy(source, dated_path(folder, source, SystemClock().now_ms()))
    for each in remove_older(folder, source, keep):
        say(f"removed {each}")


def _source() -> Path:
    source = config_or_exit().database_path.resolve()
    if not source.exists():
        raise DatabaseUnusable(f"there is no database {source}")
    return source


def _back_up(target: Path, *, force: bool) -> None:
    source = _source()
    if target.is_dir():
        raise click.UsageError(f"{target} is a folder: name a file, or use --keep")
    if target.name.startswith(source.name) and target.parent == source.parent and target.name[len(source.name) :] in (
        "", "-wal", "-shm", "-journal",
    ):  # fmt: skip
        raise click.UsageError("PATH is the database itself")
    if target.exists() and not force:
        raise click.UsageError(f"{target} is there already; --force replaces it")
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with (
        # Of whatever version: a backup before a change over leaves the schema as it is.
        Database.open(source) as database,
        Progress(SystemClock()).step("pages copied", database.pragma("page_count")) as advance,
    ):
        back_up(database, target, advance)
    say(f"{target}: {target.stat().st_size:,} bytes")
