"""Signs of life: each process writes the time into a small file of its own; supervisor and health read them all.

The file holds all that others want to know of the process, and a lock on it is held for as long as the process lives:
a process in another unit of systemd cannot be looked at by /proc.
"""

import contextlib
import fcntl
import math
import os
import resource
import struct
from dataclasses import dataclass
from pathlib import Path

from pipeline.process import procfs
from pipeline.process.clock import Clock, since_boot_s
from pipeline.process.procfs import ProcessUse
from pipeline.process.slots import heartbeats_directory

_MAGIC = b"beat0003"
MAX_STATUS_BYTES = 216
DATABASE_LOCKED = "the database is locked"
"""How the status of a process begins that waits for a lock that another program holds."""
# Mark, pid, start (ms since the epoch), times of the last beat (0: none yet) and of the status in ns of
# CLOCK_MONOTONIC, which is one for all processes of a machine, so that a reader knows ages; then what the process
# uses: CPU seconds, resident and virtual bytes, threads, open files (-1: unknown) and how many it may open; status.
_LAYOUT = struct.Struct(f"=8sQQQQdQQQqQ{MAX_STATUS_BYTES}s")
# `struct flock` of a 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi4x")
_UNKNOWN = -1
# Looking at oneself takes longer than a beat.
_LOOK_EVERY_S = 5.0
# A beat that comes sooner after the last is not written: hot loops may beat at every turn.
_MIN_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class HeartbeatReading:
    """What one process last said of itself."""

    slot_name: str
    pid: int
    alive: bool
    """True if the very process that wrote it still runs."""
    age_s: float
    """Seconds since the last beat; infinite before the first."""
    status: str = ""
    """What is wrong, in the process's own words; empty when nothing is."""
    status_age_s: float = 0.0
    """Seconds since it said so first."""
    started_s: float = 0.0
    """When the process was started (seconds since the epoch)."""
    use: ProcessUse | None = None
    """What it used when it last looked at itself, some seconds ago at most; None where it could not."""
    max_files: int = 0
    """Number of files it may have open."""

    @property
    def ready(self) -> bool:
        """True if the process has beaten at least once since this machine started."""
        return math.isfinite(self.age_s)


class Pulse:
    """The sign of life of one thread that must turn, which `turn` renews; made by `Heartbeat.watch`."""

    __slots__ = ("_clock", "at", "limit_s", "name")

    def __init__(self, name: str, limit_s: float, clock: Clock) -> None:
        self.name = name
        self.limit_s = limit_s
        self._clock = clock
        self.at = clock.monotonic()

    def turn(self) -> None:
        """The thread goes on; takes some hundred nanoseconds."""
        self.at = self._clock.monotonic()


