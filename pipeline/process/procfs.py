"""What /proc says about a process; the only module that reads it."""

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.process.clock import since_boot_s

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Positions in /proc/PID/stat after the command's closing parenthesis; proc(5) counts them from 3.
_UTIME, _STIME, _THREADS, _START, _VIRTUAL, _RSS = 11, 12, 17, 19, 20, 21
# Where the arguments begin in memory; the next field says where they end.
_ARGUMENTS = 45


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What one process uses at one moment; `open_files` is None where the kernel does not let us look."""

    cpu_s: float
    resident_bytes: int
    virtual_bytes: int
    threads: int
    open_files: int | None


def holders(path: Path) -> list[int]:
    """Other processes that have `path` open, as far as the kernel lets us look: our own user's, or as root all."""
    wanted = path.stat()
    found = set()
    for descriptor in _PROC.glob("[0-9]*/fd/*"):
        try:
            status = descriptor.stat()
        except OSError:
            continue
        if os.path.samestat(status, wanted):
            found.add(int(descriptor.parts[-3]))
    return sorted(found - {os.getpid()})


def process_use(pid: int) -> ProcessUse | None:
    """Return what `pid` uses now; None when there is no such process, or it is hidden from us."""
    fields = _stat_fields(pid)
    if fields is None:
        return None
    return ProcessUse(
        cpu_s=(int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_SECOND,
        resident_bytes=int(fields[_RSS]) * _PAGE_BYTES,
        virtual_bytes=int(fields[_VIRTUAL]),
        threads=int(fields[_THREADS]),
        open_files=_open_files(pid),
    )


def started_after_boot_s(pid: int) -> float | None:
    """Return the seconds from the boot of the machine to the start of `pid`; None if there is no such process."""
    fields = _stat_fields(pid)
    return None if fields is None else int(fields[_START]) / _TICKS_PER_SECOND


def set_process_name(name: str) -> None:
    """Name this process for `ps` and `top`; the kernel keeps the first 15 bytes."""
    (_PROC / "self" / "comm").write_text(name)


def set_command_line(arguments: Sequence[str]) -> None:
    """Show `arguments` as the command of this process, as far as those it was started with leave room.

    Does nothing where /proc is hidden. For a fork, which else shows the command of its parent.
    """
    fields = _stat_fields(os.getpid())
    start, end = (0, 0) if fields is None else (int(fields[_ARGUMENTS]), int(fields[_ARGUMENTS + 1]))
    shown = "\0".join(arguments).encode()[: max(0, end - start - 1)]
    # A kernel may refuse it; the name of the process says the same.
    with contextlib.suppress(OSError):
        memory = os.open(_PROC / "self" / "mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(memory, shown.ljust(end - start, b"\0"), start)
        finally:
            os.close(memory)


def open_descriptors() -> list[int] | None:
    """Return the numbers of the files that this process has open; None where /proc is hidden."""
    try:
        return [int(name) for name in os.listdir(_PROC / "self" / "fd")]  # noqa: PTH208  (names only)
    except OSError:
        return None


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # A zombie has ended; only its parent has not looked yet.
    return None if fields[0] in "ZX" else fields


def _open_files(pid: int) -> int | None:
    try:
        return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return None


def lock_owner(path: Path, byte: int) -> str:
    """Return the process that holds a write lock on a byte of `path`, as text for an operator; empty if unknown."""
    try:
        inode = path.stat().st_ino
        lines = (_PROC / "locks").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        # `1: POSIX  ADVISORY  WRITE 4711 00:2f:6402 120 120`; who waits for a lock has an arrow before its line.
        fields = line.split()
        if len(fields) != 8 or fields[3] != "WRITE" or fields[5].rpartition(":")[2] != str(inode):
            continue
        last = math.inf if fields[7] == "EOF" else int(fields[7])
        if int(fields[6]) <= byte <= last and int(fields[4]) > 0:
            return f"process {fields[4]}{_command_of(fields[4])}"
    return ""


def _command_of(pid: str) -> str:
    try:
        return f" ({(_PROC / pid / 'comm').read_text().strip()})"
    except OSError:
        return ""


def boot_id() -> str:
    """Return an id of this boot of the machine, unlike any other; empty where /proc shows processes only."""
    try:
        return (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
    except OSError:
        return ""


def uptime_s() -> float:
    """Return the seconds since the machine was booted, whatever its wall clock is set to."""
    try:
        return float((_PROC / "uptime").read_text().split()[0])
    except OSError:
        return since_boot_s()
