"""`event-service import-go`: what the Go service knew and had not finished, taken over."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from pipeline.commands.bootstrap import cannot_start, config_or_exit, open_or_create_configured_database
from pipeline.commands.output import say
from pipeline.commands.progress import Progress
from pipeline.errors import CannotStart, EventServiceError
from pipeline.go_import import private_copy
from pipeline.go_import.importer import GoImporter, ImportTally
from pipeline.go_import.private_copy import Fingerprint, SourceUnusable
from pipeline.go_import.source import GoDatabase
from pipeline.go_import.swap import Swap, workspace
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.procfs import holders
from pipeline.store.database import Database
from pipeline.store.schema import open_database

# A source that was written while it was imported is imported again: only what is new costs time then.
_ROUNDS: Final = 3


@click.command(name="import-go")
@click.argument("path", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--in-place", is_flag=True, help="Import the file at EVENTS_DATABASE_PATH and replace it; the old file is kept."
)
def import_go(path: Path | None, in_place: bool) -> None:
    """Import from the Go service: users, contacts, relays, ids of delivered events, and pending events.

    PATH is its database. It is copied first, to the folder of ours, and only ever read; the Go service may still be
    running, and so may this one. Whatever interrupts an import, running it again takes what is missing.

    Example: event-service import-go /var/lib/nos-event-service/events.db
    """
    if (path is None) is not in_place:
        raise click.UsageError("give either PATH or --in-place")
    clock = SystemClock()
    try:
        if path is None:
            _import_in_place(config_or_exit().database_path.resolve(), clock)
        else:
            _import_from(path.resolve(), clock)
    except CannotStart as error:
        cannot_start(error)
    except (EventServiceError, OSError) as error:
        say(f"event-service: cannot import: {error}", err=True)
        sys.exit(1)


def _import_from(source: Path, clock: Clock) -> None:
    target = config_or_exit().database_path.resolve()
    if source == target:
        raise SourceUnusable("PATH is EVENTS_DATABASE_PATH: use --in-place")
    with _copied(source, target, clock) as (go, _), open_or_create_configured_database() as database:
        _import(go, database, clock)


def _import_in_place(path: Path, clock: Clock) -> None:
    swap = Swap(path)
    if not swap.finish():
        if swap.is_ours():
            say(f"{path} is a database of this service already; there is nothing to import")
            return
        swap.require_room()
        _fill(swap, clock)
        swap.complete()
        swap.finish()
    say(f"{path} is ready; the old database is kept as {swap.backup}")


def _fill(swap: Swap, clock: Clock) -> None:
    """Import into the new database until the old one did not change during an import."""
    for _ in range(_ROUNDS):
        _require_unused(swap.path)
        with _copied(swap.path, swap.path, clock) as (go, taken), open_database(swap.unfinished, clock) as database:
            _import(go, database, clock)
        _require_unused(swap.path)
        if Fingerprint.of(swap.path) == taken:
            return
    raise SourceUnusable(f"{swap.path} is being written; stop the Go service first")


def _require_unused(path: Path) -> None:
    """Require that no process has the file open: what it writes while the file is moved would be lost or misplaced."""
    if not path.exists():
        raise SourceUnusable(f"there is no file {path}")
    if pids := holders(path):
        raise SourceUnusable(f"{path} is open in process {', '.join(map(str, pids))}; stop the Go service first")
    if private_copy.is_locked(path):
        raise SourceUnusable(f"{path} is open in another program; stop the Go service first")


@contextmanager
def _copied(source: Path, beside: Path, clock: Clock) -> Iterator[tuple[GoDatabase, Fingerprint]]:
    """A private copy of `source`, opened, and what the source was when it was taken."""
    with workspace(beside) as directory:
        copy = directory / "source.db"
        with Progress(clock).step("bytes copied", private_copy.size(source)) as advance:
            taken = private_copy.copy(source, copy, clock, advance)
        with GoDatabase(copy) as go:
            yield go, taken


def _import(go: GoDatabase, database: Database, clock: Clock) -> None:
    report(GoImporter(go, database, clock, Progress(clock).step).run(), click.echo)


def report(tallies: Iterable[ImportTally], say: Callable[[str], None]) -> None:
    """Tell what became of each kind of rows."""
    for tally in tallies:
        refused = tally.refused.total()
        say(f"{tally.name}: {tally.taken:,} taken, {tally.known:,} known already, {refused:,} refused")
        for text, count in sorted(tally.notes.items()):
            say(f"  {count:,} {text}")
        for text, count in tally.refused.most_common():
            say(f"  {count:,} refused: {text}")
