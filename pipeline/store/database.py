"""One connection to the SQLite file, and the transactions on it.

Every write runs in `BEGIN IMMEDIATE`: a deferred transaction that reads first and writes later fails at once when
another process wrote in between, whatever the busy time-out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from pipeline.process.stage_times import StageTimes
from pipeline.store.database_errors import (
    BUSY_TIMEOUT_S,
    ENVIRONMENT_ERRORS,
    TRANSIENT_ERRORS,
    DatabaseBusy,
    DatabaseUnusable,
    failure,
    reason_of,
    stayed_locked,
)
from pipeline.store.database_file import (
    INTERRUPTED_SWAP,
    JitteredBusyHandler,
    OnLocked,
    identity_of,
    prepare,
    require_sqlite,
)
from pipeline.store.ownership import create_private, is_there

# The cache is a ring: each use of a statement takes a new place in it, `executemany` one for each row. With apsw's own
# 100 a batch of twenty events prepares all statements again, which is a quarter of the saver's transaction. More than
# this apsw does not allow.
_STATEMENTS_CACHED = 512
# Some tenths of a second of SQLite's work.
_PROGRESS_STEPS = 10_000_000
# Writers wait while the log is restarted, and a reader that was stopped in the middle would make them wait for ever.
RESTART_PATIENCE_S = 0.05
Tx = apsw.Connection
"""A connection inside a transaction; what the functions of this package take."""

Row = tuple[Any, ...]
"""A row as SQLite gives it; the statement beside it says what its columns hold."""


class Database:
    """One connection, to be used only by the thread that opened it, never across a fork."""

    __slots__ = ("_busy", "_connection", "_identity", "_times", "path")

    def __init__(
        self,
        path: Path,
        connection: apsw.Connection,
        busy: "JitteredBusyHandler | None" = None,
        times: StageTimes | None = None,
    ) -> None:
        self.path = path
        self._connection = connection
        self._busy = busy or JitteredBusyHandler(BUSY_TIMEOUT_S)
        self._identity = identity_of(path)
        self._times = times

    @classmethod
    def open(cls, path: Path, on_locked: OnLocked | None = None, times: StageTimes | None = None) -> "Database":
        """Open `path`, creating it if it is missing. The schema is not looked at.

        `on_locked`: called while another process holds a lock for more than `TELL_LOCKED_S`, and decides how long that
        is waited for; without, it is `BUSY_TIMEOUT_S`. `times` counts the write transactions.
        Raises `DatabaseUnusable`, or `DatabaseFailed` where that says nothing about the file: it stays locked, its disk
        is full or fails, or its folder is away.
        """
        require_sqlite()
        if is_there(path.resolve().with_name(path.resolve().name + INTERRUPTED_SWAP)):
            raise DatabaseUnusable(f"an import at {path} was interrupted; event-service import-go --in-place ends it")
        create_private(path)
        try:
            connection = apsw.Connection(str(path), statementcachesize=_STATEMENTS_CACHED)
            try:
                busy = JitteredBusyHandler(BUSY_TIMEOUT_S, on_locked)
                prepare(connection, path, busy)
            except BaseException:
                connection.close()
                raise
        except apsw.BusyError as error:
            raise DatabaseBusy(stayed_locked(path)) from error
        except TRANSIENT_ERRORS as error:
            raise failure(path, "opened", error) from error
        except apsw.Error as error:
            raise DatabaseUnusable(f"cannot use the database {path}: {reason_of(error, path)}") from error
        return cls(path, connection, busy, times)

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Tx]:
        """A write transaction: committed on leaving, rolled back on an exception. Keep it to milliseconds.

        `durable`: on the disk before this returns, with all that was committed before; else a power failure may take
        the last commits.
        Raises `DatabaseFailed` where the database itself is at fault, and `DatabaseUnusable` where another file has
        taken its place: what was written to the old one would be lost to everybody who starts later.
        """
        connection = self._connection
        if identity_of(self.path) != self._identity:
            raise DatabaseUnusable(f"the database {self.path} was moved away or replaced while it was in use")
        if durable:
            connection.pragma("synchronous", "full")
        times = self._times
        asked_at = 0.0 if times is None else times.now()
        try:
            connection.execute("BEGIN IMMEDIATE")
            began_at = 0.0 if times is None else times.now()
            yield connection
            connection.execute("COMMIT")
        except apsw.BusyError as error:
            self._roll_back()
            raise DatabaseBusy(stayed_locked(self.path)) from error
        except ENVIRONMENT_ERRORS as error:
            self._roll_back()
            raise failure(self.path, "written", error) from error
        except BaseException:
            self._roll_back()
            raise
        else:
            if times is not None:
                times.note_write(asked_at, began_at)
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
        except ENVIRONMENT_ERRORS as error:
            raise failure(self.path, "read", error) from error
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        # A failed COMMIT or a full disk may have rolled back already.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def data_version(self) -> int:
        """Return a number that changes whenever another connection has committed (2 µs)."""
        # A statement of the cache, which `Connection.pragma` is not.
        return int(self._connection.execute("PRAGMA data_version").get)

    def checkpoint(self) -> None:
        """Move what readers allow out of the write-ahead log, unless another is doing so; no writer waits for it."""
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return
        except ENVIRONMENT_ERRORS as error:
            raise failure(self.path, "written", error) from error

    def restart_log(self) -> bool:
        """Move everything out of the write-ahead log and restart it; writers wait until it is done.

        Return True if that was possible within `RESTART_PATIENCE_S`: a reader may still need what is in it.
        """
        # Most is moved before anybody has to wait: tens of megabytes take a tenth of a second.
        self.checkpoint()
        self._connection.set_busy_handler(JitteredBusyHandler(RESTART_PATIENCE_S))
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            return False
        except ENVIRONMENT_ERRORS as error:
            raise failure(self.path, "written", error) from error
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

    def forget_pages(self) -> None:
        """Free the memory of pages that were read, as after reading what will not be read again."""
        self._connection.pragma("shrink_memory")

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._connection.close()

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
