"""The books of both sinks: what had to come, what came, and how often more than once it was allowed to come."""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tests.fakes.relay_journal import Gone, Published
from tests.fakes.wire import message, publish_request
from tests.oracle.delivery import Books, Delivered, Fault, Ledger
from tests.tools.chaos.queues import PUBSUB, RELAY
from tests.tools.chaos.scene import Scene

# What the target relay is given (compatibility: kinds 0, 3 and 10002).
SENT_KINDS = frozenset({0, 3, 10002})
# An answer is read at once; one that was sent this shortly before its connection ended may never have been.
ANSWER_LOST_S = 5.0


@dataclass(frozen=True, slots=True)
class SinkBooks:
    """The verdict on one sink. `surplus`: events that came more often than kills and lies explain, and how much more.

    `allowed`: repeats that were allowed: for each kill, hang or lie, what was leased or taken at that moment.
    """

    sink: str
    books: Books
    allowed: int
    surplus: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost or wrong, and every repeat is explained."""
        return self.books.clean and not self.surplus

    @property
    def repeats(self) -> int:
        """Messages beyond the first of each event."""
        return sum(self.books.duplicates.values()) - len(self.books.duplicates)

    def to_value(self) -> dict[str, Any]:
        """For the report."""
        value: dict[str, Any] = asdict(self) | {"ok": self.ok, "repeats": self.repeats}
        value["books"] = json.loads(self.books.to_json())
        value["books"]["duplicates"] = len(self.books.duplicates)
        return value

    def text(self) -> str:
        """For a reader."""
        lines = [f"{self.sink}: {self.books.text()}"]
        lines.append(f"  repeats: {self.repeats}, explained by at most {self.allowed} events in flight at a fault")
        lines += [f"  surplus: {event_id} came {count} times too often" for event_id, count in self.surplus.items()]
        return "\n".join(lines)


class Arrived:
    """What has come to each sink so far, read without reading anything twice."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._batches = 0
        self._pubsub: set[str] = set()

    def missing(self, due: set[str], due_at_relay: set[str]) -> dict[str, set[str]]:
        """What has not come yet, by sink."""
        batches = self._scene.world.pubsub.batches()
        for batch in batches[self._batches :]:
            self._pubsub.update(each.attributes["event_id"] for each in batch.messages())
        self._batches = len(batches)
        return {PUBSUB: due - self._pubsub, RELAY: due_at_relay - {entry.event_id for entry in _taken(self._scene)}}


def due_at_relay(ledger: Ledger) -> set[str]:
    """What the target relay must be given, by id."""
    events = ledger.relevance().events
    return {event_id for event_id in ledger.required() if events[event_id].kind in SENT_KINDS}


def close_books(scene: Scene, ledger: Ledger) -> list[SinkBooks]:
    """Close the books of both sinks; all must be at rest."""
    return [_pubsub(scene, ledger), _relay(scene, ledger)]


def _pubsub(scene: Scene, ledger: Ledger) -> SinkBooks:
    batches = scene.world.pubsub.batches()
    books = ledger.close(delivered for batch in batches for delivered in batch.deliveries())
    allowed = Counter(scene.allowance.repeats[PUBSUB])
    for batch in batches:
        if scene.allowance.lied(PUBSUB, batch.arrived_at):
            allowed.update(message(raw).attributes["event_id"] for raw in publish_request(batch.raw)[1])
    return _sink_books(scene, PUBSUB, books, allowed)


def _taken(scene: Scene) -> list[Published]:
    """Each time that the target relay took an event, or may be believed to have taken it."""
    return [entry for entry in scene.world.target.journal.of(Published) if entry.accepted is not False]


def _relay(scene: Scene, ledger: Ledger) -> SinkBooks:
    ended = {entry.connection: entry.at for entry in scene.world.target.journal.of(Gone)}
    allowed = Counter(scene.allowance.repeats[RELAY])
    taken = _taken(scene)
    to_unix_s = time.time() - time.monotonic()
    allowed.update(
        entry.event_id
        for entry in taken
        if entry.accepted is None
        or ended.get(entry.connection, math.inf) - entry.at < ANSWER_LOST_S
        or scene.allowance.lied(RELAY, entry.at + to_unix_s)
    )
    held = {held.event.id: held.event.raw for held in ledger.holdings}
    held |= {event.id: event.raw for event in scene.world.target.stored()}
    # Every one of these kinds is relevant by whomever, so that who registered does not matter here.
    narrowed = Ledger(ledger.horizon)
    narrowed.holdings = [held for held in ledger.holdings if held.event.kind in SENT_KINDS]
    books = narrowed.close(Delivered(held.get(entry.event_id, "").encode()) for entry in taken)
    return _sink_books(scene, RELAY, books, allowed)


def _sink_books(scene: Scene, sink: str, books: Books, allowed: Counter[str]) -> SinkBooks:
    lost = tuple(Fault(fault.subject, f"{fault.detail}; {scene.queues.fate(fault.subject)}") for fault in books.lost)
    repeats = {event_id: count - 1 for event_id, count in books.duplicates.items()}
    surplus = {event_id: more - allowed[event_id] for event_id, more in repeats.items() if more > allowed[event_id]}
    return SinkBooks(sink, replace(books, lost=lost), allowed.total(), surplus)