class Heartbeat:
    """The writer's end. Beat from the loop whose standing still would mean that the stage hangs.

    A thread that stands still is a stage that stands still: of those that are watched, one that does not turn keeps
    every beat from being written.
    """

    __slots__ = (
        "_clock", "_complaint", "_descriptor", "_last_s", "_look_at_s", "_max_files", "_pulses", "_started_ms",
        "_status", "_status_ns", "_use", "path",
    )  # fmt: skip

    def __init__(self, runtime_directory: Path, slot_name: str, clock: Clock) -> None:
        """Announce the process (not yet a beat); the runtime directory exists."""
        self.path = heartbeats_directory(runtime_directory) / slot_name
        self._clock = clock
        after_boot_s = procfs.started_after_boot_s(os.getpid())
        age_s = 0.0 if after_boot_s is None else max(0.0, since_boot_s() - after_boot_s)
        self._started_ms = max(0, clock.now_ms() - round(age_s * 1000))
        self._max_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._use: ProcessUse | None = None
        self._look_at_s = -math.inf
        self._last_s = -math.inf
        self._status = ""
        self._status_ns = 0
        self._pulses: list[Pulse] = []
        # What any thread has to say, and until when it holds (monotonic s).
        self._complaint: tuple[str, float] = ("", -math.inf)
        self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Another process that holds it still ends, having freed the slot; its end frees the lock.
        with contextlib.suppress(BlockingIOError):
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
        self._write(0)

    def beat(self, status: str = "") -> None:
        """Tell that the process is alive and, if something is wrong, what: for health, in `MAX_STATUS_BYTES` at most.

        Takes some microseconds.
        """
        now_s = self._clock.monotonic()
        if not status and now_s < self._complaint[1]:
            status = self._complaint[0]
        if now_s - self._last_s < _MIN_INTERVAL_S and status == self._status:
            return
        if any(now_s - pulse.at > pulse.limit_s for pulse in self._pulses):
            return
        self._last_s = now_s
        self._set_status(status, now_s)
        self._write(max(1, round(now_s * 1e9)))

    def watch(self, name: str, limit_s: float) -> Pulse:
        """Watch a thread of this process, which must turn at least every `limit_s` from now on."""
        pulse = Pulse(name, limit_s, self._clock)
        self._pulses.append(pulse)
        return pulse

    def complain(self, status: str, for_s: float) -> None:
        """Let beats report a problem for some seconds, if they report nothing else; from any thread.

        Threads that are watched count as turning: who complains knows why they stand.
        """
        now_s = self._clock.monotonic()
        self._complaint = (status, now_s + for_s)
        for pulse in self._pulses:
            pulse.turn()
        self.beat(status)

    def fail(self, why: str) -> None:
        """Say no more and leave the file with the reason, as a process does that ends for it; no beat."""
        if self._descriptor is not None:
            self._set_status(why, self._clock.monotonic())
            self._write(max(1, round(self._last_s * 1e9)) if math.isfinite(self._last_s) else 0)
            os.close(self._descriptor)
            self._descriptor = None

    def close(self) -> None:
        """Say no more and delete the file, as a process does that ends in good order; harmless after `fail`."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _set_status(self, status: str, now_s: float) -> None:
        if status != self._status:
            self._status, self._status_ns = status, round(now_s * 1e9)

    def _write(self, beat_ns: int) -> None:
        if self._descriptor is not None:
            self._look(self._clock.monotonic())
            status = self._status.encode(errors="replace")[:MAX_STATUS_BYTES]
            fields = (_MAGIC, os.getpid(), self._started_ms, beat_ns, self._status_ns, *self._used(), status)
            os.pwrite(self._descriptor, _LAYOUT.pack(*fields), 0)

    def _look(self, now_s: float) -> None:
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_EVERY_S
            self._use = procfs.process_use(os.getpid())

    def _used(self) -> tuple[float, int, int, int, int, int]:
        use = self._use
        if use is None:
            return (0.0, 0, 0, 0, _UNKNOWN, self._max_files)
        files = _UNKNOWN if use.open_files is None else use.open_files
        return (use.cpu_s, use.resident_bytes, use.virtual_bytes, use.threads, files, self._max_files)


def read_heartbeats(runtime_directory: Path, clock: Clock) -> list[HeartbeatReading]:
    """Return the last word of every process that did not end in good order, sorted by slot name."""
    try:
        names = sorted(path.name for path in heartbeats_directory(runtime_directory).iterdir())
    except FileNotFoundError:
        return []
    readings = (read_heartbeat(runtime_directory, name, clock) for name in names)
    return [reading for reading in readings if reading is not None]


def read_heartbeat(runtime_directory: Path, slot_name: str, clock: Clock) -> HeartbeatReading | None:
    """Return the last word of the process in `slot_name`; None when there is none."""
    try:
        with (heartbeats_directory(runtime_directory) / slot_name).open("rb") as file:
            data = file.read(_LAYOUT.size + 1)
            alive = _is_locked(file.fileno())
    except FileNotFoundError:
        return None
    if len(data) != _LAYOUT.size or not data.startswith(_MAGIC):
        return None
    _, pid, started_ms, beat_ns, status_ns, *use, max_files, status = _LAYOUT.unpack(data)
    now_s = clock.monotonic()
    age_s = now_s - beat_ns / 1e9
    return HeartbeatReading(
        slot_name=slot_name,
        pid=pid,
        alive=alive,
        # A beat from the future is one from before the machine was last started.
        age_s=max(age_s, 0.0) if beat_ns and age_s > -1 else math.inf,
        status=status.rstrip(b"\0").decode(errors="replace"),
        status_age_s=max(now_s - status_ns / 1e9, 0.0),
        started_s=started_ms / 1000,
        use=_use(*use),
        max_files=max_files,
    )


def _use(cpu_s: float, resident: int, virtual: int, threads: int, files: int) -> ProcessUse | None:
    if not threads:
        return None
    return ProcessUse(cpu_s, resident, virtual, threads, None if files == _UNKNOWN else files)


def _lock(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _is_locked(descriptor: int) -> bool:
    """Return True if a process holds the file's lock; the lock is not taken, so that no process is refused for it."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
