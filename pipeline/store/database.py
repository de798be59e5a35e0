"""The SQLite file: how it is opened, checked and written to.

Every write runs in `BEGIN IMMEDIATE`: a deferred transaction that reads first and writes later fails at once when
another process wrote in between, whatever the busy time-out.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import apsw

from pipeline.errors import CannotStart, EventServiceError, NoRoom
from pipeline.process.clock import pause
from pipeline.store.ownership import create_private, describe_owner

# 3.7.0 to 3.51.2 can corrupt a WAL database that several connections write and checkpoint, which is what we do.
OLDEST_SQLITE = (3, 51, 3)
APPLICATION_ID = 0x65767376
BUSY_TIMEOUT_S = 60.0
TELL_LOCKED_S = 3.0
"""Longer than any transaction of ours: another program holds a lock that long."""
# Some tenths of a second of SQLite's work.
_PROGRESS_STEPS = 10_000_000
# Writers wait while the log is restarted, and a reader that was stopped in the middle would make them wait for ever.
RESTART_PATIENCE_S = 0.05
# Above this the sweeper restarts the log, which cuts the file back to it: lower than the size at which a commit must
# checkpoint, since that takes a while to happen.
JOURNAL_SIZE_LIMIT = 48 << 20
_CACHE_KIB = 32 << 10
# The sweeper checkpoints; a commit does so only if the sweeper cannot keep up. With SQLite's own 1,000 pages every
# writer does it all the time and delays the others: a fifth of the throughput.
_AUTOCHECKPOINT_PAGES = 16_384

Tx = apsw.Connection
"""A connection inside a transaction; what the functions of this package take."""

OnLocked = Callable[[float], bool]
"""Called about every second while a lock is waited for, with the seconds so far; returns whether to wait on."""

Row = tuple[Any, ...]
"""A row as SQLite gives it; the statement beside it says what its columns hold."""

TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"

INTERRUPTED_SWAP = ".imported"
"""Appended to a database's name: what an import is about to put in its place; until then nothing else may be there."""

_GO_SERVICE_TABLES = ({"public_keys_to_monitor", "contacts_followees"}, {"events", "events_to_relays", "relays"})


class DatabaseUnusable(CannotStart):
    """The database file cannot be opened, or is not ours; nothing in it was changed."""


class DatabaseFailed(EventServiceError):
    """The database could not do its work, whatever the work was: a full disk, a broken file, a lock held for ever."""


class DiskFull(DatabaseFailed, NoRoom):
    """The disk of the database is full; nothing was written."""


class DatabaseBusy(DatabaseFailed):
    """Another program held the write lock for longer than `BUSY_TIMEOUT_S`."""


