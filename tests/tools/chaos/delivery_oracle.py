"""What had to come to each sink, what came, and how often more than once it was allowed to come."""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.fakes.relay_journal import Disconnected, Published
from tests.fakes.wire import message, publish_request
from tests.oracle.delivery import Delivered, DeliveryOracle, DeliveryReport, Discrepancy
from tests.tools.chaos.harness import ChaosHarness
from tests.tools.chaos.queues import FILE, PUBSUB, RELAY

# What the target relay is given (compatibility: kinds 0, 3 and 10002).
SENT_KINDS = frozenset({0, 3, 10002})
# An answer is read at once; one that was sent this shortly before its connection ended may never have been.
ANSWER_LOST_S = 5.0


@dataclass(frozen=True, slots=True)
class SinkDeliveries:
    """The verdict on one sink. `surplus`: events that came more often than kills and unreliable periods explain, and
    how much more.

    `allowed`: repeats that were allowed: for each kill, hang or unreliable period, what was leased or taken then.
    """

    sink: str
    report: DeliveryReport
    allowed: int
    surplus: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost or wrong, and every repeat is explained."""
        return self.report.clean and not self.surplus

    @property
    def repeats(self) -> int:
        """Messages beyond the first of each event."""
        return sum(self.report.duplicates.values()) - len(self.report.duplicates)

    def to_value(self) -> dict[str, Any]:
        """For the report."""
        value: dict[str, Any] = asdict(self) | {"ok": self.ok, "repeats": self.repeats}
        value["report"] = json.loads(self.report.to_json())
        value["report"]["duplicates"] = len(self.report.duplicates)
        return value

    def text(self) -> str:
        """For a reader."""
        lines = [f"{self.sink}: {self.report.text()}"]
        lines.append(f"  repeats: {self.repeats}, explained by at most {self.allowed} events in flight at a fault")
        lines += [f"  surplus: {event_id} came {count} times too often" for event_id, count in self.surplus.items()]
        return "\n".join(lines)


class Arrived:
    """What has come to each sink so far, read without reading anything twice."""

    def __init__(self, harness: ChaosHarness) -> None:
        self._scene = harness
        self._batches = 0
        self._pubsub: set[str] = set()

    def missing(self, due: set[str], due_at_relay: set[str]) -> dict[str, set[str]]:
        """What has not come yet, by sink."""
        batches = self._scene.environment.pubsub.batches()
        for batch in batches[self._batches :]:
            self._pubsub.update(each.attributes["event_id"] for each in batch.messages())
        self._batches = len(batches)
        missing = {PUBSUB: due - self._pubsub, RELAY: due_at_relay - {entry.event_id for entry in _taken(self._scene)}}
        if self._scene.file is not None:
            missing[FILE] = due - {json.loads(line)["id"] for line in _lines(self._scene.file)}
        return missing


def due_at_relay(oracle: DeliveryOracle) -> set[str]:
    """What the target relay must be given, by id."""
    events = oracle.relevance().events
    return {event_id for event_id in oracle.required() if events[event_id].kind in SENT_KINDS}


def judge_deliveries(harness: ChaosHarness, oracle: DeliveryOracle) -> list[SinkDeliveries]:
    """Judge what all sinks took; all must be at rest."""
    found = [_pubsub(harness, oracle), _relay(harness, oracle)]
    return found if harness.file is None else [*found, _file(harness, oracle, harness.file)]


def _pubsub(harness: ChaosHarness, oracle: DeliveryOracle) -> SinkDeliveries:
    batches = harness.environment.pubsub.batches()
    report = oracle.judge(delivered for batch in batches for delivered in batch.deliveries())
    allowed = Counter(harness.allowance.repeats[PUBSUB])
    for batch in batches:
        if harness.allowance.was_unreliable(PUBSUB, batch.arrived_at):
            allowed.update(message(raw).attributes["event_id"] for raw in publish_request(batch.raw)[1])
    return _sink_deliveries(harness, PUBSUB, report, allowed)


def _taken(harness: ChaosHarness) -> list[Published]:
    """Each time that the target relay took an event, or may be believed to have taken it."""
    return [entry for entry in harness.environment.target.journal.of(Published) if entry.accepted is not False]


def _relay(harness: ChaosHarness, oracle: DeliveryOracle) -> SinkDeliveries:
    ended = {entry.connection: entry.at for entry in harness.environment.target.journal.of(Disconnected)}
    allowed = Counter(harness.allowance.repeats[RELAY])
    taken = _taken(harness)
    to_unix_s = time.time() - time.monotonic()
    allowed.update(
        entry.event_id
        for entry in taken
        if entry.accepted is None
        or ended.get(entry.connection, math.inf) - entry.at < ANSWER_LOST_S
        or harness.allowance.was_unreliable(RELAY, entry.at + to_unix_s)
    )
    held = {held.event.id: held.event.raw for held in oracle.holdings}
    held |= {event.id: event.raw for event in harness.environment.target.stored()}
    # Every one of these kinds is relevant by whomever, so that who registered does not matter here.
    narrowed = DeliveryOracle(oracle.horizon)
    narrowed.holdings = [held for held in oracle.holdings if held.event.kind in SENT_KINDS]
    report = narrowed.judge(Delivered(held.get(entry.event_id, "").encode()) for entry in taken)
    return _sink_deliveries(harness, RELAY, report, allowed)


def _file(harness: ChaosHarness, oracle: DeliveryOracle, file: Path) -> SinkDeliveries:
    """Judge what is in the file; when a line came is not known, so that every repeat is allowed."""
    report = oracle.judge(Delivered(line) for line in _lines(file))
    return _sink_deliveries(harness, FILE, report, Counter(report.duplicates))


def _lines(file: Path) -> list[bytes]:
    """Return the whole lines of a file that may not be there yet."""
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []


def _sink_deliveries(harness: ChaosHarness, sink: str, report: DeliveryReport, allowed: Counter[str]) -> SinkDeliveries:
    lost = tuple(
        Discrepancy(fault.subject, f"{fault.detail}; {harness.queues.fate(fault.subject)}") for fault in report.lost
    )
    repeats = {event_id: count - 1 for event_id, count in report.duplicates.items()}
    surplus = {event_id: more - allowed[event_id] for event_id, more in repeats.items() if more > allowed[event_id]}
    return SinkDeliveries(sink, replace(report, lost=lost), allowed.total(), surplus)
