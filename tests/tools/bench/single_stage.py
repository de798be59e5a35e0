"""`saver`, `forwarder`, `sender`: one stage run alone, as `event-service stage …`, with its queue filled beforehand."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from pipeline.process.clock import SystemClock
from pipeline.store import inbox, outbox
from pipeline.store.database import Database
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.net import pause
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.pubsub_rules import Rule
from tests.fakes.relay_process import RelayProcess
from tests.fakes.service import EventService, settings
from tests.support.run_folder import copy_run
from tests.support.stored import store_with_payloads
from tests.tools.bench import events
from tests.tools.bench.machine import Moment, Usage
from tests.tools.bench.report import Figure, Limit, PartReport, cost, per_second
from tests.tools.bench.running import register

LATENCIES_S = (0.0, 0.2)
SLOW_S = 1.0
FORWARDERS = (1, 3)
_FILL_ROWS = 1000
_POLL_S = 0.05
_LONGEST_S = 180.0
_NO_SINK = "127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Run:
    """Rows done between the first and the last look at which something had changed, and who used how much for them."""

    rows: int
    usage: Usage

    @property
    def per_second(self) -> float:
        return self.rows / self.usage.elapsed_s

    def cpu_s(self, name: str) -> float:
        """Processor seconds of a process per row."""
        return self.usage.cpu_s[name] / max(self.rows, 1)


def run_saver(limit: float, *, quick: bool) -> PartReport:
    """The part `saver`."""
    rows = 20_000 if quick else 80_000
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as directory:
        saved = save(Path(directory), rows)
    figures = (
        per_second("rows, inbox to outbox", saved.per_second, limit),
        cost("CPU per row", saved.cpu_s("saver"), limit),
    )
    notes = (f"{rows:,} rows, one sink, target relay off; {saved.usage.elapsed_s:.1f} s", saved.usage.note())
    return PartReport("saver", figures, notes)


def run_forwarder(limit: float, *, quick: bool) -> PartReport:
    """The part `forwarder`."""
    rows = 30_000 if quick else 100_000
    figures: list[Figure] = []
    notes = [f"{rows:,} rows to the gRPC sink in a process of its own"]
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name:
        directory = Path(name)
        save(directory / "saved", rows)
        for latency_s in LATENCIES_S:
            here = directory / f"{latency_s}"
            copy_run(directory / "saved", here)
            forwarded = forward(here, rows, latency_s)
            label = f"{latency_s * 1000:.0f} ms"
            figures += (
                per_second(f"rows, outbox to Pub/Sub, {label} a call", forwarded.per_second, limit),
                cost(f"  CPU per row, {label}", forwarded.cpu_s("forwarder"), limit),
                cost(f"  CPU of the sink per row, {label}", forwarded.cpu_s("sink"), limit),
            )
            notes.append(f"{label}: {forwarded.usage.elapsed_s:.1f} s; {forwarded.usage.note()}")
        figures += _several(directory, rows)
    return PartReport("forwarder", tuple(figures), tuple(notes))


def run_sender(limit: float, *, quick: bool) -> PartReport:
    """The part `sender`."""
    rows = 5_000 if quick else 20_000
    figures: list[Figure] = []
    notes = [f"{rows:,} rows, each answered with OK"]
    relays: dict[str, RelayProcess | IndependentRelay] = {
        "the scripted relay": RelayProcess(),
        "nostr-sdk's relay": IndependentRelay(),
    }
    for label, peer in relays.items():
        with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name, peer as relay:
            sent = _send(Path(name), rows, relay)
        figures += (
            per_second(f"rows, outbox to {label}", sent.per_second, limit),
            cost("  CPU per row", sent.cpu_s("sender"), limit),
            cost("  CPU of the relay per row", sent.cpu_s("relay"), limit),
        )
        notes.append(f"{label}: {sent.usage.note()}")
    return PartReport("sender", tuple(figures), tuple(notes))


def _send(directory: Path, rows: int, relay: RelayProcess | IndependentRelay) -> Run:
    service = EventService.stage("sender", directory, settings(pubsub=_NO_SINK, target=relay.url))
    with open_database(service.database, SystemClock()) as database:
        _queue(database, rows)
        service.start(wait=False)
        try:
            pids = {"sender": service.child.pid, "relay": relay.child.pid}
            return _watch(pids, rows, lambda: rows - _waiting(database, SinkName.RELAY))
        finally:
            service.close()


def _queue(database: Database, rows: int) -> None:
    """Put events that are accepted already into the outbox of the target relay."""
    now_ms = round(time() * 1000)
    arrivals = [_arrival(line, now_ms) for line in events.lines(events.blocks(rows), rows)]
    with database.write() as tx:
        accepted = (
            Accepted(number, each.event_id, each.created_at, 0, 1, each.raw, 1, now_ms, 1)
            for number, each in enumerate(arrivals, 1)
        )
        store_with_payloads(tx, accepted)
        outbox.append(tx, SinkName.RELAY, range(1, rows + 1), now_ms)


def _several(directory: Path, rows: int) -> Iterator[Figure]:
    """How much more several forwarders get done when the sink is slow."""
    alone: Limit | None = None
    for count in FORWARDERS:
        here = directory / f"{count} forwarders"
        copy_run(directory / "saved", here)
        together = forward(here, rows, SLOW_S, count).per_second
        alone = alone or Limit("one", together)
        yield Figure(f"rows, {SLOW_S * 1000:.0f} ms a call, forwarders: {count}", together, "/s", alone)


def save(directory: Path, rows: int, look: Callable[[int], None] = lambda pid: None) -> Run:
    """Fill an inbox and let a saver empty it; the database stays in `directory`.

    `look` is called with the saver's process id when it is done.
    """
    directory.mkdir(exist_ok=True)
    service = EventService.stage("saver", directory, settings(pubsub=_NO_SINK))
    register(service.database)
    with open_database(service.database, SystemClock()) as database:
        _fill(database, rows)
        service.start(wait=False)
        try:
            run = _watch({"saver": service.child.pid}, rows, lambda: _waiting(database))
            look(service.child.pid)
            service.stop()
        finally:
            service.close()
    return run


def forward(directory: Path, rows: int, latency_s: float, count: int = 1) -> Run:
    """Let so many forwarders hand on `rows` of what waits in `directory`, to a sink that takes its time for a call."""
    rules = [Rule(delay_s=latency_s)] if latency_s else []
    with PubSubProcess(count_only=True, rules=rules) as sink:
        services = [
            EventService.stage("forwarder", directory, settings(pubsub=sink.address), slot=slot)
            for slot in range(count)
        ]
        try:
            for service in services:
                service.start(wait=False)
            # What is measured of several is how much they get done together.
            run = _watch({"forwarder": services[0].child.pid, "sink": sink.child.pid}, rows, lambda: sink.count)
            for service in services:
                service.stop()
        finally:
            for service in services:
                service.close()
    return run


def _fill(database: Database, rows: int) -> None:
    lines = events.lines(events.blocks(rows), rows)
    now_ms = round(time() * 1000)
    for first in range(0, rows, _FILL_ROWS):
        part = lines[first : first + _FILL_ROWS]
        with database.write() as tx:
            inbox.append(tx, (_arrival(line, now_ms) for line in part))


def _arrival(line: bytes, now_ms: int) -> Arrival:
    event = json.loads(line)
    return Arrival(bytes.fromhex(event["id"]), line, 1, now_ms, event["created_at"])


def _waiting(database: Database, sink: SinkName = SinkName.PUBSUB) -> int:
    with database.read() as tx:
        return outbox.waiting(tx, sink)


def _watch(pids: dict[str, int], rows: int, done: Callable[[], int]) -> Run:
    """From the first rows that are done to the last; raises `TimeoutError` when that takes too long."""
    deadline = monotonic() + _LONGEST_S
    first: Moment | None = None
    begun_with = 0
    while (count := done()) < rows:
        if first is None and count:
            first, begun_with = Moment.of(pids), count
        if monotonic() > deadline:
            raise TimeoutError(f"{count} of {rows} rows after {_LONGEST_S} s")
        pause(_POLL_S)
    last = Moment.of(pids)
    if first is None:
        raise TimeoutError("all was done before it could be watched: more rows are needed")
    return Run(rows - begun_with, Usage.between(first, last))