# What says nothing about the rows that were being written.
_ENVIRONMENT_ERRORS = (
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
_TRANSIENT_ERRORS = (apsw.CantOpenError, apsw.FullError, apsw.IOError)


class Database:
    """One connection, to be used only by the thread that opened it, never across a fork."""

    __slots__ = ("_busy", "_connection", "_identity", "path")

    def __init__(self, path: Path, connection: apsw.Connection, busy: "_JitteredBusyHandler | None" = None) -> None:
        self.path = path
        self._connection = connection
        self._busy = busy or _JitteredBusyHandler(BUSY_TIMEOUT_S)
        self._identity = _identity(path)

    @classmethod
    def open(cls, path: Path, on_locked: OnLocked | None = None) -> "Database":
        """Open `path`, creating it if it is missing. The schema is not looked at.

        `on_locked`: called while another process holds a lock for more than `TELL_LOCKED_S`, and decides how long that
        is waited for; without, it is `BUSY_TIMEOUT_S`.
        Raises `DatabaseUnusable`, or `DatabaseFailed` where that says nothing about the file: it stays locked, its disk
        is full or fails, or its folder is away.
        """
        _require_sqlite()
        if path.resolve().with_name(path.resolve().name + INTERRUPTED_SWAP).exists():
            raise DatabaseUnusable(f"an import at {path} was interrupted; event-service import-go --in-place ends it")
        create_private(path)
        try:
            connection = apsw.Connection(str(path))
            try:
                busy = _JitteredBusyHandler(BUSY_TIMEOUT_S, on_locked)
                _prepare(connection, path, busy)
            except BaseException:
                connection.close()
                raise
        except apsw.BusyError as error:
            raise DatabaseBusy(_stayed_locked(path)) from error
        except _TRANSIENT_ERRORS as error:
            raise _failure(path, "opened", error) from error
        except apsw.Error as error:
            raise DatabaseUnusable(f"cannot use the database {path}: {_reason(error, path)}") from error
        return cls(path, connection, busy)

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Tx]:
        """A write transaction: committed on leaving, rolled back on an exception. Keep it to milliseconds.

        `durable`: on the disk before this returns, with all that was committed before; else a power failure may take
        the last commits.
        Raises `DatabaseFailed` where the database itself is at fault, and `DatabaseUnusable` where another file has
        taken its place: what was written to the old one would be lost to everybody who starts later.
        """
        connection = self._connection
        if _identity(self.path) != self._identity:
            raise DatabaseUnusable(f"the database {self.path} was moved away or replaced while it was in use")
        if durable:
            connection.pragma("synchronous", "full")
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except apsw.BusyError as error:
            self._roll_back()
            raise DatabaseBusy(_stayed_locked(self.path)) from error
        except _ENVIRONMENT_ERRORS as error:
            self._roll_back()
            raise _failure(self.path, "written", error) from error
        except BaseException:
            self._roll_back()
            raise
        finally:
            if durable:
                connection.pragma("synchronous", "normal")

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """One consistent snapshot. Leave it soon: an open snapshot keeps the write-ahead log from being reset.

        Raises `DatabaseFailed` where the database itself is at fault.
        """
        connection = self._connection
        connection.execute("BEGIN")
        try:
            yield connection
        except _ENVIRONMENT_ERRORS as error:
            raise _failure(self.path, "read", error) from error
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        # A failed COMMIT or a full disk may have rolled back already.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def data_version(self) -> int:
        """Return a number that changes whenever another connection has committed (2 µs)."""
        return int(self._connection.pragma("data_version"))

    def checkpoint(self) -> None:
        """Move what readers allow out of the write-ahead log, unless another is doing so; no writer waits for it."""
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return
        except _ENVIRONMENT_ERRORS as error:
            raise _failure(self.path, "written", error) from error

    def restart_log(self) -> bool:
        """Move everything out of the write-ahead log and restart it; writers wait until it is done.

        Return True if that was possible within `RESTART_PATIENCE_S`: a reader may still need what is in it.
        """
        self._connection.set_busy_handler(_JitteredBusyHandler(RESTART_PATIENCE_S))
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            return False
        except _ENVIRONMENT_ERRORS as error:
            raise _failure(self.path, "written", error) from error
        finally:
            self._connection.set_busy_handler(self._busy)
        return True

    @contextmanager
    def progress(self, on_progress: Callable[[], None] | None) -> Iterator[None]:
        """Call `on_progress` repeatedly while a statement runs long."""
        if on_progress is None:
            yield
            return

        def step() -> bool:
            on_progress()
            return False

        self._connection.set_progress_handler(step, _PROGRESS_STEPS)
        try:
            yield
        finally:
            self._connection.set_progress_handler(None)

    def pragma(self, name: str, value: Any = ...) -> Any:
        """Read or set a pragma of this connection."""
        return self._connection.pragma(name) if value is ... else self._connection.pragma(name, value)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._connection.close()

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return an identity of the file at `path` (2 µs); `None` when there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  (half the time of `Path.stat`, at every transaction)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def wal_bytes(path: Path) -> int:
    """Return the size of the write-ahead log beside `path`; 0 when there is none."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _require_sqlite() -> None:
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise DatabaseUnusable(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt this database; {oldest} or newer is needed"
        )


def _prepare(connection: apsw.Connection, path: Path, busy: "_JitteredBusyHandler") -> None:
    connection.set_busy_handler(busy)
    # Closing a file that is not ours must not move its owner's write-ahead log into it.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    _require_ours(connection, path)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    if connection.readonly("main"):
        raise DatabaseUnusable(f"cannot use the database {path}: {_cannot_write(path)}")
    _switch_to_wal(connection)
    connection.pragma("synchronous", "normal")
    connection.pragma("foreign_keys", False)
    connection.pragma("journal_size_limit", JOURNAL_SIZE_LIMIT)
    connection.pragma("cache_size", -_CACHE_KIB)
    connection.pragma("wal_autocheckpoint", _AUTOCHECKPOINT_PAGES)
    connection.pragma("temp_store", "memory")


def _switch_to_wal(connection: apsw.Connection) -> None:
    """Set the journal mode; while another process does the same, SQLite refuses without asking the busy handler."""
    wait = _JitteredBusyHandler(BUSY_TIMEOUT_S)
    for calls in count():
        try:
            connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if not wait(calls):
                raise
        else:
            return


def _require_ours(connection: apsw.Connection, path: Path) -> None:
    """Refuse a file of another program before anything is written to it."""
    # In one snapshot: another process may be making a fresh file ours at this moment.
    connection.execute("BEGIN")
    application = connection.pragma("application_id")
    tables = {name for (name,) in connection.execute(TABLES)}
    connection.execute("ROLLBACK")
    if application == APPLICATION_ID:
        return
    if application == 0 and not tables:
        return
    if any(theirs <= tables for theirs in _GO_SERVICE_TABLES):
        raise DatabaseUnusable(
            f"{path} is a database of the Go service; it must be imported first: event-service import-go --in-place"
        )
    raise DatabaseUnusable(f"{path} is a database of another program")


def _stayed_locked(path: Path) -> str:
    return f"the database {path} stayed locked for {BUSY_TIMEOUT_S:.0f} s"


def _cannot_write(path: Path) -> str:
    whose = describe_owner(path)
    return f"it cannot be written; {whose}" if whose else "it cannot be written"


# A disk with less room than a few pages of the log is full, whatever SQLite calls it.
_NO_ROOM_BYTES = 256 << 10


def _failure(path: Path, what: str, error: apsw.Error) -> DatabaseFailed:
    """Return what to raise for an error of the database's surroundings."""
    is_full = isinstance(error, apsw.FullError)
    if is_full or (isinstance(error, apsw.IOError) and _free_bytes(path) < _NO_ROOM_BYTES):
        return DiskFull(f"disk is full: the database {path} cannot be {what}")
    return DatabaseFailed(f"the database {path} cannot be {what}: {_reason(error, path)}")


