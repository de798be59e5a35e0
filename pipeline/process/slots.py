"""Stable names for the processes of one deployment, and the runtime directory in which they find each other.

The runtime directory holds `slots/` (one lock file per slot, never deleted), `heartbeats/`, `metrics/` and
`supervisor.lock`. A slot belongs to the process that holds its flock, so a killed process frees it at once.
"""

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CannotStart
from pipeline.process.stop import Stop

# More than the largest number of processes of one stage that the settings allow.
MAX_SLOTS = 128
# How often a slot that is about to be freed is tried again.
_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one process among those of its stage."""

    stage: str
    index: int

    @property
    def name(self) -> str:
        """The process's name in logs, metrics and files, such as `crawler-0`."""
        return f"{self.stage}-{self.index}"


class SlotTaken(CannotStart):
    """Another process holds the slot, or all slots of the stage."""


class FileLock:
    """An exclusive flock on a file that says who holds it; given up by `release` or at the end of the process."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path) -> "FileLock | None":
        """Lock `path`, made when missing; None when another process or object holds it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock up; harmless when repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class HeldSlot:
    """A slot of this process, held until `release` or the end of the process."""

    __slots__ = ("_directory_lock", "_lock", "slot")

    def __init__(self, slot: Slot, lock: FileLock, directory_lock: int) -> None:
        self.slot = slot
        self._lock = lock
        self._directory_lock: int | None = directory_lock

    def release(self) -> None:
        """Let another process have the slot; harmless when repeated."""
        self._lock.release()
        if self._directory_lock is not None:
            os.close(self._directory_lock)
            self._directory_lock = None


def prepare_runtime_directory(path: Path) -> None:
    """Make the runtime directory and its folders, mode 0700.

    Raises `CannotStart` when it cannot be made, is another user's, or when others may write to it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        link, found = path.lstat(), path.stat()
    except OSError as error:
        raise CannotStart(f"runtime directory {path}: {error.strerror}") from error
    # systemd's DynamicUser makes a link owned by root; a stranger's link in a shared folder is a trap.
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
        raise CannotStart(f"runtime directory {path} is a link made by user {link.st_uid}")
    if found.st_uid != os.geteuid():
        raise CannotStart(f"runtime directory {path} belongs to user {found.st_uid}, not to {os.geteuid()}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CannotStart(f"runtime directory {path} can be written by others; its mode should be 0700")
    for folder in (slots_directory(path), heartbeats_directory(path), metrics_directory(path)):
        folder.mkdir(mode=0o700, exist_ok=True)


def slots_directory(runtime_directory: Path) -> Path:
    """Where the lock files lie."""
    return runtime_directory / "slots"


def heartbeats_directory(runtime_directory: Path) -> Path:
    """Where the heartbeat files lie, one per slot and named by it."""
    return runtime_directory / "heartbeats"


def metrics_directory(runtime_directory: Path) -> Path:
    """Where the metrics files lie, `TYPE_SLOT.db`."""
    return runtime_directory / "metrics"


def acquire_slot(
    runtime_directory: Path, stage: str, index: int | None, *, wait_s: float = 0.0, stop: Stop | None = None
) -> HeldSlot:
    """Take slot `index` of `stage`, or the first free one; the runtime directory is made when missing.

    A taken slot is waited for at most about `wait_s` seconds, and not once `stop` is set; then raises `SlotTaken`.
    """
    prepare_runtime_directory(runtime_directory)
    stop = stop or Stop()
    for _ in range(1 + int(wait_s / _RETRY_S)):
        for candidate in range(MAX_SLOTS) if index is None else (index,):
            slot = Slot(stage, candidate)
            lock = FileLock.take(_lock_path(runtime_directory, slot))
            if lock is not None:
                return HeldSlot(slot, lock, _share_directory(runtime_directory))
        if wait_s and stop.wait(_RETRY_S):
            break
    if index is None:
        raise SlotTaken(f"all {MAX_SLOTS} slots of stage {stage} are taken")
    slot = Slot(stage, index)
    raise SlotTaken(f"slot {slot.name} is held by process {lock_holder(_lock_path(runtime_directory, slot))}")


def acquire_supervisor_lock(runtime_directory: Path) -> FileLock:
    """Become the only supervisor of `runtime_directory`, which is made when missing; else raises `CannotStart`."""
    prepare_runtime_directory(runtime_directory)
    path = runtime_directory / "supervisor.lock"
    lock = FileLock.take(path)
    if lock is None:
        raise CannotStart(f"another supervisor, process {lock_holder(path)}, runs on {runtime_directory}")
    return lock


def lock_holder(path: Path) -> str:
    """The process that last took the lock at `path`, as text for an operator."""
    try:
        return path.read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def wipe_free_slots(runtime_directory: Path) -> None:
    """Delete the metrics and heartbeats of every slot that no process holds; called by the supervisor at its start."""
    held: list[str] = []
    free: list[FileLock] = []
    try:
        for path in slots_directory(runtime_directory).glob("*.lock"):
            lock = FileLock.take(path)
            if lock is None:
                held.append(path.stem)
            else:
                # Held until the files are gone, so that nobody counts into a file that is being deleted.
                free.append(lock)
        for path in heartbeats_directory(runtime_directory).iterdir():
            if path.name not in held:
                path.unlink(missing_ok=True)
        for path in metrics_directory(runtime_directory).iterdir():
            if path.stem.rpartition("_")[2] not in held:
                path.unlink(missing_ok=True)
    finally:
        for lock in free:
            lock.release()


def _lock_path(runtime_directory: Path, slot: Slot) -> Path:
    return slots_directory(runtime_directory) / f"{slot.name}.lock"


def _share_directory(runtime_directory: Path) -> int:
    """Take a shared lock on the directory itself: systemd-tmpfiles leaves locked directories alone, however old."""
    descriptor = os.open(runtime_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # Refused only while tmpfiles itself looks in; the files are young then.
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor
