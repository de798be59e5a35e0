"""What a run has shown, for a reader and for a machine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.tools.chaos.delivery_oracle import SinkDeliveries
from tests.tools.chaos.health_oracle import HealthReport
from tests.tools.chaos.invariants import MAX_LISTED, Peaks


@dataclass(slots=True)
class Injected:
    """One fault that was injected; times in seconds since the faults began.

    `in_flight`: rows in all queues when it began. `recovered_after_s`: from its end until the queues were drained.
    """

    kind: str
    began_s: float
    alone: bool
    in_flight: int
    ended_s: float | None = None
    recovered_after_s: float | None = None


_PLAIN = (
    "seed",
    "minutes",
    "resweep",
    "published",
    "registered",
    "violations",
    "refused",
    "buried",
    "settled_after_s",
    "hurried",
    "points",
    "behaviours",
    "upgraded_from",
    "frames_lost",
    "sectors_lost",
    "health_looks",
    "metrics_looks",
    "seconds",
)


@dataclass(slots=True)
class Report:
    """All of one run."""

    seed: int
    minutes: float
    resweep: bool
    faults: list[Injected] = field(default_factory=list)
    sinks: list[SinkDeliveries] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    peaks: Peaks = field(default_factory=Peaks)
    published: int = 0
    registered: int = 0
    buried: tuple[int, int] = (0, 0)
    settled_after_s: float = 0.0
    hurried: int | None = None
    """Rows that were made ready by hand since the time for settling was up; `None`: it was not."""
    points: dict[str, int] = field(default_factory=dict)
    """How often a stage was killed at each named point."""
    outages: dict[str, HealthReport] = field(default_factory=dict)
    """By sink, how soon health told that it was down, and that it was not any more."""
    behaviours: list[str] = field(default_factory=list)
    upgraded_from: int = 0
    frames_lost: int = 0
    sectors_lost: int = 0
    health_looks: int = 0
    metrics_looks: int = 0
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Every verdict that is not as it must be."""
        failed = [f"deliveries to {sink.sink}" for sink in self.sinks if not sink.ok]
        failed += ["no sink was judged"] if not self.sinks else []
        failed += [f"{sum(self.buried)} rows buried"] if any(self.buried) else []
        failed += [f"refused for good: {line}" for line in self.refused]
        return failed + [f"violated: {text}" for text in self.violations]

    @property
    def ok(self) -> bool:
        """Whether the run passes."""
        return not self.failures

    def to_value(self) -> dict[str, Any]:
        """For JSON."""
        own = {name: getattr(self, name) for name in _PLAIN}
        return own | {
            "ok": self.ok,
            "failures": self.failures,
            "faults_by_kind": dict(Counter(one.kind for one in self.faults)),
            "faults": [asdict(one) for one in self.faults],
            "sinks": [sink.to_value() for sink in self.sinks],
            "outages": {sink: asdict(telling) for sink, telling in self.outages.items()},
            "peaks": asdict(self.peaks),
            "slowest_recovery": None if (slowest := self._slowest()) is None else asdict(slowest),
        }

    def _slowest(self) -> Injected | None:
        recovered = [one for one in self.faults if one.recovered_after_s is not None]
        return max(recovered, key=lambda one: one.recovered_after_s or 0.0, default=None)

    def text(self) -> str:
        """A page for a reader."""
        lines = [
            f"seed {self.seed}: {self.published} events published, {self.registered} users, "
            f"{len(self.faults)} faults in {self.minutes:g} min, {sum(self.points.values())} deaths at named points, "
            f"{self.frames_lost} frames of the log and {self.sectors_lost} sectors lost with the power, "
            f"begun with a database of version {self.upgraded_from}, "
            f"{'with' if self.resweep else 'without'} resweeps, {self.seconds:.0f} s in all",
            *self._by_kind(),
            f"relays behaved as: {', '.join(self.behaviours) or 'ever'}",
            _points(self.points),
            *(sink.text() for sink in self.sinks),
            *(_outages(sink, telling) for sink, telling in self.outages.items()),
            _peaks(self.peaks),
            f"looks: health {self.health_looks}, metrics {self.metrics_looks}",
        ]
        slowest = self._slowest()
        if slowest is not None:
            lines.append(f"slowest recovery: {slowest.recovered_after_s:.1f} s after {slowest.kind}")
        lines.append(f"settled {self.settled_after_s:.1f} s after the last fault" + self._hurry())
        lines += _listed("FAILED", self.failures)
        return "\n".join([*lines, "PASSED" if self.ok else "NOT PASSED"])

    def _by_kind(self) -> list[str]:
        """A line for each kind of fault; in flight is what waited or was leased in all queues when it began."""
        lines = [f"{'fault':<26}{'times':>6}{'in flight, least':>18}{'most':>6}{'slowest recovery':>18}"]
        for kind in sorted({one.kind for one in self.faults}):
            of_kind = [one for one in self.faults if one.kind == kind]
            flights = [one.in_flight for one in of_kind]
            recovered = [one.recovered_after_s for one in of_kind if one.recovered_after_s is not None]
            slowest = f"{max(recovered):.1f} s" if recovered else "-"
            lines.append(f"{kind:<26}{len(of_kind):>6}{min(flights):>18}{max(flights):>6}{slowest:>18}")
        return lines

    def _hurry(self) -> str:
        return "" if self.hurried is None else f", after a restart with the waits of {self.hurried} rows cut short"


def _points(points: Mapping[str, int]) -> str:
    never = [point for point, times in points.items() if not times]
    least, most = (min(points.values()), max(points.values())) if points else (0, 0)
    return f"named points: {len(points)}, each {least} to {most} times; never: {', '.join(never) or 'none'}"


def _outages(sink: str, telling: HealthReport) -> str:
    return (
        f"health told of {telling.outages} outages of {sink} after {telling.told_after_s:.1f} s at most, "
        f"of {telling.ends} ends after {telling.ended_after_s:.1f} s"
    )


def _peaks(peaks: Peaks) -> str:
    stages = (
        f"{name} {size >> 20} MB {peaks.open_files.get(name, 0)} fds {peaks.threads.get(name, 0)} threads"
        for name, size in sorted(peaks.resident_bytes.items())
    )
    return (
        f"peaks: log {peaks.wal_bytes >> 20} MB, {peaks.queued} rows queued, "
        f"{peaks.lock_wait_s:.2f} s of waiting for the write lock; {', '.join(stages)}\n"
        f"machine: the busiest process had to wait for a processor for {peaks.forgiven_s:.0f} s"
    )


def _listed(label: str, lines: Sequence[str]) -> list[str]:
    shown = [f"{label}: {line}" for line in lines[:MAX_LISTED]]
    return shown + ([f"{label}: and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else [])
