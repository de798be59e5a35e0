"""`duplicates`: how many copies of events that it has already one crawler process drops."""

import tempfile
from pathlib import Path

from tests.fakes.net import pause
from tests.fakes.service import EventService, settings
from tests.tools.bench import events
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import LoadGenerator, balanced_addresses
from tests.tools.bench.machine import Moment, Usage
from tests.tools.bench.report import Figure, Limit, PartReport, cost
from tests.tools.bench.running import register

_RELAYS = 4
_REACH = 60_000
# Each relay sends the same events over and over; enough for the whole run.
_ROUNDS = 200
_NO_SINK = "127.0.0.1:9"
_DROPPED = "event_service_stage_discarded_total"


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `duplicates`."""
    window_s = 5.0 if quick else 15.0
    block = str(events.blocks(events.BLOCK_EVENTS)[0])
    spec = Spec(
        addresses=balanced_addresses(_RELAYS),
        authors=[author.pubkey for author in events.people()],
        files=[[block] * _ROUNDS] * _RELAYS,
        seconds=120.0,
    )
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name:
        dropped, usage = _measure(Path(name), spec, window_s)
    figures = (
        Figure("copies dropped by one process", dropped / usage.elapsed_s, "/s", Limit("reach", _REACH)),
        cost("CPU per copy", usage.cpu_s["crawler"] / max(dropped, 1), limit),
        cost("  CPU of the generator per copy", usage.cpu_s["generator"] / max(dropped, 1), limit),
    )
    notes = (f"{_RELAYS} relays, {events.EVENT_BYTES} bytes each; {usage.elapsed_s:.1f} s", usage.note())
    return PartReport("duplicates", figures, notes)


def _measure(directory: Path, spec: Spec, window_s: float) -> tuple[float, Usage]:
    with LoadGenerator(spec, directory) as load:
        environment = settings(relays=load.urls, pubsub=_NO_SINK, EVENTS_CRAWLERS="1")
        service = EventService.stage("crawler", directory, environment, slot=0)
        register(service.database)
        with service:
            load.wait_ready()
            load.go()
            # The first copy of each is no duplicate.
            service.wait_metric(_DROPPED, lambda count: count > 5 * events.BLOCK_EVENTS, reason="duplicate")
            pids = {"crawler": service.child.pid, "generator": load.pid}
            first, before = Moment.of(pids), service.scrape().value(_DROPPED, reason="duplicate")
            pause(window_s)
            usage = Usage.between(first, Moment.of(pids))
            return service.scrape().value(_DROPPED, reason="duplicate") - before, usage
