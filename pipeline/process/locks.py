"""Files that say by an flock who holds what: released by `release` or at the end of the process, however it ends."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from pipeline.errors import CannotStart

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class FileLock:
    """An exclusive flock on a file that names the process which holds it."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path, like: os.stat_result | None = None) -> "FileLock | None":
        """Lock `path`, made when missing; None when another process or object holds it.

        `like`: whose owner and mode a new file gets, as far as this process may give them. Raises `CannotStart` for a
        file that cannot be opened.
        """
        try:
            descriptor = _open(path, like)
        except OSError as error:
            raise CannotStart(f"lock file {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # One that was opened to be read only keeps the name of its last holder, who is gone.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock up; harmless when repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: Path, like: os.stat_result | None) -> int:
    """Open `path`, to be written if that may be, made when missing.

    One that exists is opened without O_CREAT, which the kernel refuses for another user's file in a shared folder.
    """
    while True:
        try:
            return os.open(path, os.O_RDWR | _FLAGS)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return os.open(path, os.O_RDONLY | _FLAGS)
        with contextlib.suppress(FileExistsError):
            mode = 0o600 if like is None else like.st_mode & 0o666
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
            if like is not None:
                _give(descriptor, like, mode)
            return descriptor


def _give(descriptor: int, like: os.stat_result, mode: int) -> None:
    """Let a new file or folder be as `like` is: one that root made must not keep the service's own user out."""
    os.fchmod(descriptor, mode)
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, like.st_uid, like.st_gid)


def give_to_owner(path: Path, like: os.stat_result) -> None:
    """Let a new file of any kind be read and written by those who may do that to `like`."""
    path.chmod(like.st_mode & 0o666)
    with contextlib.suppress(PermissionError):
        os.chown(path, like.st_uid, like.st_gid)


def is_held(path: Path) -> bool:
    """Return True if some process holds the lock at `path`; False where there is none or it cannot be looked at."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock_holder(path: Path) -> str:
    """Return the process that holds the lock at `path`, as text for an operator."""
    try:
        number = int(path.read_text())
        os.kill(number, 0)
    except PermissionError:
        return f"process {number}"
    except (OSError, ValueError, OverflowError):
        return "another process"
    return f"process {number}"


def locks_path(database: Path) -> Path:
    """Return where the locks of all processes that work on `database` lie, made or not."""
    database = database.resolve()
    return database.with_name(database.name + ".locks")


def locks_directory(database: Path) -> Path:
    """Return where the locks of all processes that work on `database` lie, made when missing, as accessible as it is.

    Raises `CannotStart` when it cannot be made.
    """
    directory = locks_path(database)
    try:
        like = owner_of(database)
        with contextlib.suppress(FileExistsError):
            mode = 0o700 if like is None else like.st_mode & 0o666 | (like.st_mode & 0o444) >> 2
            directory.mkdir(mode=mode)
            if like is not None:
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
                try:
                    _give(descriptor, like, mode)
                finally:
                    os.close(descriptor)
    except OSError as error:
        raise CannotStart(f"lock folder {directory}: {error.strerror}") from error
    return directory


def owner_of(database: Path) -> os.stat_result | None:
    """Whose `database` is and who may read it; None while there is none."""
    try:
        return database.stat()
    except FileNotFoundError:
        return None
