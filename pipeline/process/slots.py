"""Stable names for the processes of one deployment, and the runtime directory in which they find each other.

The runtime directory holds `slots/` (one lock file per slot, never deleted), `heartbeats/`, `metrics/`, `running/`
(settings) and `supervisor.lock`. The same locks lie beside the database: two deployments on one database share no name,
since what is leased under a name would be the other's too. A slot belongs to the process that holds its flocks, so that
a killed process frees it at once.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CannotStart
from pipeline.process.clock import pause
from pipeline.process.locks import FileLock, is_held, lock_holder, locks_directory, owner_of
from pipeline.process.stop import Stop

# More than the largest number of processes of one stage that the settings allow.
MAX_SLOTS = 128
# How often a slot that is about to be freed is tried again.
_RETRY_S = 0.1
_SUPERVISOR_LOCK = "supervisor.lock"


OnWait = Callable[[str], None]
"""Called once with who holds what is waited for, before the wait."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one process among those of its stage; `sink`: for one sink of several, unless it is named first."""

    stage: str
    index: int
    sink: str = ""

    @property
    def group(self) -> str:
        """The name of all processes that share its work, as metrics have it, such as `crawler` or `forwarder-jsonl`."""
        return f"{self.stage}-{self.sink}" if self.sink else self.stage

    @property
    def name(self) -> str:
        """The process's name in logs, metrics and files, such as `crawler-0`."""
        return f"{self.group}-{self.index}"


class SlotTaken(CannotStart):
    """Another process holds the slot, or all slots of the stage."""


class HeldSlot:
    """A slot of this process, held until `release` or the end of the process."""

    __slots__ = ("_directory_lock", "_locks", "slot")

    def __init__(self, slot: Slot, locks: Sequence[FileLock], directory_lock: int) -> None:
        self.slot = slot
        self._locks = locks
        self._directory_lock: int | None = directory_lock

    def release(self) -> None:
        """Let another process have the slot; harmless when repeated."""
        for lock in self._locks:
            lock.release()
        if self._directory_lock is not None:
            os.close(self._directory_lock)
            self._directory_lock = None


_ELSEWHERE = "remove it, or set EVENTS_RUNTIME_DIRECTORY to a folder of your own"


