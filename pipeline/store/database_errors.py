"""What the database can fail with, and how the driver's errors become that."""

import os
from pathlib import Path

import apsw

from pipeline.errors import CannotStart, EventServiceError, NoRoom
from pipeline.store.ownership import describe_owner

BUSY_TIMEOUT_S = 60.0


class DatabaseUnusable(CannotStart):
    """The database file cannot be opened, or is not ours; nothing in it was changed."""


class DatabaseFailed(EventServiceError):
    """The database could not do its work, whatever the work was: a full disk, a broken file, a lock held for ever."""


class DiskFull(DatabaseFailed, NoRoom):
    """The disk of the database is full; nothing was written."""


class DatabaseBusy(DatabaseFailed):
    """Another program held the write lock for longer than `BUSY_TIMEOUT_S`."""


# What says nothing about the rows that were being written.
ENVIRONMENT_ERRORS = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.InterruptError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.NotADBError,
    apsw.PermissionsError,
    apsw.ReadOnlyError,
)


# What may pass by itself.
TRANSIENT_ERRORS = (apsw.CantOpenError, apsw.FullError, apsw.IOError)


def stayed_locked(path: Path) -> str:
    """Say that another program held the lock for too long."""
    return f"the database {path} stayed locked for {BUSY_TIMEOUT_S:.0f} s"


def cannot_write(path: Path) -> str:
    """Say why the file cannot be written."""
    whose = describe_owner(path)
    return f"it cannot be written; {whose}" if whose else "it cannot be written"


# A disk with less room than a few pages of the log is full, whatever SQLite calls it.
_NO_ROOM_BYTES = 256 << 10


def failure(path: Path, what: str, error: apsw.Error) -> DatabaseFailed:
    """Return what to raise for an error of the database's surroundings; `what` was being done to it."""
    is_full = isinstance(error, apsw.FullError)
    if is_full or (isinstance(error, apsw.IOError) and _free_bytes(path) < _NO_ROOM_BYTES):
        return DiskFull(f"disk is full: the database {path} cannot be {what}")
    return DatabaseFailed(f"the database {path} cannot be {what}: {reason_of(error, path)}")


def _free_bytes(path: Path) -> int:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return _NO_ROOM_BYTES
    return disk.f_bavail * disk.f_frsize


def reason_of(error: apsw.Error, path: Path) -> str:
    """Return what an error of the driver means, in words for an operator."""
    match error:
        case apsw.NotADBError():
            return "the file is no SQLite database"
        case apsw.CantOpenError():
            whose = describe_owner(path)
            return f"the file cannot be opened or created there{f'; {whose}' if whose else ''}"
        case apsw.ReadOnlyError():
            return cannot_write(path)
        case _:
            return str(error)
