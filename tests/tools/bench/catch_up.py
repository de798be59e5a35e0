"""`catch-up`: events behind a long round trip are fetched while others come live."""

import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from tests.fakes.net import pause
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.service import EventService, settings
from tests.tools.bench import events
from tests.tools.bench.archive import Archive
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import LoadGenerator, balanced_addresses
from tests.tools.bench.machine import Moment, Usage
from tests.tools.bench.report import Figure, Limit, PartReport, cost
from tests.tools.bench.running import own_cpu_s, register, usage_figures

RELAYS = 4
RATE = 25
ROUND_TRIP_S = 0.1
CAP = 500
# A first start reaches back so far, over which the stored events are spread.
_BACKFILL_DAYS = 10
# The first start is some seconds after the signing.
_MARGIN_S = 600
_CALM_S = 10.0
_LONGEST_S = 120.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class _Measured:
    """Times are Unix seconds: when the first and the last stored event arrived."""

    began: float
    ended: float
    arrived: int
    usage: Usage
    calm: list[float]
    beside: list[float]
    """Delays of live events (s), without and with the catching up."""


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `catch-up`."""
    stored = 40_000 if quick else 100_000
    seconds = _CALM_S + _LONGEST_S
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name:
        directory = Path(name)
        addresses = balanced_addresses(RELAYS + 1)
        spec = Spec(
            addresses=addresses[:RELAYS],
            authors=[author.pubkey for author in events.people()],
            files=[[str(path) for path in events.blocks(round(RATE * seconds))]],
            seconds=seconds,
            rate=RATE,
            record=str(directory / "sent"),
        )
        now = round(time())
        since = now - _BACKFILL_DAYS * 86_400
        files = [str(path) for path in events.dated(stored, since + _MARGIN_S, now - _MARGIN_S, directory)]
        return _report(_measure(directory, spec, addresses[-1], files, stored), stored, limit)


def _measure(directory: Path, spec: Spec, address: str, files: list[str], stored: int) -> _Measured:
    record = directory / "arrived"
    with ExitStack() as stack:
        load = stack.enter_context(LoadGenerator(spec, directory))
        archive = stack.enter_context(Archive(address, files, ROUND_TRIP_S, CAP, directory))
        sink = stack.enter_context(PubSubProcess(record=record))
        env = settings(relays=[*load.urls, archive.url], pubsub=sink.address, EVENTS_BACKFILL=f"{_BACKFILL_DAYS}d")
        service = EventService(directory, env)
        register(service.database)
        stack.enter_context(service)
        load.wait_ready()
        load.go()
        pause(_CALM_S)
        pids = {f"{one.name}-{one.slot or 0}": one.pid for one in service.stages()}
        first, calm_until, before = Moment.of(pids), time(), sink.count
        archive.open()
        deadline = monotonic() + _LONGEST_S
        while sink.count < before + stored + RATE * (time() - calm_until) and monotonic() < deadline:
            pause(_POLL_S)
        usage = Usage.between(first, Moment.of(pids))
        load.stop()
        arrivals = {
            message.attributes["event_id"]: batch.arrived_at
            for batch in reversed(sink.batches())
            for message in batch.messages()
        }
    sent = {event_id: float(at) for event_id, at in map(str.split, Path(spec.record).read_text().splitlines())}
    return _judged(arrivals, sent, calm_until, usage)


def _judged(
    arrivals: Mapping[str, float], sent: Mapping[str, float], calm_until: float, usage: Usage
) -> _Measured:  # fmt: skip
    fetched = sorted(at for event_id, at in arrivals.items() if event_id not in sent)
    delays = [(at, arrivals[event_id] - at) for event_id, at in sent.items() if event_id in arrivals]
    return _Measured(
        fetched[0], fetched[-1], len(fetched), usage,
        [delay for at, delay in delays if at < calm_until],
        [delay for at, delay in delays if fetched[0] <= at <= fetched[-1]],
    )  # fmt: skip


def _report(measured: _Measured, stored: int, limit: float) -> PartReport:
    took_s = measured.ended - measured.began
    calm, beside = (statistics.quantiles(each, n=100) for each in (measured.calm, measured.beside))
    figures = (
        Figure("stored events, relay to Pub/Sub", measured.arrived / took_s, "/s", Limit("aim", 10_000)),
        Figure("  seconds for all", took_s, "s"),
        Figure("  not arrived", stored - measured.arrived, "events", note=f"of {stored:,}"),
        Figure("live, relay to Pub/Sub, median", 1000 * calm[49], "ms"),
        Figure("live, 99 %", 1000 * calm[98], "ms"),
        Figure("live beside it, median", 1000 * beside[49], "ms"),
        Figure("live beside it, 99 %", 1000 * beside[98], "ms"),
        cost("CPU of the whole service per event", own_cpu_s(measured.usage) / max(measured.arrived, 1), limit),
        *usage_figures(measured.usage)[1:],
    )
    notes = (
        f"{stored:,} events at one relay, which answers after {1000 * ROUND_TRIP_S:.0f} ms with {CAP} at most; beside "
        f"it {RATE} live events/s of {RELAYS} others, {len(measured.beside)} of them while it was fetched",
        measured.usage.note(),
    )
    return PartReport("catch-up", figures, notes)