def prepare_runtime_directory(path: Path) -> None:
    """Make the runtime directory and its folders, mode 0700.

    Raises `CannotStart` when it cannot be made, is another user's, or when others may write to it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        link, found = path.lstat(), path.stat()
    except OSError as error:
        raise CannotStart(f"runtime directory {path}: {error.strerror}; {_ELSEWHERE}") from error
    # systemd's DynamicUser makes a link owned by root; a stranger's link in a shared folder is a trap.
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
        raise CannotStart(f"runtime directory {path} is a link made by user {link.st_uid}; {_ELSEWHERE}")
    if found.st_uid != os.geteuid():
        raise CannotStart(
            f"runtime directory {path} belongs to user {found.st_uid}, not to {os.geteuid()}; {_ELSEWHERE}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CannotStart(f"runtime directory {path} can be written by others: chmod 700 {path}")
    for folder in (
        slots_directory(path),
        heartbeats_directory(path),
        metrics_directory(path),
        settings_directory(path),
    ):
        folder.mkdir(mode=0o700, exist_ok=True)


def slots_directory(runtime_directory: Path) -> Path:
    """Return where the lock files lie."""
    return runtime_directory / "slots"


def heartbeats_directory(runtime_directory: Path) -> Path:
    """Return where the heartbeat files lie, one per slot and named by it."""
    return runtime_directory / "heartbeats"


def settings_directory(runtime_directory: Path) -> Path:
    """Return where supervisors, and stages that run alone, record their settings, in files named by slot."""
    return runtime_directory / "running"


def metrics_directory(runtime_directory: Path) -> Path:
    """Return where the metrics files lie, `TYPE_SLOT.db`."""
    return runtime_directory / "metrics"


def acquire_slot(  # noqa: PLR0913  (what a slot is, and how it is waited for)
    runtime_directory: Path,
    stage: str,
    index: int | None,
    *,
    sink: str = "",
    database: Path | None = None,
    wait_s: float = 0.0,
    stop: Stop | None = None,
    on_wait: OnWait = lambda _: None,
) -> HeldSlot:
    """Take slot `index` of `stage`, or the first free one; the runtime directory is made when missing.

    It is free when no process has it in the runtime directory or on `database`. A taken slot is waited for, at most
    about `wait_s` seconds and not once `stop` is set; then raises `SlotTaken`. `on_wait`: see `OnWait`.
    """
    prepare_runtime_directory(runtime_directory)
    stop = stop or Stop()
    holder = ""
    for turn in range(1 + int(wait_s / _RETRY_S)):
        for candidate in range(MAX_SLOTS) if index is None else (index,):
            slot = Slot(stage, candidate, sink)
            taken = _take_all(_slot_locks(runtime_directory, slot, database), database)
            if not isinstance(taken, str):
                return HeldSlot(slot, taken, _share_directory(runtime_directory))
            holder = taken
        if wait_s and not turn:
            on_wait(holder)
        if wait_s and stop.wait(_RETRY_S):
            break
    if index is None:
        raise SlotTaken(f"all {MAX_SLOTS} slots of stage {Slot(stage, 0, sink).group} are taken")
    raise SlotTaken(f"slot {Slot(stage, index, sink).name} is held by {holder}")


class SupervisorLocks:
    """What makes a process the only supervisor of a runtime directory and of a database, until `release`."""

    __slots__ = ("_locks",)

    def __init__(self, locks: Sequence[FileLock]) -> None:
        self._locks = locks

    def release(self) -> None:
        """Let another process supervise; harmless when repeated."""
        for lock in self._locks:
            lock.release()


def acquire_supervisor_lock(
    runtime_directory: Path, database: Path | None = None, *, wait_s: float = 0.0, on_wait: OnWait = lambda _: None
) -> SupervisorLocks:
    """Become the only supervisor of `runtime_directory`, which is made when missing, and of `database`.

    One that is about to end is waited for at most about `wait_s` seconds; then raises `CannotStart`. `on_wait`: see
    `OnWait`.
    """
    prepare_runtime_directory(runtime_directory)
    paths = [runtime_directory / _SUPERVISOR_LOCK]
    paths += [] if database is None else [locks_directory(database) / _SUPERVISOR_LOCK]
    for turn in range(1 + int(wait_s / _RETRY_S)):
        taken = _take_all(paths, database)
        if not isinstance(taken, str):
            return SupervisorLocks(taken)
        if wait_s:
            if not turn:
                on_wait(taken)
            pause(_RETRY_S)
    where = runtime_directory if database is None else database
    raise CannotStart(f"another supervisor, {taken}, runs on {where}")


def _slot_locks(runtime_directory: Path, slot: Slot, database: Path | None) -> list[Path]:
    beside = [] if database is None else [locks_directory(database) / f"{slot.name}.lock"]
    return [_lock_path(runtime_directory, slot), *beside]


def _take_all(paths: Sequence[Path], database: Path | None) -> list[FileLock] | str:
    """Return all locks, or who holds one of them; then none is kept. The first is of the runtime directory."""
    like = None if database is None else owner_of(database)
    taken: list[FileLock] = []
    for path in paths:
        lock = FileLock.take(path, like if taken else None)
        if lock is None:
            for each in taken:
                each.release()
            return lock_holder(path)
        taken.append(lock)
    return taken


def is_supervised(database: Path) -> bool:
    """Return True if a supervisor runs on `database`."""
    return is_held(locks_directory(database) / _SUPERVISOR_LOCK)


def held_indexes(database: Path, stage: str) -> tuple[int, ...]:
    """Return the slots of `stage` on `database` that some process holds, in order."""
    found = [path for path in locks_directory(database).glob(f"{stage}-*.lock") if is_held(path)]
    numbers = [path.stem.removeprefix(f"{stage}-") for path in found]
    return tuple(sorted(int(number) for number in numbers if number.isdecimal()))


def is_abandoned(runtime_directory: Path, database: Path, slot_name: str) -> bool:
    """Return True if no process holds a slot, in `runtime_directory` or on `database`, and none left metrics."""
    if any(path.stem.rpartition("_")[2] == slot_name for path in metrics_directory(runtime_directory).glob("*.db")):
        return False
    paths = [slots_directory(runtime_directory) / f"{slot_name}.lock", locks_directory(database) / f"{slot_name}.lock"]
    taken = _take_all(paths, database)
    if isinstance(taken, str):
        return False
    for lock in taken:
        lock.release()
    return True


def wipe_free_slots(runtime_directory: Path) -> None:
    """Delete the files of every slot that no process holds; called by the supervisor at its start."""
    held: list[str] = []
    free: list[FileLock] = []
    try:
        for path in slots_directory(runtime_directory).glob("*.lock"):
            lock = FileLock.take(path)
            if lock is None:
                held.append(path.stem)
            else:
                # Held until the files are gone, so that no process counts into a file that is being deleted.
                free.append(lock)
        for folder in (heartbeats_directory(runtime_directory), settings_directory(runtime_directory)):
            for path in folder.iterdir():
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
