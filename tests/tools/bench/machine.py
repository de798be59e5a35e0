"""Processor time: who used how much of it between two moments, and how much of the machine others took."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Self

from tests.fakes.procs import process

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Moment:
    """Processor seconds by name at one monotonic time, and those of the whole machine."""

    at: float
    cpu_s: Mapping[str, float]
    machine_cpu_s: float

    @classmethod
    def of(cls, pids: Mapping[str, int]) -> Self:
        """What these processes have used until now; those that are gone count as 0."""
        used = {name: found.cpu_s if (found := process(pid)) is not None else 0.0 for name, pid in pids.items()}
        return cls(monotonic(), used, _machine_cpu_s())


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between two moments."""

    elapsed_s: float
    cpu_s: Mapping[str, float]
    others_cpu_s: float

    @classmethod
    def between(cls, first: Moment, last: Moment) -> Self:
        """The difference, never below 0."""
        used = {name: max(0.0, seconds - first.cpu_s.get(name, 0.0)) for name, seconds in last.cpu_s.items()}
        machine = last.machine_cpu_s - first.machine_cpu_s
        return cls(last.at - first.at, used, max(0.0, machine - sum(used.values())))

    def note(self) -> str:
        """One line about how quiet the machine was."""
        return (
            f"others on this machine used {self.others_cpu_s / self.elapsed_s:.2f} of its {CORES} cores meanwhile; "
            f"load average {os.getloadavg()[0]:.1f}"
        )


def _machine_cpu_s() -> float:
    """Busy processor time of the machine: everything but idle and waiting for disks; guests count as users already."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / _TICKS_PER_S