def _free_bytes(path: Path) -> int:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return _NO_ROOM_BYTES
    return disk.f_bavail * disk.f_frsize


def _reason(error: apsw.Error, path: Path) -> str:
    match error:
        case apsw.NotADBError():
            return "the file is no SQLite database"
        case apsw.CantOpenError():
            whose = describe_owner(path)
            return f"the file cannot be opened or created there{f'; {whose}' if whose else ''}"
        case apsw.ReadOnlyError():
            return _cannot_write(path)
        case _:
            return str(error)


class _JitteredBusyHandler:
    """Busy handler that waits random moments: with SQLite's own one of several writers starves for seconds."""

    __slots__ = ("_on_locked", "_random", "_tell_at", "_timeout_s", "_waited")

    def __init__(self, timeout_s: float, on_locked: OnLocked | None = None) -> None:
        self._random = random.Random()
        self._timeout_s = timeout_s
        self._on_locked = on_locked
        self._waited = 0.0
        self._tell_at = TELL_LOCKED_S

    def __call__(self, calls: int) -> bool:
        if calls == 0:
            self._waited, self._tell_at = 0.0, TELL_LOCKED_S
        if self._on_locked is None:
            if self._waited >= self._timeout_s:
                return False
        elif self._waited >= self._tell_at:
            self._tell_at = self._waited + 1.0
            if not self._on_locked(self._waited):
                return False
        moment = self._random.uniform(0.0005, 0.003)
        pause(moment)
        self._waited += moment
        return True
