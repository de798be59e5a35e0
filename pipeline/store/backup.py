"""A copy of the database of a running service, as of one moment."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from pipeline.errors import EventServiceError
from pipeline.printable import printable
from pipeline.process.clock import SystemClock
from pipeline.store import backups, hub_home, runs
from pipeline.store.backups import BackedUp
from pipeline.store.database import Database
from pipeline.store.database_errors import DatabaseFailed

# 4 MiB: some milliseconds of work between two signs of progress.
_STEP_PAGES: Final = 1024

# A transaction has its snapshot from its first read on.
TAKE_SNAPSHOT = "SELECT count(*) FROM sqlite_schema"
CHECK = "PRAGMA integrity_check(1)"

Progress = Callable[[int], None]
"""Called with how many more pages are done."""


class BackupDiskFull(EventServiceError):
    """The disk that the backup is written to is full; nothing is wrong with the database."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"the disk of {folder}, where the backup goes, is full")


def back_up(database: Database, target: Path, progress: Progress) -> None:
    """Copy everything committed by now to `target`, which appears complete or not at all and replaces what was there.

    All steps share one snapshot: without it SQLite restarts the copy at every write, which a busy service always has.
    No writer waits for it, but the write-ahead log cannot be reset. The copy is checked before it appears, and noted
    in the database afterwards. Raises `DatabaseFailed`, or `BackupDiskFull`.
    """
    part = target.with_name(target.name + ".part")
    owner = database.path.stat()
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, owner.st_mode & 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseFailed(f"another backup writes {part}") from None
        os.ftruncate(descriptor, 0)
        # Made by root, it must be of use to the service's own user when it is put back.
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        try:
            made = _copy(database, part, progress)
            os.fsync(descriptor)
            part.replace(target)
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BackupDiskFull(part.parent) from error
            raise
        _sync_directory(target.parent)
        if made is not None:
            with database.write() as tx:
                backups.note(tx, made)
    finally:
        # After SQLite is done with the file: closing any descriptor of it would drop SQLite's locks.
        os.close(descriptor)


def _copy(database: Database, part: Path, progress: Progress) -> BackedUp | None:
    try:
        destination = apsw.Connection(str(part))
        try:
            # What is unfinished is thrown away, and what is finished is synced by the caller.
            destination.pragma("journal_mode", "off")
            destination.pragma("synchronous", "off")
            with database.read() as tx, destination.backup("main", tx, "main") as backup:
                tx.execute(TAKE_SNAPSHOT).fetchall()
                done = 0
                while not backup.done:
                    _step(backup, part)
                    progress(backup.page_count - backup.remaining - done)
                    done = backup.page_count - backup.remaining
            runs.mark_copied(destination)
            hub_home.mark_copied(destination)
            made = backups.held(destination, SystemClock().now_ms())
            if made is not None:
                backups.note(destination, made)
            _check(destination)
            return made
        finally:
            destination.close()
    except apsw.Error as error:
        raise DatabaseFailed(f"the backup failed: {error}") from error


def _check(copy: apsw.Connection) -> None:
    found = copy.execute(CHECK).get
    if found != "ok":
        raise DatabaseFailed(f"the copy is damaged, and so may be the database: {printable(str(found))}")


def _step(backup: apsw.Backup, part: Path) -> None:
    try:
        backup.step(_STEP_PAGES)
    except apsw.FullError as error:
        # Caught here, since it is not a fault of the database that is read.
        raise BackupDiskFull(part.parent) from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
