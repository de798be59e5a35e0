"""`service`: what `event-service supervise` moves from relays to Pub/Sub, unthrottled and lasting."""

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.fakes.net import pause
from tests.tools.bench import events
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import Sent, balanced_addresses
from tests.tools.bench.machine import CORES, Usage
from tests.tools.bench.report import Figure, Limit, PartReport, cost, per_second
from tests.tools.bench.running import Running, Sample, logged, own_cpu_s, usage_figures
from tests.tools.bench.waits import timeline, wait_figures

RELAYS = 4
_LOOK_EVERY_S = 1.0
# Looks that make a stretch, of which the slowest and the fastest are shown.
_STRETCH_LOOKS = 3
_DRAIN_S = 120.0
# The lower of the default marks of backpressure.
_FILLED_ROWS = 15_000


@dataclass(frozen=True, slots=True)
class Size:
    """How long it runs at most before and while it is measured, and how many events are at hand."""

    warm_up_s: float
    window_s: float
    events: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.warm_up_s + self.window_s


QUICK = Size(10.0, 10.0, 480_000)
FULL = Size(20.0, 60.0, 1_920_000)


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `service`."""
    size = QUICK if quick else FULL
    blocks = events.blocks(size.events)
    spec = Spec(
        addresses=balanced_addresses(RELAYS),
        authors=[author.pubkey for author in events.people()],
        files=[[str(path) for path in blocks[relay::RELAYS]] for relay in range(RELAYS)],
        # The parent ends it; this is for the case that the parent cannot.
        seconds=2 * size.seconds,
    )
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as directory:
        return _measure(Path(directory), spec, size, limit)


def _measure(directory: Path, spec: Spec, size: Size, limit: float) -> PartReport:
    with Running(directory, spec) as running:
        running.load.go()
        _warm_up(running, size.warm_up_s)
        first, logged_before = running.moment(), running.log.bytes()
        looks = [running.look()]
        while looks[-1].at - looks[0].at < size.window_s:
            pause(min(_LOOK_EVERY_S, size.window_s - (monotonic() - looks[0].at)))
            looks.append(running.look())
        usage, written = Usage.between(first, running.moment()), running.log.bytes() - logged_before
        sent = running.load.stop()
        arrived = running.wait_drained(sent, _DRAIN_S)
    return _report(looks, usage, sent, arrived, written, limit)


def _warm_up(running: Running, longest_s: float) -> None:
    """Let the queues fill to where backpressure keeps them, so that what is measured can last."""
    deadline = monotonic() + longest_s
    while running.look().waiting < _FILLED_ROWS and monotonic() < deadline:
        pause(0.5)


def _report(looks: list[Sample], usage: Usage, sent: Sent, arrived: int, written: int, limit: float) -> PartReport:
    taken = looks[-1].arrived - looks[0].arrived
    rates = [(b.arrived - a.arrived) / (b.at - a.at) for a, b in itertools.pairwise(looks[::_STRETCH_LOOKS])]
    figures = [
        per_second("unique events, relays to Pub/Sub", taken / (looks[-1].at - looks[0].at), limit),
        per_second("  slowest stretch", min(rates), limit, f"of {_STRETCH_LOOKS * _LOOK_EVERY_S:.0f} s"),
        per_second("  fastest stretch", max(rates), limit),
        cost("CPU of the service per event", own_cpu_s(usage) / max(taken, 1), limit),
        logged(written, taken),
        Figure("sent and not arrived", max(0, sent.unique - arrived), "events", note=f"of {sent.unique:,}"),
        Figure("arrived again", max(0, arrived - sent.unique), "events"),
        Figure("queues at the beginning of the window", looks[0].waiting, "rows", Limit("bound", 20_000)),
        Figure("queues at its end", looks[-1].waiting, "rows", Limit("bound", 20_000), _queues(looks[-1])),
        Figure("queues at most", max(look.waiting for look in looks), "rows", Limit("bound", 20_000)),
        Figure("write-ahead log at most", max(look.wal_bytes for look in looks) / 2**20, "MiB", Limit("bound", 64)),
        Figure("unexpected exits of stages", looks[-1].unasked_exits, "processes"),
        *usage_figures(usage),
        *wait_figures([look.waits for look in looks]),
    ]
    notes = (
        f"{RELAYS} relays in one process, {events.AUTHORS} registered authors, kind 1 of {events.EVENT_BYTES} bytes, "
        "each event on one relay; default settings; authors registered in the database before the start",
        f"generator, sink and service share {CORES} cores; window {usage.elapsed_s:.1f} s",
        usage.note(),
        *timeline([look.waits for look in looks]),
        *([f"{sent.lost_peers} connections were lost"] if sent.lost_peers else []),
    )
    invalid = "the relays ran out of events while it was measured" if sent.is_over else ""
    return PartReport("service", tuple(figures), notes, invalid)


def _queues(look: Sample) -> str:
    return f"inbox {look.inbox:,}, outbox {look.outbox:,}"
