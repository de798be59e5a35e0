"""The SQLite file: refused where it is not ours, and set up for many processes that write."""

import os
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path

import apsw

from pipeline.process.clock import pause
from pipeline.store.database_errors import BUSY_TIMEOUT_S, DatabaseUnusable, cannot_write

# 3.7.0 to 3.51.2 can corrupt a WAL database that several connections write and checkpoint, which is what we do.
OLDEST_SQLITE = (3, 51, 3)
APPLICATION_ID = 0x65767376
TELL_LOCKED_S = 3.0
"""Longer than any transaction of ours: another program holds a lock that long."""
# Above this the sweeper restarts the log, which cuts the file back to it: lower than the size at which a commit must
# checkpoint, since that takes a while to happen.
JOURNAL_SIZE_LIMIT = 48 << 20
_CACHE_KIB = 32 << 10
# The sweeper checkpoints; a commit does so only if the sweeper cannot keep up. With SQLite's own 1,000 pages every
# writer does it all the time and delays the others: a fifth of the throughput.
_AUTOCHECKPOINT_BYTES = 64 << 20
# A commit logs whole pages, some twenty for an event on its own: with SQLite's own 4 KiB they are twice as many bytes.
# With 1 KiB many events would overflow theirs.
PAGE_BYTES = 2048

OnLocked = Callable[[float], bool]
"""Called about every second while a lock is waited for, with the seconds so far; returns whether to wait on."""

TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"

INTERRUPTED_SWAP = ".imported"
"""Appended to a database's name: what an import is about to put in its place; until then nothing else may be there."""

_GO_SERVICE_TABLES = ({"public_keys_to_monitor", "contacts_followees"}, {"events", "events_to_relays", "relays"})


def identity_of(path: Path) -> tuple[int, int] | None:
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


def require_sqlite() -> None:
    """Raise `DatabaseUnusable` where the library is one that corrupts databases."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise DatabaseUnusable(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt this database; {oldest} or newer is needed"
        )


def prepare(connection: apsw.Connection, path: Path, busy: "JitteredBusyHandler") -> None:
    """Set up a connection, once it is sure that the file is ours. Raises `DatabaseUnusable`."""
    connection.set_busy_handler(busy)
    # Closing a file that is not ours must not move its owner's write-ahead log into it.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    _require_ours(connection, path)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    if connection.readonly("main"):
        raise DatabaseUnusable(f"cannot use the database {path}: {cannot_write(path)}")
    # Of a file that is empty; what has tables keeps the size that it has.
    connection.pragma("page_size", PAGE_BYTES)
    _switch_to_wal(connection)
    connection.pragma("synchronous", "normal")
    connection.pragma("foreign_keys", False)
    connection.pragma("journal_size_limit", JOURNAL_SIZE_LIMIT)
    connection.pragma("cache_size", -_CACHE_KIB)
    connection.pragma("wal_autocheckpoint", _AUTOCHECKPOINT_BYTES // int(connection.pragma("page_size")))
    connection.pragma("temp_store", "memory")
    # Our plans never depend on values. Without this, a statement is prepared again for each value that its LIMIT, or a
    # column of both tables of a join, is bound to, which takes longer than claiming a row.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def _switch_to_wal(connection: apsw.Connection) -> None:
    """Set the journal mode; while another process does the same, SQLite refuses without asking the busy handler."""
    wait = JitteredBusyHandler(BUSY_TIMEOUT_S)
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


class JitteredBusyHandler:
    """Busy handler that waits random moments: with SQLite's own one of several writers starves for seconds."""

    __slots__ = ("_on_locked", "_random", "_tell_at", "_timeout_s", "_waited")

    def __init__(self, timeout_s: float, on_locked: OnLocked | None = None) -> None:
        self._random = random.Random()
        self._timeout_s = timeout_s
        self._on_locked = on_locked
        self._waited = 0.0
        self._tell_at = TELL_LOCKED_S

    def __call__(self, calls: int) -> bool:
        """Wait a moment, the `calls`th time; return False to wait no longer."""
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
