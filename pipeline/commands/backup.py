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


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace PATH if it is there already.")
def backup(path: Path, force: bool) -> None:
    """Copy the database, as of this moment, to PATH. The service continues.

    PATH appears when the copy is complete and on the disk, not before.

    Example: event-service backup /var/backups/event-service.db
    """
    try:
        _back_up(path.resolve(), force=force)
    except CannotStart as error:
        cannot_start(error)
    except (EventServiceError, OSError) as error:
        say(f"event-service: no backup: {error}", err=True)
        sys.exit(1)


def _back_up(target: Path, *, force: bool) -> None:
    source = config_or_exit().database_path.resolve()
    if not source.exists():
        raise DatabaseUnusable(f"there is no database {source}")
    if target.name.startswith(source.name) and target.parent == source.parent and target.name[len(source.name) :] in (
        "", "-wal", "-shm", "-journal",
    ):  # fmt: skip
        raise click.UsageError("PATH is the database itself")
    if target.exists() and not force:
        raise click.UsageError(f"{target} is there already; --force replaces it")
    with (
        # Of whatever version: a backup before a change over leaves the schema as it is.
        Database.open(source) as database,
        Progress(SystemClock()).step("pages copied", database.pragma("page_count")) as advance,
    ):
        back_up(database, target, advance)
    say(f"{target}: {target.stat().st_size:,} bytes")
