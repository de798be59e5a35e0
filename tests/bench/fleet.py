"""`fleet`: a thousand relays connected to two crawlers; what they cost idle, and what a flood of one does to others."""

import sqlite3
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from time import monotonic, time

from tests.bench import events
from tests.bench.generator import Spec
from tests.bench.load import LoadGenerator, balanced_addresses
from tests.bench.machine import Moment, Usage
from tests.bench.report import Figure, Limit, PartReport
from tests.bench.running import register
from tests.fakes.net import pause
from tests.fakes.procs import process
from tests.fakes.service import EventService, settings

RELAYS = 1_000
CRAWLERS = 2
RATE = 100
FLOOD_EVENTS = 200_000
_CONNECT_S = 180.0
_SETTLE_S = 5.0
_TICK_S = 0.004
_ROWS = "SELECT seq, lower(hex(event_id)) FROM inbox WHERE seq > ?"


def run(_: float, *, quick: bool) -> PartReport:
    """The part `fleet`. Only crawlers run, so that rows stay in the inbox to be seen."""
    relays, idle_s, half_s = (200, 10.0, 5.0) if quick else (RELAYS, 60.0, 20.0)
    flooded = FLOOD_EVENTS // (10 if quick else 1)
    files = [str(path) for path in events.blocks(events.BLOCK_EVENTS + flooded)]
    authors = [author.pubkey for author in events.people()]
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        (directory / "flood").mkdir()
        calm = Spec(
            addresses=balanced_addresses(relays - 1), authors=authors, files=[files[:1]], seconds=2 * half_s,
            rate=RATE, record=str(directory / "sent"),
        )  # fmt: skip
        flood = Spec(addresses=balanced_addresses(1), authors=authors, files=[files[1:]], seconds=half_s)
        load = stack.enter_context(LoadGenerator(calm, directory))
        flooding = stack.enter_context(LoadGenerator(flood, directory / "flood"))
        env = settings(relays=[*load.urls, *flooding.urls]) | {
            "EVENTS_CRAWLERS": str(CRAWLERS), "EVENTS_MAX_RELAYS": str(relays), "EVENTS_LOG_LEVEL": "ERROR",
            "EVENTS_BACKPRESSURE_HIGH": "10000000", "EVENTS_BACKPRESSURE_LOW": "9000000",
        }  # fmt: skip
        services = [EventService.stage("crawler", directory, env, slot=slot) for slot in range(CRAWLERS)]
        register(services[0].database)
        began = monotonic()
        for service in services:
            stack.enter_context(service)
        load.wait_ready(_CONNECT_S)
        flooding.wait_ready(_CONNECT_S)
        connected_s = monotonic() - began
        pids = {f"crawler-{slot}": service.child.pid for slot, service in enumerate(services)}
        pause(_SETTLE_S)
        first = Moment.of(pids)
        pause(idle_s)
        idle = Usage.between(first, Moment.of(pids))
        memory = sum(found.resident_bytes for pid in pids.values() if (found := process(pid)) is not None)
        came, flood_at = _watch(services[0].database, load, flooding, half_s)
        return _report(relays, connected_s, idle, memory, came, flood_at, directory / "sent")


def _watch(
    database: Path, load: LoadGenerator, flooding: LoadGenerator, half_s: float
) -> tuple[dict[str, float], float]:
    """When each row came, and since when one relay flooded."""
    came: dict[str, float] = {}
    last = 0
    load.go()
    began = monotonic()
    flood_at = 0.0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as rows:
        while monotonic() < began + 2 * half_s + 5:
            if not flood_at and monotonic() >= began + half_s:
                flooding.go()
                flood_at = time()
            for seq, event_id in rows.execute(_ROWS, (last,)).fetchall():
                came.setdefault(event_id, time())
                last = seq
            pause(_TICK_S)
    load.wait_done(60.0)
    return came, flood_at


def _report(
    relays: int, connected_s: float, idle: Usage, memory: int, came: dict[str, float], flood_at: float, sent: Path
) -> PartReport:
    times = [(event_id, float(at)) for event_id, at in (line.split() for line in sent.read_text().splitlines())]
    missing = sum(event_id not in came for event_id, _ in times)
    took = [(at, 1000 * (came[event_id] - at)) for event_id, at in times if event_id in came]
    before = _percentiles([each for at, each in took if at < flood_at])
    during = _percentiles([each for at, each in took if at >= flood_at])
    figures = (
        Figure("connected and subscribed after", connected_s, "s"),
        Figure("memory of both crawlers", memory / 2**20, "MiB", Limit("aim", 400)),
        Figure(
            "CPU while idle, both", 100 * sum(idle.cpu_s.values()) / idle.elapsed_s, "% of a core", Limit("aim", 10)
        ),
        Figure("relay to inbox, median", before[0], "ms"),
        Figure("relay to inbox, 99 %", before[1], "ms"),
        Figure("during a flood, median", during[0], "ms"),
        Figure("during a flood, 99 %", during[1], "ms"),
        Figure("the flood's delay, 99 %", during[1] - before[1], "ms", Limit("aim", 50)),
        Figure("rows of the flood", max(0, len(came) - len(took)), "events"),
        Figure("sent and not arrived", missing, "events"),
    )
    notes = (f"{relays:,} relays, {CRAWLERS} crawlers; {RATE} events/s from all but the flooding one", idle.note())
    return PartReport("fleet", figures, notes)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    found = statistics.quantiles(values, n=100)
    return found[49], found[98]
