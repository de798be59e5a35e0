"""A private copy of a SQLite database that another program may have open at this moment.

The files of the source are opened for reading only, and never by SQLite: its read-only connections make `-wal` and
`-shm` beside a database in WAL mode, and cannot read what a crash left behind without writing. Locks of SQLite's own
protocol keep the source unchanged during the copy. Under the shared lock of the database no program commits to a
database with a rollback journal or removes a write-ahead log; under the checkpoint lock nothing moves from the log into
the database. Writers with a log go on; what they append is left out like any unfinished transaction.
"""

import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pipeline.errors import EventServiceError
from pipeline.process.clock import Clock, pause

SIDE_FILES: Final = ("-wal", "-journal", "-shm")
"""What SQLite keeps beside a database, by what it appends to the name."""

# A writer with a rollback journal may hold its lock for as long as it writes.
_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.01
# A source that has no shared memory to lock may come to life under the copy; the next attempt finds it alive.
_ATTEMPTS: Final = 10
_CHUNK: Final = 16 << 20
# https://sqlite.org/lockingv3.html and https://sqlite.org/walformat.html: bytes of the database and of its `-shm`.
_PENDING: Final = 0x40000000
_SHARED: Final = (_PENDING + 2, 510)
_CHECKPOINT: Final = (121, 1)
_WAL_HEADER_BYTES: Final = 32
_NO_KERNEL_COPY: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)

Progress = Callable[[int], None]
"""Called with how many more bytes (or rows) are done."""


class SourceUnusable(EventServiceError):
    """The database to read from is missing, unreadable, in use, or not what it should be."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which files make up a database and when each was last written; equal while no program writes."""

    files: tuple[tuple[int, int, int] | None, ...]

    @classmethod
    def of(cls, source: Path) -> "Fingerprint":
        """Return the state of `source` now."""
        return cls(tuple(_stat(source.with_name(source.name + suffix)) for suffix in ("", "-wal", "-journal")))


def size(source: Path) -> int:
    """Return how many bytes a copy of `source` takes. Raises `SourceUnusable`."""
    if _stat(source) is None:
        raise SourceUnusable(f"there is no file {source}")
    sizes = (_stat(source.with_name(source.name + suffix)) for suffix in ("", "-wal", "-journal"))
    return sum(each[1] for each in sizes if each is not None)


def copy(source: Path, target: Path, clock: Clock, progress: Progress) -> Fingerprint:
    """Copy a database with its log or journal to `target`, as of one moment; return what the source was then.

    `source` must be resolved, since SQLite keeps the side files beside the real file. Raises `SourceUnusable`.
    """
    needed, free = size(source), shutil.disk_usage(target.parent).free
    if needed > free:
        raise SourceUnusable(f"a copy of {source} takes {needed:,} bytes; {target.parent} has {free:,} left")
    try:
        for _ in range(_ATTEMPTS):
            taken = _attempt(source, target, clock, progress)
            if taken is not None:
                return taken
    except OSError as error:
        raise SourceUnusable(f"cannot copy {source}: {error.strerror or error}") from error
    raise SourceUnusable(f"{source} changes faster than it can be copied")


def _attempt(source: Path, target: Path, clock: Clock, progress: Progress) -> Fingerprint | None:
    """Return one copy; `None` if the source changed under it."""
    with _held_still(source, clock) as database:
        before, fingerprint = _witness(source), Fingerprint.of(source)
        for suffix in ("-wal", "-journal"):
            target.with_name(target.name + suffix).unlink(missing_ok=True)
            try:
                with source.with_name(source.name + suffix).open("rb") as side:
                    _copy_file(side, target.with_name(target.name + suffix), progress)
            except FileNotFoundError:
                continue
        _copy_file(database, target, progress)
        return fingerprint if _witness(source) == before else None


@contextmanager
def _held_still(source: Path, clock: Clock) -> Iterator[BinaryIO]:
    """The opened database, under locks that go with its closing."""
    with ExitStack() as stack:
        database = stack.enter_context(source.open("rb"))
        # A program that is about to write holds the pending byte, and new readers stay away.
        _acquire(database, (_PENDING, 1), source, clock)
        _acquire(database, _SHARED, source, clock)
        _set_lock(database, (_PENDING, 1), fcntl.F_UNLCK)
        try:
            memory = stack.enter_context(source.with_name(source.name + "-shm").open("rb"))
        except FileNotFoundError:
            pass
        else:
            _acquire(memory, _CHECKPOINT, source, clock)
        yield database


def _witness(source: Path) -> tuple[object, ...]:
    """Return what stays the same while the locks hold, and changes if there was nothing to lock.

    A log that is restarted gets another header: frames of before and after must not come together.
    """
    memory = _stat(source.with_name(source.name + "-shm"))
    log = source.with_name(source.name + "-wal")
    try:
        with log.open("rb") as file:
            header = file.read(_WAL_HEADER_BYTES)
    except FileNotFoundError:
        header = b""
    return _stat(source), memory and memory[0], header


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _acquire(file: BinaryIO, where: tuple[int, int], source: Path, clock: Clock) -> None:
    deadline = clock.monotonic() + _PATIENCE_S
    while not _set_lock(file, where, fcntl.F_RDLCK):
        if clock.monotonic() >= deadline:
            raise SourceUnusable(f"{source} stayed locked for {_PATIENCE_S:.0f} s")
        pause(_POLL_S)


def _set_lock(file: BinaryIO, where: tuple[int, int], kind: int) -> bool:
    """Take or release a lock that belongs to this opening of the file, not to the process; return True if it could."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(kind, where))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _flock(kind: int, where: tuple[int, int]) -> bytes:
    start, length = where
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def is_locked(source: Path) -> bool:
    """Return True if locks show that another program has the database open; without a log it holds one at work only."""
    with source.open("rb") as file:
        found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, (_PENDING, 512)))
    return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)


def _copy_file(file: BinaryIO, target: Path, progress: Progress) -> None:
    """Copy as much as `file` holds now, within the kernel where it can (on some file systems that takes no space)."""
    left = os.fstat(file.fileno()).st_size
    file.seek(0)
    with target.open("wb") as out:
        while left:
            done = _copy_chunk(file, out, min(left, _CHUNK))
            if not done:
                break
            left -= done
            progress(done)


def _copy_chunk(file: BinaryIO, out: BinaryIO, count: int) -> int:
    try:
        return os.copy_file_range(file.fileno(), out.fileno(), count)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    data = os.read(file.fileno(), count)
    view = memoryview(data)
    while view:
        view = view[os.write(out.fileno(), view) :]
    return len(data)
