"""What must hold at every moment of a run, looked at while it runs."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.procs import process
from tests.fakes.service import StageProcess
from tests.tools.chaos import hooks
from tests.tools.chaos.harness import ChaosHarness
from tests.tools.chaos.health import complains_of_others
from tests.tools.chaos.health_oracle import TRUTH_WITHIN_S, UNTRUE_LOOKS, SinkHealthChecker
from tests.tools.chaos.hooks import transaction_monitor
from tests.tools.chaos.queues import PUBSUB, RELAY, Depths

# Several times what each needs for a dozen relays, so that growth shows and noise does not.
MAX_RESIDENT_BYTES = 400 << 20
MAX_OPEN_FILES = 200
MAX_THREADS = 80
MAX_WAL_BYTES = 160 << 20
MAX_LOCK_WAIT_S = 1.0
"""For the write lock, by the compensated clock, while we hold up nobody."""
MAX_LISTED = 40
"""Violations beyond this are only counted."""
_PROCESS_EVERY_S = 0.5
_HEALTH_EVERY_S = 0.5
_METRICS_EVERY_S = 2.0
JOIN_S = 30.0
_COUNTERS = ("counter", "histogram")


@dataclass(frozen=True, slots=True)
class DepthSample:
    """How full the queues were, at a moment (monotonic seconds)."""

    at: float
    depths: Depths


@dataclass(slots=True)
class Peaks:
    """The most that was seen: per stage, and of the log."""

    resident_bytes: dict[str, int] = field(default_factory=dict)
    open_files: dict[str, int] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    wal_bytes: int = 0
    queued: int = 0
    lock_wait_s: float = 0.0
    """The longest wait for the write lock that was the service's own doing, by the compensated clock."""
    forgiven_s: float = 0.0
    """How much of the time the machine was too busy to let the service run."""


