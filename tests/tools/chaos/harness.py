"""The service under test, and everything that faults need to know and to do about it."""

import math
import os
import random
import signal
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from tests.fakes.child import ChildFailed
from tests.fakes.net import pause
from tests.fakes.procs import Process, process, session_members
from tests.fakes.service import EventService, StageProcess, settings
from tests.tools.chaos import hooks
from tests.tools.chaos.cpu_delay import CompensatedClock
from tests.tools.chaos.environment import REACH_S, Environment
from tests.tools.chaos.health import complains_of_others
from tests.tools.chaos.health_oracle import SinkState, SinkStatus
from tests.tools.chaos.patched_source import PatchedSource
from tests.tools.chaos.queues import FILE, PUBSUB, RELAY, Queues
from tests.tools.chaos.secrets import Secrets
from tests.tools.chaos.upgrade import leave_behind, versions

CRAWLERS = 2
EXPECTED = frozenset(
    {("crawler", 0), ("crawler", 1), *((name, 0) for name in ("saver", "forwarder", "sender", "server", "sweeper"))}
)
"""The processes that `supervise` keeps: stage and slot."""
ORPHAN_LIMIT_S = 30.0
"""Stages whose supervisor is gone have ended by then."""
_GIVE_UP_S = 240.0
START_LIMIT_S = 180.0
"""Far more than it takes: nothing is judged by it, the run just ends."""
MAX_CLOCK_ERROR_S = 6 * 3600
"""By how much clocks jump at most; what is asked for reaches back as much further."""
_STALL_SLACK_S = 1.0
_TICK_S = 0.2
# After so long without the lock a stage gives up, and some more.
_BUSY_S = 90.0
_UPGRADE_KILL_S = (0.1, 1.5)
_FREEZE_LIMIT_S = 30.0
# The end of a log, to see why something did not start.
_TOLD = 4_000
_STEP_S = 0.01


@dataclass(slots=True)
class Allowance:
    """How often each event may come once more to a sink: once for each time that it was on its way when one broke."""

    repeats: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unreliable_periods: list[tuple[str, float, float]] = field(default_factory=list)
    """Sinks and times (Unix seconds) in which what a sink took could not be written down, or it said it had not."""

    def was_unreliable(self, sink: str, at: float) -> bool:
        """Whether what the sink took at this time may come once more."""
        return any(name == sink and begin <= at <= end for name, begin, end in self.unreliable_periods)

    def add(self, sink: str, event_ids: Iterable[str]) -> None:
        """Allow each of these events one repeat."""
        self.repeats[sink].update(event_ids)


@dataclass(slots=True)
class Stall:
    """A time (monotonic seconds) in which stages were made to stand still, or the database was taken from them."""

    began: float
    ended: float = math.inf


