"""Signs of life: each process writes the time into a small file of its own; supervisor and health read them all."""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from pipeline.process import procfs
from pipeline.process.clock import Clock
from pipeline.process.slots import heartbeats_directory

_MAGIC = b"beat0002"
MAX_STATUS_BYTES = 216
# Mark, pid, start of the process in ticks, times of the last beat (0: none yet) and of the status in ns of
# CLOCK_MONOTONIC, status: 256 bytes. That clock is one for all processes of a machine, so a reader can tell ages.
_LAYOUT = struct.Struct(f"=8sQQQQ{MAX_STATUS_BYTES}s")
# A beat that comes sooner after the last is not written: hot loops may beat at every turn.
_MIN_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class HeartbeatReading:
    """What one process last said of itself."""

    slot_name: str
    pid: int
    alive: bool
    """Whether the very process that wrote it still exists."""
    age_s: float
    """Seconds since the last beat; infinite before the first."""
    status: str = ""
    """What is wrong, in the process's own words; empty when nothing is."""
    status_age_s: float = 0.0
    """Seconds since it said so first."""

    @property
    def ready(self) -> bool:
        """Whether the process has beaten at least once since this machine started."""
        return math.isfinite(self.age_s)


class Heartbeat:
    """The writer's end. Beat from the loop whose standing still would mean that the stage hangs."""

    __slots__ = ("_clock", "_descriptor", "_last_s", "_start_ticks", "_status", "_status_ns", "path")

    def __init__(self, runtime_directory: Path, slot_name: str, clock: Clock) -> None:
        """Announce the process (not yet a beat); the runtime directory exists."""
        self.path = heartbeats_directory(runtime_directory) / slot_name
        self._clock = clock
        self._start_ticks = procfs.start_ticks(os.getpid()) or 0
        self._last_s = -math.inf
        self._status = ""
        self._status_ns = 0
        self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._write(0)

    def beat(self, status: str = "") -> None:
        """Tell that the process is alive and, if something is wrong, what: for health, in `MAX_STATUS_BYTES` at most.

        Takes some microseconds.
        """
        now_s = self._clock.monotonic()
        if now_s - self._last_s < _MIN_INTERVAL_S and status == self._status:
            return
        self._last_s = now_s
        self._set_status(status, now_s)
        self._write(max(1, round(now_s * 1e9)))

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
            status = self._status.encode(errors="replace")[:MAX_STATUS_BYTES]
            fields = (_MAGIC, os.getpid(), self._start_ticks, beat_ns, self._status_ns, status)
            os.pwrite(self._descriptor, _LAYOUT.pack(*fields), 0)


def read_heartbeats(runtime_directory: Path, clock: Clock) -> list[HeartbeatReading]:
    """The last word of every process that did not end in good order, sorted by slot name."""
    try:
        names = sorted(path.name for path in heartbeats_directory(runtime_directory).iterdir())
    except FileNotFoundError:
        return []
    readings = (read_heartbeat(runtime_directory, name, clock) for name in names)
    return [reading for reading in readings if reading is not None]


def read_heartbeat(runtime_directory: Path, slot_name: str, clock: Clock) -> HeartbeatReading | None:
    """The last word of the process in `slot_name`; None when there is none."""
    try:
        data = (heartbeats_directory(runtime_directory) / slot_name).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != _LAYOUT.size or not data.startswith(_MAGIC):
        return None
    _, pid, start_ticks, beat_ns, status_ns, status = _LAYOUT.unpack(data)
    now_s = clock.monotonic()
    age_s = now_s - beat_ns / 1e9
    return HeartbeatReading(
        slot_name=slot_name,
        pid=pid,
        alive=procfs.start_ticks(pid) == start_ticks,
        # A beat from the future is one from before the machine was last started.
        age_s=max(age_s, 0.0) if beat_ns and age_s > -1 else math.inf,
        status=status.rstrip(b"\0").decode(errors="replace"),
        status_age_s=max(now_s - status_ns / 1e9, 0.0),
    )
