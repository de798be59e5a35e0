"""`latency`, `trickle`: from the first relay that sends an event to its arrival at Pub/Sub, at a steady rate.

The first is a mix as busy as the network's, the second a few events a second, where each wakes every stage for itself.
"""

import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.fakes.net import pause
from tests.tools.bench import events
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import Sent, balanced_addresses
from tests.tools.bench.machine import Usage
from tests.tools.bench.report import Figure, Limit, PartReport, cost
from tests.tools.bench.running import Running, logged, own_cpu_s, usage_figures
from tests.tools.bench.waits import WaitSample, wait_figures

SPREAD_S = 0.5
_WARM_UP_S = 5.0
_DRAIN_S = 60.0
# Seldom, since a look costs more than many an event.
_LOOK_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Mix:
    """So many events a second on so many relays, of which each event is held by `holders`."""

    part: str
    rate: int
    relays: int
    holders: int


@dataclass(frozen=True, slots=True)
class _Measured:
    latencies: list[float]
    usage: Usage
    waits: list[WaitSample]
    sent: Sent
    missing: int
    logged: int
    """Bytes of the write-ahead log."""


BUSY = Mix("latency", rate=500, relays=40, holders=8)
TRICKLE = Mix("trickle", rate=25, relays=4, holders=1)


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `latency`."""
    return _run(BUSY, limit, 10.0 if quick else 40.0)


def run_trickle(limit: float, *, quick: bool) -> PartReport:
    """The part `trickle`."""
    return _run(TRICKLE, limit, 20.0 if quick else 60.0)


def _run(mix: Mix, limit: float, window_s: float) -> PartReport:
    count = round(mix.rate * (_WARM_UP_S + window_s))
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name:
        directory = Path(name)
        spec = Spec(
            addresses=balanced_addresses(mix.relays),
            authors=[author.pubkey for author in events.people()],
            files=[[str(path) for path in events.blocks(count)]],
            seconds=_WARM_UP_S + window_s,
            rate=mix.rate,
            holders=mix.holders,
            spread_s=SPREAD_S,
            record=str(directory / "sent"),
        )
        return _report(mix, _measure(directory, spec, mix), limit)


def _measure(directory: Path, spec: Spec, mix: Mix) -> _Measured:
    with Running(directory, spec, record=directory / "arrived") as running:
        running.load.go()
        pause(_WARM_UP_S)
        until = monotonic() + spec.seconds - _WARM_UP_S
        waits = [running.look().waits]
        first, logged_before = running.moment(), running.log.bytes()
        while (left := until - monotonic()) > 0:
            pause(min(left, _LOOK_EVERY_S))
            waits.append(running.look().waits)
        usage, written = Usage.between(first, running.moment()), running.log.bytes() - logged_before
        sent = running.load.wait_done(_DRAIN_S)
        running.wait_drained(sent, _DRAIN_S)
        arrivals = dict(_arrivals(running))
    warm = round(_WARM_UP_S * mix.rate)
    times = [line.split() for line in Path(spec.record).read_text().splitlines()]
    missing = sum(event_id not in arrivals for event_id, _ in times)
    latencies = [arrivals[event_id] - float(at) for event_id, at in times[warm:] if event_id in arrivals]
    return _Measured(latencies, usage, waits, sent, missing, written)


def _arrivals(running: Running) -> Iterator[tuple[str, float]]:
    """When each event came first; the last of equal keys wins a dict, so from the end."""
    for batch in reversed(running.sink.batches()):
        for message in batch.messages():
            yield message.attributes["event_id"], batch.arrived_at


def _report(mix: Mix, measured: _Measured, limit: float) -> PartReport:
    latencies, usage, sent = measured.latencies, measured.usage, measured.sent
    percentiles = statistics.quantiles(latencies, n=1000)
    milliseconds = {
        "median": percentiles[499],
        "90 %": percentiles[899],
        "99 %": percentiles[989],
        "99.9 %": percentiles[998],
        "longest": max(latencies),
    }
    floor = Limit(f"{mix.rate}/V", 100 * mix.rate / limit, -1)
    own = Figure("CPU of the whole service", 100 * own_cpu_s(usage) / usage.elapsed_s, "% of a core", floor)
    figures = [
        *(Figure(f"relay to Pub/Sub, {name}", 1000 * value, "ms") for name, value in milliseconds.items()),
        Figure(
            "sent and not arrived", measured.missing, "events", note=f"of {sent.unique:,} in {sent.frames:,} frames"
        ),
        Figure("generator late by at most", 1000 * sent.late_s, "ms"),
        own,
        cost("CPU of the whole service per event", own_cpu_s(usage) / usage.elapsed_s / mix.rate, limit),
        logged(measured.logged, mix.rate * usage.elapsed_s),
        *usage_figures(usage)[1:],
        *wait_figures(measured.waits),
    ]
    notes = (
        f"{mix.rate} unique events/s on {mix.relays} relays, each held by {mix.holders} of them, which send it within"
        f" {SPREAD_S} s; {len(latencies):,} events counted, from the first relay's send to the Publish call's arrival",
        usage.note(),
    )
    return PartReport(mix.part, tuple(figures), notes)