@dataclass(slots=True)
class ChaosHarness:
    """One service in one environment; used by one thread, but for what it samples."""

    environment: Environment
    service: EventService
    queues: Queues
    tree: PatchedSource
    rng: random.Random
    secrets: Secrets
    clock: CompensatedClock = field(default_factory=lambda: CompensatedClock(time.monotonic()))
    allowance: Allowance = field(default_factory=Allowance)
    manual_stages: list[EventService] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    restarts: int = 0
    """How often the service as a whole was started again; its counters begin anew then."""
    uncertain_faults: int = 0
    """Faults under way of which it is nobody's guess what health says."""
    is_alone: bool = False
    """Whether no other fault was under way when the last one began."""
    expected_problem: str = ""
    """What is wrong that health must tell, however well all processes look; empty when nothing is."""
    killed_pids: set[int] = field(default_factory=set)
    """Processes that were killed or stopped on purpose; others have no reason to hang."""
    has_small_disk: bool = False
    """Whether the database is on a disk that may be filled."""
    frames_lost: int = 0
    """Frames of the write-ahead log that were lost with the power."""
    sectors_lost: int = 0
    """Sectors of the database's own file that were."""
    behaviours: set[str] = field(default_factory=set)
    """Of those that the completeness command knows, which some relay has shown."""
    upgraded_from: int = 0
    """How many migrations the database had when the run began."""
    points_asked: Counter[str] = field(default_factory=Counter)
    """How often a stage was sent to each named point."""
    points_reached: Counter[str] = field(default_factory=Counter)
    """How often one was killed there."""
    sinks: dict[str, SinkState] = field(
        default_factory=lambda: {sink: SinkState(SinkStatus.WELL, time.monotonic()) for sink in (PUBSUB, RELAY)}
    )
    """How each sink stands by what was done to it."""
    file: Path | None = None
    """Where the second sink writes, if there is one."""
    stalls: list[Stall] = field(default_factory=list)
    """When somebody may have held the write lock longer than by right, since we made them."""

    @property
    def expected(self) -> frozenset[tuple[str, int]]:
        """The processes that `supervise` keeps."""
        return EXPECTED if self.file is None else EXPECTED | {(f"forwarder-{FILE}", 0)}

    @property
    def hooks(self) -> Path:
        """The folder by which what runs inside the service is told what to do; see `tests.tools.chaos.hooks`."""
        return self.service.directory / "hooks"

    @property
    def points(self) -> Path:
        """The folder in which stages are told where to stop."""
        return hooks.points_in(self.hooks)

    @contextmanager
    def stalled(self, since: float | None = None) -> Iterator[None]:
        """Meanwhile, from `since` on, and for a moment after, nobody is blamed for waiting."""
        stall = Stall(time.monotonic() if since is None else since)
        self.stalls.append(stall)
        try:
            yield
        finally:
            stall.ended = time.monotonic() + _STALL_SLACK_S

    @contextmanager
    def sink_is(self, sink: str, standing: SinkStatus) -> Iterator[None]:
        """Meanwhile the sink stands like that, and well afterwards."""
        self.sinks[sink] = SinkState(standing, time.monotonic())
        try:
            yield
        finally:
            self.sinks[sink] = SinkState(SinkStatus.WELL, time.monotonic())

    @classmethod
    def start(
        cls,
        environment: Environment,
        directory: Path,
        tree: PatchedSource,
        rng: random.Random,
        *,
        resweep: bool,
        wrong_s: float = 0.0,
        file: Path | None = None,
    ) -> "ChaosHarness":
        """Start the service on `environment`, PRODUCTION, with everything that it needs to find all of it.

        Its database is in `directory/disk`, which may be a disk of its own.
        `wrong_s`: by how much its clock is wrong, until somebody sets it.
        `file`: where a second sink writes, beside Pub/Sub.
        `resweep`: it sweeps the whole horizon again and again, and so finds what came late while it was not looking.
        """
        secrets = Secrets.make(directory, rng)
        env = settings(
            relays=environment.urls,
            target=environment.target.url,
            pubsub=environment.pubsub.address,
            EVENTS_CRAWLERS=str(CRAWLERS),
            EVENTS_BACKFILL=f"{REACH_S + MAX_CLOCK_ERROR_S}s",
            EVENTS_NEW_AUTHOR_LOOKBACK=f"{REACH_S + MAX_CLOCK_ERROR_S}s",
            EVENTS_RESWEEP_WINDOW=f"{REACH_S + MAX_CLOCK_ERROR_S}s",
            EVENTS_RESWEEP_EVERY="30s" if resweep else "0s",
            EVENTS_DATABASE_PATH=str(directory / "disk" / "events.db"),
            **secrets.env,
            EVENTS_SINK="pubsub" if file is None else f"pubsub,{FILE}:{file}",
            CHAOS_FOLDER=str(directory / "hooks"),
            **tree.env(),
        )
        hooks.prepare(directory / "hooks")
        hooks.clock_in(directory / "hooks").write_bytes(struct.pack("=q", round(wrong_s * 1e9)))
        (directory / "disk").mkdir(exist_ok=True)
        service = EventService(directory, env)
        service.database = directory / "disk" / "events.db"
        harness = cls(environment, service, Queues(service.database), tree, rng, secrets, file=file)
        harness.upgraded_from = harness._begin_with_an_earlier_version()
        service.start(timeout_s=START_LIMIT_S)
        return harness

    def _begin_with_an_earlier_version(self) -> int:
        """Let the service find a database of one, and half of the time be killed while it is made a new one."""
        steps = self.rng.randint(1, versions())
        leave_behind(self.service.database, steps, self.environment.peers[0].url, self.environment.left_behind())
        if self.rng.random() < 0.5:
            self.service.start(wait=False)
            pause(self.rng.uniform(*_UPGRADE_KILL_S))
            self.kill_all()
        return steps

    def keep_secrets(self, text: str, where: str) -> None:
        """Note it where `text`, which is for others to see, holds a secret."""
        if (told := self.secrets.told_in(text)) is not None:
            self.violations.append(f"the {told} is told in {where}")

    def is_left_alone(self, since: float) -> bool:
        """Whether nothing was done since then (monotonic seconds) that may end a stage, and nothing is being done."""
        return not self.uncertain_faults and all(stall.ended < since for stall in self.stalls)

    def stages(self, name: str | None = None) -> list[StageProcess]:
        """The living stages, those started by hand too."""
        found: list[StageProcess] = []
        for each in (self.service, *self.manual_stages):
            with suppress(AssertionError):
                found += each.stages(name)
        return found

    def supervisors(self) -> list[int]:
        """The processes that were started as such, by id."""
        return [each.child.pid for each in (self.service, *self.manual_stages) if each.running]

    def some_stage(self, name: str | None = None) -> StageProcess | None:
        """One of the supervised stages, by chance; `None` when none runs."""
        running = [one for one in self.service.stages(name) if one.slot is not None]
        return self.rng.choice(sorted(running, key=lambda one: (one.name, one.slot))) if running else None

    @contextmanager
    def frozen(self, stages: Iterable[StageProcess]) -> Iterator[None]:
        """Let the stages stand still meanwhile, so that what they hold can be told exactly."""
        held = list(stages)
        with self.stalled():
            for one in held:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGSTOP)
            for one in held:
                _wait_stopped(one.pid)
            try:
                yield
            finally:
                for one in held:
                    with suppress(ProcessLookupError):
                        os.kill(one.pid, signal.SIGCONT)

    def allow_in_flight(self, *sinks: str) -> None:
        """What is on its way to these sinks may come once more; call while those who carry it stand still."""
        for sink in sinks or (PUBSUB, RELAY):
            self.allowance.add(sink, self.queues.in_flight(sink))

    def carriers(self) -> list[StageProcess]:
        """The stages that hand events on."""
        return [*self.stages("forwarder"), *self.stages("sender")]

    def kill_stages(self, stages: list[StageProcess]) -> None:
        """SIGKILL, with what they carried allowed to come again."""
        carries = any(one.name in ("forwarder", "sender") for one in stages)
        with self.frozen(stages):
            if carries:
                self.allow_in_flight()
            for one in stages:
                self.killed_pids.add(one.pid)
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """SIGKILL to the supervisor alone; its stages must end by themselves."""
        with self.frozen(self.carriers()):
            self.allow_in_flight()
            self.service.kill()
        began = time.monotonic()
        while left := session_members(self.service.child.pid):
            self.tick()
            if self.clock.between(began, time.monotonic()) > ORPHAN_LIMIT_S:
                self.violations.append(f"stages outlive their supervisor by {ORPHAN_LIMIT_S} s: {_names(left)}")
                return
            pause(0.1)

    def kill_all(self) -> None:
        """SIGKILL to everything at once, what was started by hand too."""
        for each in (*self.manual_stages, self.service):
            _kill_at_once(each)
            each.close()
        self.manual_stages.clear()

    def start_again(self) -> None:
        """Start the service again after its end."""
        self.restarts += 1
        self.service.start(wait=False)
        self._wait_running()

    def _wait_running(self) -> None:
        """Until all stages do what they can: a sink that is down keeps health from being good."""
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            with suppress(OSError, ValueError):
                status, body = self.service.get("/_health")
                if status == HTTPStatus.OK or complains_of_others(body):
                    return
            if not self.service.running or time.monotonic() > deadline:
                raise ChildFailed(f"not running within {START_LIMIT_S} s\n{self.service.log_text()[-_TOLD:]}")
            pause(_TICK_S)

    def stop_in_order(self) -> None:
        """SIGTERM to those started by hand and to the supervisor; anything but an orderly end is noted."""
        self.stop_by_hand()
        before = (self.queues.in_flight(PUBSUB), self.queues.in_flight(RELAY))
        if self.end_in_order() != 0:
            for sink, event_ids in zip((PUBSUB, RELAY), before, strict=True):
                self.allowance.add(sink, event_ids)

    def end_in_order(self) -> int:
        """SIGTERM to the supervisor; its exit code. Notes it unless that is 0, or the machine took half of the time."""
        child, began = self.service.child, time.monotonic()
        child.signal(signal.SIGTERM)
        while child.running and time.monotonic() - began < _GIVE_UP_S:
            pause(_TICK_S)
            self.tick()
        code = child.wait(_TICK_S)
        fair_s = self.clock.between(began, time.monotonic())
        took_s = time.monotonic() - began
        if code != 0 and fair_s > took_s / 2:
            self.violations.append(f"told to stop, the service ended with exit code {code} after {took_s:.0f} s")
        return code

    def tick(self) -> None:
        """Let the compensated clock advance; to be called every moment."""
        pids = [os.getpid(), *self.supervisors(), *(one.pid for one in self.stages())]
        self.clock.tick(time.monotonic(), pids)

    def stop_by_hand(self) -> None:
        """End the stages that were started by hand.

        One that is told so while its interpreter starts dies of the signal; one whose database was taken from it lately
        has its own reason.
        """
        alone = self.is_left_alone(time.monotonic() - _BUSY_S)
        for each in self.manual_stages:
            if each.running:
                # It may have been in the slot of the stage that was to be frozen, and no supervisor ends it.
                each.child.signal(signal.SIGCONT)
                code = each.stop(_GIVE_UP_S)
                if code not in (0, -signal.SIGTERM) and alone:
                    self.violations.append(f"told to stop, a stage run by hand ended with exit code {code}")
            each.close()
        self.manual_stages.clear()

    def close(self) -> None:
        """End everything at once."""
        self.kill_all()


def _kill_at_once(service: EventService) -> None:
    """Kill a supervisor and its stages such that none of them notices the end of another.

    The kernel wakes stopped children of a process that ends (SIGHUP and SIGCONT to an orphaned process group), and they
    would end in good order; so the supervisor, stopped itself, goes last.
    """
    if not service.running:
        return
    supervisor = service.child.pid
    with suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGSTOP)
        _wait_stopped(supervisor)
    for one in service.processes():
        if one.pid != supervisor:
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)


def _wait_stopped(pid: int) -> None:
    deadline = time.monotonic() + _FREEZE_LIMIT_S
    while (one := process(pid)) is not None and one.alive and one.state not in "Tt":
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not stop")
        pause(_STEP_S)


def _names(left: list[Process]) -> str:
    return "; ".join(" ".join(one.command[-5:]) for one in left)
