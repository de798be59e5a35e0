"""`relays`: what a connected relay costs that has nothing to say: memory, threads and processor time of its crawler."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.net import pause
from tests.fakes.procs import process
from tests.fakes.service import EventService, settings
from tests.tools.bench import events
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import LoadGenerator, balanced_addresses
from tests.tools.bench.machine import Moment, Usage
from tests.tools.bench.report import Figure, PartReport
from tests.tools.bench.running import register

FEW, MANY, QUICK_MANY = 4, 1_000, 200
_READY_S = 240.0
_WINDOW_S = 20.0
# Whatever there is to do after connecting is done by then.
_SETTLE_S = 10.0
_NO_SINK = "127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class _Idle:
    resident_bytes: int
    threads: int
    usage: Usage

    @property
    def percent(self) -> float:
        return 100 * self.usage.cpu_s["crawler"] / self.usage.elapsed_s


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `relays`; there is no limit to hold it against."""
    count = QUICK_MANY if quick else MANY
    few, many = _idle(FEW), _idle(count)
    more = count - FEW
    figures = (
        Figure(f"memory of a crawler with {FEW} relays", few.resident_bytes / 1e6, "MB"),
        Figure("  per further relay", (many.resident_bytes - few.resident_bytes) / more / 1e3, "KB"),
        Figure("  threads per further relay", (many.threads - few.threads) / more, ""),
        Figure(f"idle CPU of a crawler with {FEW} relays", few.percent, "% of a core"),
        Figure(f"  with {count:,}", many.percent, "% of a core"),
    )
    notes = (f"{events.AUTHORS} wanted authors, subscribed to and quiet; {_WINDOW_S:.0f} s", many.usage.note())
    return PartReport("relays", figures, notes)


def _idle(relays: int) -> _Idle:
    spec = Spec(
        addresses=balanced_addresses(relays),
        authors=[author.pubkey for author in events.people()],
        files=[[]] * relays,
        seconds=1.0,
    )
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name, LoadGenerator(spec, Path(name)) as load:
        environment = settings(relays=load.urls, pubsub=_NO_SINK, EVENTS_CRAWLERS="1")
        service = EventService.stage("crawler", Path(name), environment, slot=0)
        register(service.database)
        with service:
            load.wait_ready(_READY_S)
            pause(_SETTLE_S)
            pids = {"crawler": service.child.pid}
            first = Moment.of(pids)
            pause(_WINDOW_S)
            usage = Usage.between(first, Moment.of(pids))
            seen = process(service.child.pid)
            assert seen is not None, "the crawler has ended"
            return _Idle(seen.resident_bytes, seen.threads, usage)
