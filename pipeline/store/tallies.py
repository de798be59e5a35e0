"""How many events each process took, handed on and dropped, counted by the transactions that did so.

A count in memory or in a file of its own is off by a batch whenever a process is killed between its commit and the
count. These are not, so for each stage what it took is what it handed on and dropped, and the rest is in its queue.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client import Counter

from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.store.database import Database, Row, Tx
from pipeline.store.outbox import SinkName

ADD = """
INSERT INTO tallies (slot, what, reason, count) VALUES (?, ?, ?, ?)
ON CONFLICT (slot, what, reason) DO UPDATE SET count = count + excluded.count
"""
OF_SLOT = "SELECT what, reason, count FROM tallies WHERE slot = ?"
SLOTS = "SELECT DISTINCT slot FROM tallies WHERE slot <> ?1 AND substr(slot, 1, length(?2)) = ?2"
ADOPT = """
INSERT INTO tallies (slot, what, reason, count) SELECT ?1, what, reason, count FROM tallies WHERE slot = ?2
ON CONFLICT (slot, what, reason) DO UPDATE SET count = count + excluded.count
"""
FORGET = "DELETE FROM tallies WHERE slot = ?"


class What(StrEnum):
    """What was done with an event."""

    TAKEN = "taken"
    HANDED_ON = "handed-on"
    DISCARDED = "discarded"
    WITHHELD = "withheld"


@dataclass(slots=True)
class Tally:
    """What one transaction decides: each event taken is handed on or discarded for a reason, a metric label.

    `withheld`: of those handed on, now or before, how many the target relay is not to be given, and why.
    """

    taken: int = 0
    handed_on: int = 0
    discarded: Counts[str] = field(default_factory=Counts)
    withheld: Counts[str] = field(default_factory=Counts)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count events that go no further, among those taken."""
        if count:
            self.discarded[reason] += count

    def withhold(self, reason: str, count: int) -> None:
        """Count events that the target relay is not given."""
        if count:
            self.withheld[reason] += count

    def entries(self) -> Iterable[tuple[What, str, int]]:
        """What there is to add, by what was done and for what reason."""
        if self.taken:
            yield What.TAKEN, "", self.taken
        if self.handed_on:
            yield What.HANDED_ON, "", self.handed_on
        for reason, count in self.discarded.items():
            yield What.DISCARDED, reason, count
        for reason, count in self.withheld.items():
            yield What.WITHHELD, reason, count


class StageCounts:
    """The counts of one process, in the database and, once they are committed, in its metrics; thread-safe.

    A transaction calls `write` with its tally, and `show` follows its commit. What a process did not live to show is
    shown by the next in its slot, in `resume`.
    """

    __slots__ = ("_children", "_metrics", "_slot")

    def __init__(self, slot: Slot, metrics: Metrics) -> None:
        self._slot = slot
        self._metrics = metrics
        # The series by what they count: looking a child up by its labels costs several times as much as counting.
        self._children: dict[tuple[What, str], Counter] = {}

    def resume(self, database: Database, is_abandoned: Callable[[str], bool] = lambda _: False) -> None:
        """Let database and metrics agree, on the larger number of each; for a stage that starts, which owns its slot.

        The metrics have less after a kill or a reboot, the database after it was restored or made anew. What was
        counted in slots of the same stage that `is_abandoned` is counted on in this one, so that sums never fall.
        """
        with database.write() as tx:
            self._adopt(tx, is_abandoned)
            rows: list[Row] = tx.execute(OF_SLOT, (self._slot.name,)).fetchall()
            committed = {(What.TAKEN, ""): 0, (What.HANDED_ON, ""): 0}
            committed |= {(What(what), reason): count for what, reason, count in rows}
            ahead = {key: self._shown(*key) - count for key, count in committed.items()}
            tx.executemany(ADD, [(self._slot.name, *key, more) for key, more in ahead.items() if more > 0])
        for key, more in ahead.items():
            self._series(*key).inc(max(0, -more))

    def _adopt(self, tx: Tx, is_abandoned: Callable[[str], bool]) -> None:
        others: list[Row] = tx.execute(SLOTS, (self._slot.name, f"{self._slot.stage}-")).fetchall()
        for (slot,) in others:
            if is_abandoned(slot):
                tx.execute(ADOPT, (self._slot.name, slot))
                tx.execute(FORGET, (slot,))

    def write(self, tx: Tx, tally: Tally) -> None:
        """Count `tally` with whatever else the transaction does."""
        tx.executemany(ADD, [(self._slot.name, *entry) for entry in tally.entries()])

    def show(self, tally: Tally) -> None:
        """Add a tally that is committed to the metrics."""
        for what, reason, count in tally.entries():
            self._series(what, reason).inc(count)

    def _series(self, what: What, reason: str) -> Counter:
        child = self._children.get((what, reason))
        if child is None:
            child = self._children[what, reason] = self._child(what, reason)
        return child

    def _child(self, what: What, reason: str) -> Counter:
        match what:
            case What.TAKEN:
                return self._metrics.stage_in.labels(self._slot.stage)
            case What.HANDED_ON:
                return self._metrics.stage_out.labels(self._slot.stage)
            case What.DISCARDED:
                return self._metrics.stage_discarded.labels(self._slot.stage, reason)
            case What.WITHHELD:
                return self._metrics.sink_ignored.labels(SinkName.RELAY, reason)

    def _shown(self, what: What, reason: str) -> int:
        """What this slot's own series says; those of other slots are in other files."""
        value: float = self._series(what, reason)._value.get()
        return round(value)
