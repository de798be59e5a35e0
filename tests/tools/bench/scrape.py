"""`scrape`: what `GET /metrics` costs with as many series as the service lets there be."""

import tempfile
import time
from pathlib import Path

from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.process import metrics
from pipeline.process.exposition import render
from pipeline.process.metrics import Metrics
from pipeline.process.slots import metrics_directory
from tests.tools.bench.report import Figure, PartReport

RELAYS = 1_000
SLOTS = 4
_RUNS = 5


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `scrape`; there is no limit to hold it against."""
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name:
        runtime = Path(name)
        metrics_directory(runtime).mkdir(parents=True)
        for slot in range(SLOTS):
            _fill(runtime, slot)
        times = []
        for _ in range(_RUNS):
            began = time.process_time()
            text = render(runtime)
            times.append(time.process_time() - began)
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    figures = (
        Figure("one scrape", 1000 * min(times), "ms CPU", note=f"best of {_RUNS}"),
        Figure("  series", series, ""),
        Figure("  text", len(text) / 1e6, "MB"),
    )
    return PartReport("scrape", figures, (f"counters of {RELAYS:,} relays over {SLOTS} crawler processes",))


def _fill(runtime: Path, slot: int) -> None:
    metrics.install(runtime, f"crawler-{slot}")
    try:
        counted = Metrics()
        for number in range(slot, RELAYS, SLOTS):
            relay = RelayMetrics(counted, f"wss://relay-{number}.example.com", lambda *_: None)
            relay.duplicate()
            relay.tell()
    finally:
        metrics.uninstall()
