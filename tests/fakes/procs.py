"""Processes as /proc shows them."""

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_KILL_ROUNDS = 3000
_KILL_ROUND_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """One process at the moment it was looked at. `state` is /proc's letter; sizes in bytes, times in seconds."""

    pid: int
    parent: int
    session: int
    state: str
    command: tuple[str, ...]
    cpu_s: float
    threads: int
    resident_bytes: int

    @property
    def alive(self) -> bool:
        """Whether it still runs: no zombie."""
        return self.state not in "ZX"

    def open_files(self) -> int:
        """File descriptors it has now; 0 when it is gone."""
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208  (names only, the cheapest way)
        except OSError:
            return 0


def process(pid: int) -> Process | None:
    """The process with this id, `None` when there is none."""
    folder = Path("/proc") / str(pid)
    try:
        stat = (folder / "stat").read_text(errors="replace")
        command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return None
    # The name in parentheses may hold anything, so the fields are counted from its end.
    fields = stat.rpartition(")")[2].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0],
        command=tuple(command),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        threads=int(fields[17]),
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def peak_resident_bytes(pid: int) -> int:
    """The most memory that a living process has had so far; 0 when it is gone."""
    try:
        lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def session_members(session: int) -> list[Process]:
    """The living processes of a session, by id: a child of ours, and all that it has started."""
    pids = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    found = [process(pid) for pid in pids]
    return [one for one in found if one is not None and one.session == session and one.alive]


def kill_session(session: int) -> None:
    """SIGKILL to each living process of a session, until none is left."""
    for _ in range(_KILL_ROUNDS):
        members = session_members(session)
        if not members:
            return
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
        threading.Event().wait(_KILL_ROUND_S)
    raise TimeoutError(f"processes that cannot be killed: {members}")
