"""`latency`: from the first relay that sends an event to its arrival at Pub/Sub, in a mix as busy as the network's."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.net import pause
from tests.tools.bench import events
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import Sent, balanced_addresses
from tests.tools.bench.machine import Usage
from tests.tools.bench.report import Figure, Limit, PartReport
from tests.tools.bench.running import Running, own_cpu_s, usage_figures

RELAYS = 40
HOLDERS = 8
RATE = 500
SPREAD_S = 0.5
_WARM_UP_S = 5.0
_DRAIN_S = 60.0


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `latency`."""
    window_s = 10.0 if quick else 40.0
    count = round(RATE * (_WARM_UP_S + window_s))
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name:
        directory = Path(name)
        spec = Spec(
            addresses=balanced_addresses(RELAYS),
            authors=[author.pubkey for author in events.people()],
            files=[[str(path) for path in events.blocks(count)]],
            seconds=_WARM_UP_S + window_s,
            rate=RATE,
            holders=HOLDERS,
            spread_s=SPREAD_S,
            record=str(directory / "sent"),
        )
        return _measure(directory, spec, limit)


def _measure(directory: Path, spec: Spec, limit: float) -> PartReport:
    with Running(directory, spec, record=directory / "arrived") as running:
        running.load.go()
        pause(_WARM_UP_S)
        first = running.moment()
        pause(spec.seconds - _WARM_UP_S)
        usage = Usage.between(first, running.moment())
        sent = running.load.wait_done(_DRAIN_S)
        running.wait_drained(sent, _DRAIN_S)
        arrivals = dict(_arrivals(running))
    warm = round(_WARM_UP_S * RATE)
    times = [line.split() for line in Path(spec.record).read_text().splitlines()]
    missing = sum(event_id not in arrivals for event_id, _ in times)
    latencies = [arrivals[event_id] - float(at) for event_id, at in times[warm:] if event_id in arrivals]
    return _report(latencies, usage, sent, missing, limit)


def _arrivals(running: Running) -> Iterator[tuple[str, float]]:
    """When each event came first; the last of equal keys wins a dict, so from the end."""
    for batch in reversed(running.sink.batches()):
        for message in batch.messages():
            yield message.attributes["event_id"], batch.arrived_at


def _report(latencies: list[float], usage: Usage, sent: Sent, missing: int, limit: float) -> PartReport:
    percentiles = statistics.quantiles(latencies, n=1000)
    milliseconds = {
        "median": percentiles[499],
        "90 %": percentiles[899],
        "99 %": percentiles[989],
        "99.9 %": percentiles[998],
        "longest": max(latencies),
    }
    floor = Limit(f"{RATE}/V", 100 * RATE / limit, -1)
    own = Figure("CPU of the whole service", 100 * own_cpu_s(usage) / usage.elapsed_s, "% of a core", floor)
    figures = [
        *(Figure(f"relay to Pub/Sub, {name}", 1000 * value, "ms") for name, value in milliseconds.items()),
        Figure("sent and not arrived", missing, "events", note=f"of {sent.unique:,} in {sent.frames:,} frames"),
        Figure("generator late by at most", 1000 * sent.late_s, "ms"),
        own,
        *usage_figures(usage)[1:],
    ]
    notes = (
        f"{RATE} unique events/s on {RELAYS} relays, each held by {HOLDERS} of them, which send it within {SPREAD_S} s;"
        f" {len(latencies):,} events counted, from the first relay's send to the Publish call's arrival",
        usage.note(),
    )
    return PartReport("latency", tuple(figures), notes)
