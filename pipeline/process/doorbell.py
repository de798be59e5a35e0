"""Doorbells: a process that commits work wakes the processes that wait for it.

Each process that waits has a FIFO beside the locks of its database, such as `saver-0.bell`, and a ring is one byte in
it. A user who may write to the database may ring. A ring only says "look". A process looks before each wait, and once a
second in any case, so a ring may be lost, repeated or forged without harm. A process that can have no bell looks more
often.

    what ringing meets           then
    no process has the bell      nothing; the next one looks when it starts
    the FIFO is full             nothing; the process was rung and has not looked yet
    anything else                `on_failure`; the process looks within a second

A FIFO rather than a socket: its path may be of any length, it outlives the process that reads it, and it wakes sooner.
"""

import contextlib
import errno
import os
import select
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.errors import EventServiceError
from pipeline.process.locks import give_to_owner, locks_directory, locks_path, owner_of
from pipeline.process.stop import Stop

_SUFFIX: Final = ".bell"
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_RING: Final = b"\0"
# As much as a FIFO holds.
_ALL: Final = 1 << 16


class DoorbellUnusable(EventServiceError):
    """A process can have no bell."""


class Doorbell:
    """The bell of one process, until `close`; `ring` may be called in every thread, all else in one at a time."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def hang(cls, database: Path, slot_name: str) -> "Doorbell":
        """Return the bell of the process in the slot, which holds it. Raises `DoorbellUnusable` or `CannotStart`."""
        path = locks_directory(database) / f"{slot_name}{_SUFFIX}"
        try:
            return cls(path, _open(path, owner_of(database)))
        except OSError as error:
            raise DoorbellUnusable(f"{path}: {error.strerror}") from error

    def ring(self) -> None:
        """Wake the process itself, from another of its threads."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._descriptor, _RING)

    def silence(self) -> bool:
        """Forget the rings so far; return True if there were any.

        To be called before a look: a ring during the look is then kept for the wait.
        """
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._descriptor, _ALL))
        return False

    def wait(self, stop: Stop, timeout_s: float) -> None:
        """Wait for a ring since `silence`, for `stop`, or `timeout_s` at most."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(stop, select.POLLIN)
        poll.poll(1000 * timeout_s)

    def close(self) -> None:
        """Hear no more rings; the FIFO stays for the next process. Called once."""
        os.close(self._descriptor)


def _open(path: Path, like: os.stat_result | None) -> int:
    """Open the FIFO at `path`, made when missing, which others may write to as they may to the database."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
        if like is not None:
            give_to_owner(path, like)
    # With a writing end of its own it never sees an end of file.
    descriptor = os.open(path, os.O_RDWR | _FLAGS)
    found = os.fstat(descriptor)
    owners = {os.geteuid(), 0} if like is None else {os.geteuid(), like.st_uid, 0}
    if not stat.S_ISFIFO(found.st_mode) or found.st_uid not in owners:
        os.close(descriptor)
        raise DoorbellUnusable(f"{path} is not a FIFO of ours: delete it and restart")
    return descriptor


class Doorbells:
    """The bells of all processes that work on one database; may be used in every thread.

    `on_failure` is called with the reason when one cannot be rung.
    """

    __slots__ = ("_directory", "_on_failure")

    def __init__(self, database: Path, on_failure: Callable[[str], object] = lambda _: None) -> None:
        self._directory = str(locks_path(database))
        self._on_failure = on_failure

    def ring(self, *stages: str) -> None:
        """Wake the processes of `stages`; takes some microseconds, never waits and never raises."""
        prefixes = tuple(f"{stage}-" for stage in stages)
        try:
            # Each time, since another process may be started at any moment.
            names = os.listdir(self._directory)  # noqa: PTH208  (a fifth of the time of `Path.iterdir`)
        except OSError as error:
            self._on_failure(f"{self._directory}: {error.strerror}")
            return
        for name in names:
            if name.endswith(_SUFFIX) and name.startswith(prefixes):
                self._ring(f"{self._directory}/{name}")

    def _ring(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | _FLAGS)
        except OSError as error:
            # ENXIO: no process reads it.
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                self._on_failure(f"{path}: {error.strerror}")
            return
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.write(descriptor, _RING)
            else:
                self._on_failure(f"{path} is not a FIFO")
        except (BlockingIOError, BrokenPipeError):
            pass
        except OSError as error:
            self._on_failure(f"{path}: {error.strerror}")
        finally:
            os.close(descriptor)
