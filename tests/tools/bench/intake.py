"""`intake`: `Intake.run` alone, with a real database, fed as fast as its hand-over allows."""

import functools
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.crawl.flow_control import BATCHES_PER_RELAY
from pipeline.crawl.ingester import BATCH_EVENTS, Batch, Ingester
from pipeline.crawl.sync.planner import Planner
from pipeline.nostr.event import Event, event_from_json
from pipeline.process import metrics
from pipeline.process.clock import SystemClock
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.rules.acceptance import EventLimits
from pipeline.store import wanted_authors
from pipeline.store.counters import StageCounters
from pipeline.store.events import Accepted, accept
from pipeline.store.schema import open_database
from tests.tools.bench import events
from tests.tools.bench.report import Figure, PartReport, cost, per_second
from tests.tools.bench.running import register

_READERS = 4
_HOLDERS = 8
_MAX_EVENT = EventLimits(bytes=1 << 20, tags=20_000)


@dataclass(frozen=True, slots=True)
class Rate:
    """Events a second of wall time, and the intake thread's processor seconds per event."""

    per_second: float
    cpu_s: float


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `intake`."""
    count = 15_000 if quick else 60_000
    lines = events.lines(events.blocks(count + count // 2), count + count // 2)
    parsed = [event_from_json(line) for line in lines]
    uniques, more = parsed[:count], parsed[count:]
    with (
        tempfile.TemporaryDirectory(prefix="event-service-bench-") as directory,
        running_intake(Path(directory)) as fed,
    ):
        rates = {
            "unique": fed.feed(uniques),
            "duplicates, remembered": fed.feed(uniques),
            "duplicates, looked up": fed.feed_seen(uniques),
            f"mixed, each {_HOLDERS} times": fed.feed(list(_repeated(more))),
        }
    figures: list[Figure] = []
    for name, rate in rates.items():
        figures += (per_second(name, rate.per_second, limit), cost(f"  CPU, {name}", rate.cpu_s, limit))
    notes = (
        f"{count:,} parsed events in batches of {BATCH_EVENTS} from {_READERS} readers; rates of wall time, CPU of the"
        " intake thread alone; readers drop most duplicates before they come here",
    )
    return PartReport("intake", tuple(figures), notes)


class Fed:
    """An intake at work, and readers that feed it."""

    def __init__(self, ingester: Ingester, thread: threading.Thread, path: Path) -> None:
        self._path = path
        self._intake = ingester
        self._thread = thread
        self._rooms = [threading.Semaphore(BATCHES_PER_RELAY) for _ in range(_READERS)]

    def feed(self, batch: Sequence[Event]) -> Rate:
        """Let all of it be committed, the readers taking turns."""
        began, cpu_began = time.monotonic(), self._cpu_s()
        now_ms = round(time.time() * 1000)
        for number, first in enumerate(range(0, len(batch), BATCH_EVENTS)):
            room = self._rooms[number % _READERS]
            room.acquire()
            part = tuple(batch[first : first + BATCH_EVENTS])
            self._intake.submit(Batch(1, now_ms, part, taken=room.release))
        self._wait_idle()
        elapsed = time.monotonic() - began
        return Rate(len(batch) / elapsed, (self._cpu_s() - cpu_began) / len(batch))

    def feed_seen(self, batch: Sequence[Event]) -> Rate:
        """The same with nothing remembered in memory, and all of it accepted by a saver before."""
        accepted = (
            Accepted(number, event.id, event.created_at, event.kind, 1, b"", 1, 0, 1)
            for number, event in enumerate(batch)
        )
        with open_database(self._path, SystemClock()) as database, database.write() as tx:
            accept(tx, accepted, 0)
        self._intake.committed.clear()
        return self.feed(batch)

    def _wait_idle(self) -> None:
        # The second is taken once everything that was taken with the first is committed.
        for _ in range(2):
            idle = threading.Event()
            self._intake.submit(Batch(1, 0, taken=idle.set))
            if not idle.wait(120.0):
                raise TimeoutError("the intake does not come to its end")

    def _cpu_s(self) -> float:
        assert self._thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))


@contextmanager
def running_intake(directory: Path) -> Iterator[Fed]:
    """A running intake, counting into files as in a crawler."""
    runtime = directory / "run"
    (runtime / "metrics").mkdir(parents=True)
    metrics.install(runtime, "crawler-0")
    path = directory / "events.db"
    register(path)
    clock = SystemClock()
    try:
        counters = StageCounters(Slot("crawler", 0), Metrics())
        ingester = Ingester(functools.partial(open_database, path, clock), _MAX_EVENT, clock, counters)
        with open_database(path, clock) as database, database.read() as tx:
            planner = Planner()
            planner.apply(wanted_authors.stream_since(tx, 0))
        ingester.update_relevance(planner.wanted(planner.plan(), has_ceased=False))
        thread = threading.Thread(target=ingester.run, name="intake")
        thread.start()
        try:
            yield Fed(ingester, thread, path)
        finally:
            ingester.finish()
            thread.join()
    finally:
        metrics.uninstall()


def _repeated(batch: Sequence[Event]) -> Iterator[Event]:
    """Each event so many times, the copies some batches apart, as from relays that differ in speed."""
    lag = 3 * BATCH_EVENTS
    for position in range(len(batch) + lag * (_HOLDERS - 1)):
        for copy in range(_HOLDERS):
            index = position - copy * lag
            if 0 <= index < len(batch):
                yield batch[index]
