"""The whole service under load: relays, `event-service supervise` and the sink, each in processes of its own."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Self

from pipeline.process.clock import SystemClock
from pipeline.store import users
from pipeline.store.schema import open_database
from tests.fakes.net import pause
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.service import EventService, settings
from tests.tools.bench import events
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import LoadGenerator, Sent
from tests.tools.bench.log_meter import LogMeter
from tests.tools.bench.machine import Moment, Usage
from tests.tools.bench.report import Figure
from tests.tools.bench.waits import WaitSample

_OUTSIDE = ("generator", "sink")
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment: messages at the sink, rows in the queues, size of the log, stages that died so far."""

    at: float
    arrived: int
    inbox: int
    outbox: int
    wal_bytes: int
    unasked_exits: int
    waits: WaitSample

    @property
    def waiting(self) -> int:
        """Rows in both queues."""
        return self.inbox + self.outbox


class Running:
    """Everything started and connected, with the authors of the workload registered, and nothing sent yet."""

    def __init__(self, directory: Path, spec: Spec, *, record: Path | None = None) -> None:
        self._stack = ExitStack()
        try:
            self.load = self._stack.enter_context(LoadGenerator(spec, directory))
            self.sink = self._stack.enter_context(PubSubProcess(count_only=record is None, record=record))
            self.service = EventService(directory, settings(relays=self.load.urls, pubsub=self.sink.address))
            register(self.service.database)
            self._stack.enter_context(self.service)
            self.log = self._stack.enter_context(LogMeter(self.service.database))
            self.load.wait_ready()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def moment(self) -> Moment:
        """Processor time of every process now."""
        return Moment.of(self._pids())

    def look(self) -> Sample:
        """The queues and the sink now."""
        scrape = self.service.scrape()
        inbox = scrape.value("event_service_queue_length", queue="inbox")
        outbox = scrape.value("event_service_queue_length", queue="outbox-pubsub")
        wal_bytes = scrape.value("event_service_wal_bytes")
        unasked = scrape.value("event_service_stage_exits_total")
        at, count = monotonic(), self.sink.count
        waits = WaitSample.of(scrape, at)
        return Sample(at, count, round(inbox), round(outbox), round(wal_bytes), round(unasked), waits)

    def wait_drained(self, sent: Sent, timeout_s: float) -> int:
        """How much the sink took in all, once that is everything that was sent or the time is up."""
        deadline = monotonic() + timeout_s
        while (arrived := self.sink.count) < sent.unique and monotonic() < deadline:
            pause(_POLL_S)
        return arrived

    def _pids(self) -> Mapping[str, int]:
        stages = {f"{one.name}-{one.slot or 0}": one.pid for one in self.service.stages()}
        pids = {"supervisor": self.service.child.pid, **stages}
        return pids | dict(zip(_OUTSIDE, (self.load.pid, self.sink.child.pid), strict=True))


def register(database: Path) -> None:
    """Register the authors of the workload in a database that no service uses yet."""
    with open_database(database, SystemClock()) as opened, opened.write() as tx:
        for author in events.people():
            users.register(tx, bytes.fromhex(author.pubkey), round(time() * 1000))


def usage_figures(usage: Usage) -> list[Figure]:
    """Processor time of each process in percent of a core, the service's own added up, others apart."""
    percent = {name: 100 * seconds / usage.elapsed_s for name, seconds in usage.cpu_s.items()}
    own = sum(value for name, value in percent.items() if name not in _OUTSIDE)
    figures = [Figure("CPU of the whole service", own, "% of a core")]
    for name in sorted(percent, key=lambda name: (name in _OUTSIDE, -percent[name])):
        figures.append(Figure(f"  CPU of {name}", percent[name], "% of a core"))
    return figures


def logged(written: int, events: float) -> Figure:
    """Bytes of the write-ahead log per event."""
    return Figure("write-ahead log per event", written / max(events, 1), "bytes")


def own_cpu_s(usage: Usage) -> float:
    """Processor seconds of the service's processes."""
    return sum(seconds for name, seconds in usage.cpu_s.items() if name not in _OUTSIDE)
