"""What must add up: for each stage what it took, handed on and dropped, and what lies in the queues between them."""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from tests.fakes.scrape import Scrape

_BUSY_MS = 20_000
TALLIES = "SELECT substr(slot, 1, instr(slot, '-') - 1), what, reason, sum(count) FROM tallies GROUP BY 1, 2, 3"
QUEUES = """
SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM inbox_dead),
       (SELECT count(*) FROM outbox WHERE sink = 'pubsub'), (SELECT count(*) FROM outbox WHERE sink = 'relay'),
       (SELECT count(*) FROM outbox_dead), (SELECT count(*) FROM deliveries WHERE sink = 'pubsub'),
       (SELECT count(*) FROM deliveries WHERE sink = 'relay' AND outcome NOT LIKE 'discarded%')
"""
STAGES = ("crawler", "saver", "forwarder", "sender")


@dataclass(frozen=True, slots=True)
class Stage:
    """The counts of one stage, all its processes together."""

    taken: int
    handed_on: int
    discarded: Mapping[str, int]
    withheld: Mapping[str, int]

    def text(self) -> str:
        """For a reader."""
        why = "".join(f", {count} {reason}" for reason, count in sorted(self.discarded.items()))
        return f"in {self.taken}, out {self.handed_on}{why}"


@dataclass(frozen=True, slots=True)
class Sums:
    """One moment of the database."""

    stages: Mapping[str, Stage]
    inbox: int
    inbox_dead: int
    to_pubsub: int
    to_relay: int
    outbox_dead: int
    by_pubsub: int
    by_relay: int

    @classmethod
    def of(cls, database: Path) -> "Sums":
        """Read everything in one snapshot."""
        with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            connection.set_busy_timeout(_BUSY_MS)
            with connection:
                rows = list(connection.execute(TALLIES))
                queues = next(iter(connection.execute(QUEUES)))
        return cls({name: _stage(name, rows) for name in STAGES}, *queues)

    @property
    def waiting(self) -> int:
        """Rows in all queues."""
        return self.inbox + self.to_pubsub + self.to_relay

    def faults(self) -> list[str]:
        """Every sum that does not hold. Each is to the event, at any moment, whatever has been killed."""
        crawler, saver, forwarder, sender = (self.stages[name] for name in STAGES)
        withheld = sum(saver.withheld.values())
        buried = {name: one.discarded.get("buried", 0) for name, one in self.stages.items()}
        sums = [
            (f"{name}: in = out + dropped", one.taken, one.handed_on + sum(one.discarded.values()))
            for name, one in self.stages.items()
        ]
        sums += [
            ("crawler out = saver in + inbox", crawler.handed_on, saver.taken + self.inbox),
            ("saver out = forwarder in + outbox", saver.handed_on, forwarder.taken + self.to_pubsub),
            ("saver out = withheld + sender in + outbox", saver.handed_on, withheld + sender.taken + self.to_relay),
            ("forwarder in = deliveries + buried", forwarder.taken, self.by_pubsub + buried["forwarder"]),
            ("sender in = deliveries + buried", sender.taken, self.by_relay + buried["sender"]),
            ("saver buried = dead rows", buried["saver"], self.inbox_dead),
            ("sinks buried = dead rows", buried["forwarder"] + buried["sender"], self.outbox_dead),
        ]  # fmt: skip
        return [f"{name}: {left} and {right}" for name, left, right in sums if left != right]

    def differences(self, scrape: Scrape) -> list[str]:
        """Where `/metrics`, read while nothing moved, says anything else than the database."""
        pairs = [
            (f"queue {queue}", scrape.value("event_service_queue_length", queue=queue), count)
            for queue, count in (
                ("inbox", self.inbox),
                ("outbox-pubsub", self.to_pubsub),
                ("outbox-relay", self.to_relay),
            )
        ]
        for name, one in self.stages.items():
            pairs.append((f"{name} in", scrape.value("event_service_stage_in_total", stage=name), one.taken))
            pairs.append((f"{name} out", scrape.value("event_service_stage_out_total", stage=name), one.handed_on))
            shown = {
                sample.labels["reason"]: sample.value
                for sample in scrape.samples("event_service_stage_discarded_total", stage=name)
            }
            for reason in {*shown, *one.discarded}:
                pairs.append((f"{name} dropped {reason}", shown.get(reason, 0), one.discarded.get(reason, 0)))
        return [f"{name}: {shown:.0f} shown, {counted} counted" for name, shown, counted in pairs if shown != counted]


def _stage(name: str, rows: list[tuple[object, ...]]) -> Stage:
    own: dict[str, Counter[str]] = {what: Counter() for what in ("taken", "handed-on", "discarded", "withheld")}
    for stage, what, reason, count in rows:
        if stage == name:
            own[str(what)][str(reason)] += int(str(count))
    return Stage(own["taken"].total(), own["handed-on"].total(), own["discarded"], own["withheld"])
