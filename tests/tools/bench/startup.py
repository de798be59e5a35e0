"""`start`: how long the command takes to answer, the service to its first event, and to its end under full load."""

import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from time import monotonic

from pipeline.process.clock import SystemClock
from pipeline.store import inbox, outbox
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.fakes.net import pause
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.service import EventService, settings
from tests.tools.bench import events
from tests.tools.bench.generator import Spec
from tests.tools.bench.load import LoadGenerator, balanced_addresses
from tests.tools.bench.report import Figure, Limit, PartReport
from tests.tools.bench.running import register
from tests.tools.bench.service import RELAYS

_HELP_RUNS = 9
_EVENTS = 200_000
_LOADED_S = 5.0
_LONGEST_S = 60.0


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `start`; its limits are what the service is to reach."""
    helped = [_help_s() for _ in range(_HELP_RUNS)]
    wall, cpu = sorted(each[0] for each in helped), sorted(each[1] for each in helped)
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name:
        timed = _Timed(Path(name))
    figures = (
        Figure("event-service --help, median", 1000 * statistics.median(wall), "ms", Limit("reach", 150)),
        Figure("  fastest", 1000 * wall[0], "ms", Limit("reach", 150)),
        Figure("  CPU", 1000 * statistics.median(cpu), "ms CPU", Limit("reach", 150)),
        Figure("exec to every relay subscribed to", timed.subscribed_s, "s"),
        Figure("exec to the first event at Pub/Sub", timed.first_event_s, "s"),
        Figure("SIGTERM to the end, relays flooding", timed.ended_s, "s"),
        Figure("rows safely left in the queues", timed.left, "rows", note=f"exit code {timed.exit_code}"),
    )
    notes = (f"{RELAYS} relays; {_LOADED_S:.0f} s of flood before SIGTERM; --help run {_HELP_RUNS} times",)
    return PartReport("start", figures, notes)


def _help_s() -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    began, used = monotonic(), getrusage(RUSAGE_CHILDREN)
    subprocess.run([Path(sys.executable).with_name("event-service"), "--help"], check=True, capture_output=True)
    now = getrusage(RUSAGE_CHILDREN)
    return monotonic() - began, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


class _Timed:
    """One run of the whole service, from its start to its end."""

    def __init__(self, directory: Path) -> None:
        blocks = events.blocks(_EVENTS)
        spec = Spec(
            addresses=balanced_addresses(RELAYS),
            authors=[author.pubkey for author in events.people()],
            files=[[str(path) for path in blocks[relay::RELAYS]] for relay in range(RELAYS)],
            seconds=_LONGEST_S,
        )
        with ExitStack() as stack:
            load = stack.enter_context(LoadGenerator(spec, directory))
            sink = stack.enter_context(PubSubProcess(count_only=True))
            service = EventService(directory, settings(relays=load.urls, pubsub=sink.address))
            register(service.database)
            stack.callback(service.close)
            began = monotonic()
            service.start(wait=False)
            load.wait_ready()
            self.subscribed_s = monotonic() - began
            load.go()
            while not sink.count and monotonic() - began < _LONGEST_S:
                pause(0.005)
            self.first_event_s = monotonic() - began
            pause(_LOADED_S)
            began = monotonic()
            self.exit_code = service.stop()
            self.ended_s = monotonic() - began
            self.left = _left(service.database)


def _left(path: Path) -> int:
    with open_database(path, SystemClock()) as database, database.read() as tx:
        return inbox.waiting(tx) + outbox.waiting(tx, SinkName.PUBSUB)