class Watcher:
    """Looks at the harness from threads of its own between `start` and `stop`."""

    def __init__(self, harness: ChaosHarness) -> None:
        self.harness = harness
        self.peaks = Peaks()
        self.samples: list[DepthSample] = []
        self.violations: list[str] = []
        self.health_looks = self.metrics_looks = 0
        self._stop = threading.Event()
        self._paused = False
        self._threads: list[threading.Thread] = []
        self._view: tuple[str, float] = ("unknown", time.monotonic())
        self._untrue, self._untrue_view = 0, ""
        self._counters: dict[tuple[str, str], float] = {}
        self._restarts = harness.restarts
        self.sinks = [SinkHealthChecker(sink, harness.clock, self._violated) for sink in (PUBSUB, RELAY)]
        self.errors: list[BaseException] = []
        self.clock = harness.clock

    def start(self) -> None:
        """Begin to look."""
        looks = (
            (self._look_at_processes, _PROCESS_EVERY_S),
            (self._look_at_health, _HEALTH_EVERY_S),
            (self._look_at_metrics, _METRICS_EVERY_S),
        )
        for look, every_s in looks:
            thread = threading.Thread(target=self._repeat, args=(look, every_s), name=look.__name__, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Look no more; raises what kept a look from being taken."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        if self.errors:
            raise self.errors[0]

    def _repeat(self, look: Callable[[], None], every_s: float) -> None:
        try:
            while not self._stop.wait(every_s):
                look()
        except BaseException as error:
            self.errors.append(error)

    def _violated(self, text: str) -> None:
        self.violations.append(f"{time.strftime('%H:%M:%S')} {text}")

    def _look_at_processes(self) -> None:
        stages = self.harness.stages()
        self.harness.tick()
        self._set_view(stages)
        for one in stages:
            self._weigh(one)
        for pid in self.harness.supervisors():
            if (supervisor := process(pid)) is not None:
                self.harness.keep_secrets(" ".join(supervisor.command), "the command line of the supervisor")
        database = self.harness.service.database
        wal = database.with_name(database.name + "-wal")
        with contextlib.suppress(FileNotFoundError):
            size = wal.stat().st_size
            if size > MAX_WAL_BYTES >= self.peaks.wal_bytes:
                self._violated(f"the write-ahead log has {size} bytes")
            self.peaks.wal_bytes = max(self.peaks.wal_bytes, size)
        depths = self.harness.queues.depths()
        if depths is not None:
            self.samples.append(DepthSample(time.monotonic(), depths))
            self.peaks.queued = max(self.peaks.queued, depths.total)

    def _weigh(self, one: StageProcess) -> None:
        self.harness.keep_secrets(" ".join(one.process.command), f"the command line of {one.name}")
        use = (
            ("bytes in memory", one.process.resident_bytes, self.peaks.resident_bytes, MAX_RESIDENT_BYTES),
            ("open files", one.process.open_files(), self.peaks.open_files, MAX_OPEN_FILES),
            ("threads", one.process.threads, self.peaks.threads, MAX_THREADS),
        )
        for what, amount, peaks, most in use:
            before = peaks.get(one.name, 0)
            if amount > most >= before:
                self._violated(f"{one.name} has {amount} {what}")
            peaks[one.name] = max(before, amount)

    def _set_view(self, stages: list[StageProcess]) -> None:
        """How things stand by what the kernel shows: well, ill, or nobody's guess."""
        running = {(one.group, one.slot) for one in stages if one.process.state not in "Tt"}
        stopped = any(one.process.state in "Tt" for one in stages)
        if self.harness.uncertain_faults or not self.harness.service.running:
            view = "doubtful"
        elif self.harness.expected_problem:
            view = f"ill: {self.harness.expected_problem}"
        elif running >= self.harness.expected and not stopped:
            view = f"well {sorted(one.pid for one in stages)}"
        else:
            missing = sorted(f"{name}-{slot}" for name, slot in self.harness.expected - running)
            view = f"ill: {', '.join(missing)} missing or stopped"
        if view != self._view[0]:
            self._view = (view, time.monotonic())

    def _look_at_health(self) -> None:
        began = time.monotonic()
        try:
            status, body = self.harness.service.get("/_health")
        except (OSError, ValueError):
            status, body = 0, "no answer"
        self.health_looks += 1
        self.harness.keep_secrets(body, "/_health")
        view, since = self._view
        self._judge_sinks(began, body)
        # A view that changed while the answer was on its way says nothing about it.
        if (
            self.harness.uncertain_faults
            or self.clock.between(since, began) < TRUTH_WITHIN_S
            or not view.startswith(("well", "ill"))
        ):
            return
        is_well = view.startswith("well")
        truthful = (status == 200 or complains_of_others(body)) if is_well else status != 200
        self._untrue = 0 if truthful or view != self._untrue_view else self._untrue + 1
        self._untrue_view = view
        # Once or twice it may have been us who looked too late.
        if self._untrue == UNTRUE_LOOKS:
            lasted_s, fair_s = round(began - since), round(self.clock.between(since, began))
            why = f"it has been {view} for {lasted_s} s, {fair_s} s of which the machine was free to tell"
            self._violated(f"/_health says {status} {body[:1000]} although {why}")

    def _judge_sinks(self, began: float, body: str) -> None:
        view, since = self._view
        settled = since if view.startswith("well") and not self.harness.uncertain_faults else math.inf
        for judge in self.sinks:
            offered = self.harness.queues.is_offered(judge.sink)
            judge.look(began, self.harness.sinks[judge.sink], settled, offered, body)

    def look_at_conduct(self) -> None:
        """Judge what the stages have noted of themselves; once, when all is over."""
        self.peaks.forgiven_s = self.clock.forgiven_s
        lines = [
            line for path in hooks.notes_in(self.harness.hooks).iterdir() for line in path.read_text().splitlines()
        ]
        notes = [transaction_monitor.Observation(**json.loads(line)) for line in lines]
        held = [note for note in notes if note.kind == transaction_monitor.HELD]
        for note in sorted(notes, key=lambda note: note.began):
            if note.kind != transaction_monitor.HELD:
                self._judge(note, held)

    def _judge(self, note: transaction_monitor.Observation, held: list[transaction_monitor.Observation]) -> None:
        if note.kind == transaction_monitor.NETWORK:
            self._violated(f"{note.detail} with a transaction open")
            return
        if any(stall.began <= note.ended and note.began <= stall.ended for stall in self.harness.stalls):
            return
        fair_s = self.clock.between(note.began, note.ended)
        self.peaks.lock_wait_s = max(self.peaks.lock_wait_s, fair_s)
        if fair_s > MAX_LOCK_WAIT_S:
            took_s = note.ended - note.began
            holders = "; ".join(
                f"{each.detail} had it for {each.ended - each.began:.1f} s until {each.ended - note.began:.1f} s"
                for each in held
                if each.began < note.ended and note.began < each.ended
            )
            self._violated(
                f"{note.detail} waited {took_s:.1f} s for the write lock, {fair_s:.1f} s of it by right, "
                f"{time.monotonic() - note.began:.0f} s ago; {holders or 'nobody tells to have had it'}"
            )

    def _look_at_metrics(self) -> None:
        restarts = self.harness.restarts
        try:
            scrape = self.harness.service.scrape()
            types = scrape.types()
            self.harness.keep_secrets(scrape.text, "/metrics")
        except (OSError, AssertionError, ValueError):
            return
        with contextlib.suppress(OSError):
            self.harness.keep_secrets(self.harness.service.get("/")[1], "the status page")
        self.metrics_looks += 1
        counters = {
            (sample.name, repr(sorted(sample.labels.items()))): sample.value
            for sample in scrape.samples()
            if _is_counter(sample.name, types)
        }
        if restarts != self._restarts or restarts != self.harness.restarts:
            self._restarts = self.harness.restarts
            self._counters = {}
            return
        for key, before in self._counters.items():
            now = counters.get(key)
            if now is None or now < before:
                self._violated(f"counter {key[0]}{key[1]} went from {before} to {now}")
        self._counters = counters


def _is_counter(name: str, types: "dict[str, str]") -> bool:
    """Counters of the service; those of a process begin anew with it."""
    if name.startswith("process_"):
        return False
    bases = (name, name.removesuffix("_bucket"), name.removesuffix("_count"), name.removesuffix("_sum"))
    return any(types.get(base) in _COUNTERS for base in bases)
