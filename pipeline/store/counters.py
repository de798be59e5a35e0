"""Events that each process took, passed on and dropped, counted in the transactions that did so.

A count in memory or in a file is off by a batch if a process is killed between its commit and the count. These are
not: for each stage, events in = events out + events dropped + events in its queue. The table `tallies` has them
alone; the metrics show what stands there.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Lock

from prometheus_client import Counter

from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.store.database import Database, Row, Tx
from pipeline.store.sinks import SinkName

ADD = """
INSERT INTO tallies (slot, what, reason, count) VALUES (?, ?, ?, ?)
ON CONFLICT (slot, what, reason) DO UPDATE SET count = count + excluded.count
RETURNING what, reason, count
"""
OF_SLOT = "SELECT what, reason, count FROM tallies WHERE slot = ?"
SLOTS = "SELECT DISTINCT slot FROM tallies WHERE slot <> ?1 AND substr(slot, 1, length(?2)) = ?2"
ADOPT = """
INSERT INTO tallies (slot, what, reason, count) SELECT ?1, what, reason, count FROM tallies WHERE slot = ?2
ON CONFLICT (slot, what, reason) DO UPDATE SET count = count + excluded.count
"""
FORGET = "DELETE FROM tallies WHERE slot = ?"


class CounterKind(StrEnum):
    """What a process did with an event."""

    TAKEN = "taken"
    OUT = "handed-on"
    DROPPED = "discarded"
    SKIPPED = "withheld"
    REPLAYED = "replayed"


@dataclass(slots=True)
class StageTally:
    """Counts of one transaction: each event taken goes out or is dropped for a reason, a metric label.

    `skipped`: of those that went out, now or before, how many are not sent to a sink, by sink and reason.
    `replayed`: events of replays, by sink and outcome, which count as nothing else.
    """

    taken: int = 0
    out: int = 0
    dropped: Counts[str] = field(default_factory=Counts)
    skipped: Counts[tuple[SinkName, str]] = field(default_factory=Counts)
    replayed: Counts[tuple[str, str]] = field(default_factory=Counts)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count events that go no further, among those taken."""
        if count:
            self.dropped[reason] += count

    def skip(self, sink: SinkName, reason: str, count: int) -> None:
        """Count events that are not sent to `sink`."""
        if count:
            self.skipped[sink, reason] += count

    def entries(self) -> Iterable[tuple[CounterKind, str, int]]:
        """Yield what there is to add, by kind and reason."""
        if self.taken:
            yield CounterKind.TAKEN, "", self.taken
        if self.out:
            yield CounterKind.OUT, "", self.out
        for reason, count in self.dropped.items():
            yield CounterKind.DROPPED, reason, count
        for (sink, reason), count in self.skipped.items():
            # That of the target relay had no name in earlier versions.
            yield CounterKind.SKIPPED, reason if sink == SinkName.RELAY else f"{reason} {sink}", count
        for (to, outcome), count in self.replayed.items():
            yield CounterKind.REPLAYED, f"{outcome} {to}", count


Totals = Sequence[tuple[CounterKind, str, int]]
"""Counts as they stand, by kind and reason."""


class StageCounters:
    """The counts of one process, which its metrics show once they are committed; thread-safe.

    A transaction calls `write` with its tally, and `show` follows its commit. If a process is killed between the two,
    the next one in its slot shows the count, in `resume`.
    """

    __slots__ = ("_children", "_lock", "_metrics", "_slot")

    def __init__(self, slot: Slot, metrics: Metrics) -> None:
        self._slot = slot
        self._metrics = metrics
        # The series by what they count: looking a child up by its labels costs several times as much as counting.
        self._children: dict[tuple[CounterKind, str], Counter] = {}
        self._lock = Lock()

    def resume(self, database: Database, is_abandoned: Callable[[str], bool] = lambda _: False) -> None:
        """Set database and metrics to the larger count of the two; for a stage that starts, which owns its slot.

        The metrics have less after a kill or a reboot, the database after a restore. Counts of slots of the same stage
        that `is_abandoned` are adopted by this one, so that sums never fall.
        """
        with database.write() as tx:
            self._adopt(tx, is_abandoned)
            rows: list[Row] = tx.execute(OF_SLOT, (self._slot.name,)).fetchall()
            committed = {(CounterKind.TAKEN, ""): 0, (CounterKind.OUT, ""): 0}
            committed |= {(CounterKind(what), reason): count for what, reason, count in rows}
            ahead = [(*key, self._shown(*key) - count) for key, count in committed.items()]
            self._add(tx, [entry for entry in ahead if entry[2] > 0])
        self.show([(*key, count) for key, count in committed.items()])

    def _adopt(self, tx: Tx, is_abandoned: Callable[[str], bool]) -> None:
        prefix = f"{self._slot.group}-"
        others: list[Row] = tx.execute(SLOTS, (self._slot.name, prefix)).fetchall()
        for (slot,) in others:
            if slot.removeprefix(prefix).isdecimal() and is_abandoned(slot):
                tx.execute(ADOPT, (self._slot.name, slot))
                tx.execute(FORGET, (slot,))

    def write(self, tx: Tx, tally: StageTally) -> Totals:
        """Count `tally` with whatever else the transaction does; returns what it changes, to be shown after it."""
        return self._add(tx, tally.entries())

    def _add(self, tx: Tx, entries: Iterable[tuple[CounterKind, str, int]]) -> Totals:
        rows: list[Row] = tx.executemany(ADD, [(self._slot.name, *entry) for entry in entries]).fetchall()
        return [(CounterKind(what), reason, count) for what, reason, count in rows]

    def show(self, totals: Totals) -> None:
        """Let the metrics show counts that are committed; of two threads that do so the larger count stays."""
        with self._lock:
            for kind, reason, total in totals:
                self._series(kind, reason).inc(max(0, total - self._shown(kind, reason)))

    def _series(self, kind: CounterKind, reason: str) -> Counter:
        child = self._children.get((kind, reason))
        if child is None:
            child = self._children[kind, reason] = self._child(kind, reason)
        return child

    def _child(self, kind: CounterKind, reason: str) -> Counter:
        match kind:
            case CounterKind.TAKEN:
                return self._metrics.stage_in.labels(self._slot.group)
            case CounterKind.OUT:
                return self._metrics.stage_out.labels(self._slot.group)
            case CounterKind.DROPPED:
                return self._metrics.stage_discarded.labels(self._slot.group, reason)
            case CounterKind.SKIPPED:
                reason, _, sink = reason.partition(" ")
                return self._metrics.sink_ignored.labels(sink or SinkName.RELAY, reason)
            case CounterKind.REPLAYED:
                outcome, _, sink = reason.partition(" ")
                return self._metrics.replayed.labels(sink, outcome)

    def _shown(self, kind: CounterKind, reason: str) -> int:
        """Return the value of this slot's own series; those of other slots are in other files."""
        value: float = self._series(kind, reason)._value.get()
        return round(value)
