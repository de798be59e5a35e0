"""`fleet`: a thousand relays connected to two crawlers; what they cost idle, and what a flood of one does to others."""

import sqlite3
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from tests.fakes.net import pause
from tests.fakes.procs import process
from tests.fakes.service import EventService, settings
from tests.tools.bench import events
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import LoadGenerator, balanced_addresses
from tests.tools.bench.machine import Moment, Usage
from tests.tools.bench.report import Figure, Limit, PartReport
from tests.tools.bench.running import register

RELAYS, FEW_RELAYS = 1_000, 10
CRAWLERS = 2
RATE = 100
FLOOD_EVENTS = 200_000
_CONNECT_S = 180.0
_SETTLE_S = 5.0
_TICK_S = 0.004
_ROWS = "SELECT seq, lower(hex(event_id)) FROM inbox WHERE seq > ?"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of so many relays: before anything was sent, and of what they sent."""

    relays: int
    connected_s: float
    idle: Usage
    memory: int
    before: tuple[float, float]
    during: tuple[float, float]
    flood: int
    missing: int


def run(_: float, *, quick: bool) -> PartReport:
    """The part `fleet`. Only crawlers run, so that rows stay in the inbox to be seen."""
    relays, idle_s, half_s = (200, 10.0, 5.0) if quick else (RELAYS, 60.0, 20.0)
    files = [str(path) for path in events.blocks(events.BLOCK_EVENTS + FLOOD_EVENTS // (10 if quick else 1))]
    return _report(_measure(FEW_RELAYS, 1.0, half_s, files), _measure(relays, idle_s, half_s, files))


def _measure(relays: int, idle_s: float, half_s: float, files: list[str]) -> _Seen:
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
        sent = [(event_id, float(at)) for event_id, at in map(str.split, (directory / "sent").read_text().splitlines())]
    took = [(at, 1000 * (came[event_id] - at)) for event_id, at in sent if event_id in came]
    return _Seen(
        relays, connected_s, idle, memory,
        before=_percentiles([each for at, each in took if at < flood_at]),
        during=_percentiles([each for at, each in took if at >= flood_at]),
        flood=max(0, len(came) - len(took)), missing=len(sent) - len(took),
    )  # fmt: skip


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


def _report(few: _Seen, many: _Seen) -> PartReport:
    idle = many.idle
    figures = (
        Figure("connected and subscribed after", many.connected_s, "s"),
        Figure("memory of both crawlers", many.memory / 2**20, "MiB", Limit("aim", 400)),
        Figure(
            "CPU while idle, both", 100 * sum(idle.cpu_s.values()) / idle.elapsed_s, "% of a core", Limit("aim", 10)
        ),
        Figure("relay to inbox, median", many.before[0], "ms"),
        Figure("relay to inbox, 99 %", many.before[1], "ms"),
        Figure("during a flood, median", many.during[0], "ms"),
        Figure("during a flood, 99 %", many.during[1], "ms"),
        Figure("the flood's delay, 99 %", many.during[1] - many.before[1], "ms", Limit("aim", 50)),
        Figure("rows of the flood", many.flood, "events", Limit(f"{few.relays} relays", few.flood)),
        Figure("sent and not arrived", many.missing, "events"),
    )
    note = f"{many.relays:,} relays, {CRAWLERS} crawlers; {RATE} events/s from all but the flooding one"
    return PartReport("fleet", figures, (note, idle.note()))


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    found = statistics.quantiles(values, n=100)
    return found[49], found[98]
