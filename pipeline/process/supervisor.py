"""Keeps all stages running as child processes, and ends them in order; `supervision` makes a process of it."""

import random
import selectors
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.printable import count_of
from pipeline.process.child import Child, Launch
from pipeline.process.clock import Clock
from pipeline.process.drain import Drain
from pipeline.process.heartbeat import MAX_STATUS_BYTES, Heartbeat
from pipeline.process.logs import get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.notify import Notifier
from pipeline.process.restart import RestartPolicy
from pipeline.process.signals import ASKS_TO_STOP, SignalPipe, StopRequest, StopRequests
from pipeline.process.slots import Slot
from pipeline.process.stage import (
    EXIT_CANNOT_START,
    EXIT_FAILED,
    EXIT_NO_ROOM,
    EXIT_OK,
    HEARTBEAT_LIMIT_S,
    SLOT_WAIT_S,
)
from pipeline.process.stop import Stop

SLOT_NAME = "supervisor"
"""The name of the supervisor's own process in logs, metrics and files."""
NO_ROOM = "disk is full"
"""What the supervisor says of itself begins with this while stages wait for room."""
EXTEND_S = 90.0
"""How much longer systemd is asked to wait while the service starts, and is at it: longer than a hang is noticed in."""
EXTEND_EVERY_S = 10.0
_log = get_logger("supervisor")


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage that runs as `count` processes; stages with the lowest `drain_order` are ended first.

    `sink`: see `Slot`.
    """

    name: str
    count: int
    drain_order: int
    sink: str = ""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long things may take, in seconds."""

    beat_limit_s: float = HEARTBEAT_LIMIT_S
    first_beat_limit_s: float = 60.0
    """Opening a large database after a crash takes longer than a turn of any loop."""
    drain_s: float = 60.0
    """For all stages together; systemd's `TimeoutStopSec` must be longer."""
    check_s: float = 2.0
    """Between two looks at the heartbeats; half of it while a stage is missing."""
    starting_check_s: float = 0.1
    """The same until all stages have beaten once."""
    lock_wait_s: float = SLOT_WAIT_S
    """For another supervisor to end, as one does that is being restarted."""
    stall_s: float = 5.0
    """A look that comes later than this says that the machine stood still, not that the stages hang."""
    room_check_s: float = 5.0
    """Between two looks whether a full disk has room again."""
    restart: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(frozen=True, slots=True)
class SupervisorEnvironment:
    """What the supervisor finds around itself."""

    runtime_directory: Path
    clock: Clock
    stop: Stop
    """Set from outside or by a signal: drain and end."""
    notifier: Notifier
    metrics: Metrics
    heartbeat: Heartbeat
    rng: random.Random = field(default_factory=random.SystemRandom)
    timeouts: Timeouts = field(default_factory=Timeouts)
    has_moved: Callable[[], bool] = lambda: False
    """True if another file, or none, is where the database was."""
    has_room: Callable[[], bool] = lambda: True
    """True if the disk of the database has room for what a stage writes."""
    reload: Callable[[], bool] | None = None
    """What SIGHUP does before running stages get it too; returns whether they are to. None: it ends all."""


class Supervisor:
    """Starts, watches, restarts and ends the processes of `specs`; single-threaded, in the main thread."""

    def __init__(self, specs: Sequence[StageSpec], launch: Launch, environment: SupervisorEnvironment) -> None:
        self._launch = launch
        self._environment = environment
        self._clock, self._times, self._notifier = environment.clock, environment.timeouts, environment.notifier
        self._children = [
            Child(Slot(spec.name, index, spec.sink), spec.drain_order) for spec in specs for index in range(spec.count)
        ]
        self._drain: Drain | None = None
        self._stop_requests = StopRequests(environment.clock)
        self._exit_code = EXIT_OK
        self._ready = False
        self._status = ""
        self._checked_s = self._check_at_s = self._extend_at_s = 0.0

    def run(self) -> int:
        """Supervise until stopped; return the exit code.

        0: all stages were ended and none had to be killed; 3: a stage cannot start and not all have run before, which
        would be an accident; 1: anything else.
        """
        signals = SignalPipe((*ASKS_TO_STOP, signal.SIGCHLD), hangup_ends=self._environment.reload is None)
        selector = selectors.DefaultSelector()
        selector.register(signals, selectors.EVENT_READ)
        selector.register(self._environment.stop, selectors.EVENT_READ)
        now_s = self._clock.monotonic()
        self._checked_s = self._check_at_s = now_s
        for child in self._children:
            child.restart_at_s = now_s
        try:
            while not self._turn(signals):
                selector.select(self._idle_s())
                if self._drain is not None and self._environment.stop in selector.get_map():
                    # It stays readable for ever.
                    selector.unregister(self._environment.stop)
        finally:
            # All have ended, except after an error of ours; then no stage must stay behind.
            for child in self._children:
                child.kill()
            selector.close()
            signals.close()
        return self._exit_code

    def _turn(self, signals: SignalPipe) -> bool:
        """Do everything that is due; return True if all is over."""
        for number in signals.read():
            self._take_signal(signal.Signals(number))
        self._reap()
        now_s = self._clock.monotonic()
        if self._environment.stop.is_set() and self._drain is None:
            self._begin_drain(now_s)
        self._check(now_s)
        if self._drain is None:
            self._start_due(now_s)
            return False
        if not self._drain.step(now_s):
            return False
        if not self._drain.clean and self._exit_code == EXIT_OK:
            self._exit_code = EXIT_FAILED
        return True

    def _idle_s(self) -> float:
        due = [self._check_at_s]
        if self._drain is not None:
            due.append(self._drain.deadline_s)
        else:
            due.extend(child.restart_at_s for child in self._children if child.restart_at_s is not None)
        return max(0.0, min(due) - self._clock.monotonic())

    def _take_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP and self._environment.reload is not None:
            if self._drain is None and self._environment.reload():
                for child in self._children:
                    child.reload_due = True
                    child.pass_reload_on()
            return
        wish = self._stop_requests.on_signal(number)
        if wish is StopRequest.STOP:
            self._environment.stop.set(number.name)
        elif wish is StopRequest.STOP_AT_ONCE and self._drain is not None:
            _log.error("told to stop once more", signal=number.name)
            self._drain.kill_all(self._clock.monotonic())

    def _begin_drain(self, now_s: float) -> None:
        self._notifier.stopping()
        _log.info("stopping", reason=self._environment.stop.reason)
        self._drain = Drain(self._children, now_s, self._times.drain_s)

    def _start_due(self, now_s: float) -> None:
        for child in self._children:
            if child.restart_at_s is None or child.restart_at_s > now_s:
                continue
            if child.has_run and self._environment.has_moved():
                _log.error("the database was moved away or replaced, ending all", stage=child.name)
                self._exit_code = EXIT_CANNOT_START
                self._environment.stop.set("the database was moved away or replaced")
                return
            if child.lacks_room and not self._environment.has_room():
                child.restart_at_s = now_s + self._times.room_check_s
                continue
            try:
                child.start(self._launch, now_s)
            except OSError as error:
                _log.error("stage cannot be launched", stage=child.name, error=error)
                self._plan_restart(child, now_s)
            else:
                _log.info("stage launched", stage=child.name, pid=child.pid, failures=child.failures)

    def _reap(self) -> None:
        for child in self._children:
            pid, code = child.pid, child.reap()
            if code is not None:
                self._on_exit(child, pid, code)

    def _on_exit(self, child: Child, pid: int | None, code: int) -> None:
        if self._drain is not None or self._environment.stop.is_set():
            _log.info("stage ended", stage=child.name, pid=pid, how=_how(code))
            # One that was stopped while its interpreter started is killed by the signal itself.
            if code not in (EXIT_OK, -signal.SIGTERM) and self._exit_code == EXIT_OK:
                self._exit_code = EXIT_FAILED
            return
        reason = "hung" if child.hung else "signal" if code < 0 else "no-room" if code == EXIT_NO_ROOM else "exit"
        self._environment.metrics.stage_exits.labels(child.name, reason).inc()
        if code == EXIT_CANNOT_START and not self._ready:
            _log.error("stage cannot start, ending all", stage=child.name, pid=pid)
            self._exit_code = EXIT_CANNOT_START
            self._environment.stop.set(f"{child.name} cannot start")
            return
        now_s = self._clock.monotonic()
        # Health is updated at once, or would miss that a stage is away for a moment.
        self._check_at_s = now_s
        if code == EXIT_NO_ROOM:
            # An accident of the disk, not of the stage: it waits for room, however often.
            child.lacks_room, child.restart_at_s = True, now_s + self._times.room_check_s
            _log.error("disk is full, stage waits for room", stage=child.name, pid=pid)
            return
        delay_s = self._plan_restart(child, now_s)
        _log.error(
            "stage exited unexpectedly", stage=child.name, pid=pid, how=_how(code), restart_in_s=round(delay_s, 1)
        )

    def _plan_restart(self, child: Child, now_s: float) -> float:
        restart = self._times.restart.after_exit(child.failures, child.healthy_for_s, now_s, self._environment.rng)
        child.failures, child.restart_at_s = restart.failures, restart.at_s
        return restart.at_s - now_s

    def _check(self, now_s: float) -> None:
        """Read the heartbeats when due, and report to systemd."""
        if now_s < self._check_at_s:
            return
        stalled = now_s - self._checked_s > self._times.stall_s
        self._checked_s = now_s
        silent = False
        for child in self._children:
            if stalled:
                child.reset_heartbeat_timer(now_s)
            child.read_heartbeat(self._environment.runtime_directory, self._clock)
            child.pass_reload_on()
            if child.is_hung(now_s, self._times.beat_limit_s, self._times.first_beat_limit_s):
                silent = True
                self._kill_hung(child)
        self._environment.heartbeat.beat(self._report()[:MAX_STATUS_BYTES])
        # A restart is under way wherever a stage is missing; what a watchdog must end is silence that kills cannot end.
        if not silent:
            self._notifier.watchdog()
            if not self._ready and self._drain is None and now_s >= self._extend_at_s:
                self._extend_at_s = now_s + EXTEND_EVERY_S
                self._notifier.extend(EXTEND_S)
        self._check_at_s = now_s + self._check_interval_s()

    def _check_interval_s(self) -> float:
        interval_s = self._times.check_s if all(child.ready for child in self._children) else self._times.check_s / 2
        if not self._ready:
            interval_s = self._times.starting_check_s
        watchdog_s = self._notifier.watchdog_interval_s
        return interval_s if watchdog_s is None else min(interval_s, watchdog_s / 2)

    def _kill_hung(self, child: Child) -> None:
        # While draining the group's deadline decides; a stage that flushes may not beat.
        if not child.hung and self._drain is None:
            _log.error("stage hangs, killing it", stage=child.name, pid=child.pid)
            child.hung = True
            child.send(signal.SIGKILL)

    def _report(self) -> str:
        """Tell systemd of readiness, and of the state when it has changed; return what is wrong."""
        missing = [child.name for child in self._children if not child.ready]
        problems = self._problems(missing)
        if self._drain is not None:
            status = f"stopping, {count_of(sum(child.running for child in self._children), 'stage')} left"
        else:
            ready = len(self._children) - len(missing)
            status = ", ".join([f"{ready} of {count_of(len(self._children), 'stage')} run", *problems])
        if not missing and not self._ready and self._drain is None:
            self._ready = True
            _log.info("all stages run")
            self._notifier.ready(status)
        elif status != self._status:
            self._notifier.status(status)
        self._status = status
        return "; ".join(problems)

    def _problems(self, missing: Sequence[str]) -> list[str]:
        """Return what keeps the stages that are `missing` from running."""
        looping = [
            child.name
            for child in self._children
            if child.is_looping(self._times.restart.healthy_s) and not child.lacks_room
        ]
        lacking = [child.name for child in self._children if child.lacks_room]
        waited_for = [name for name in missing if name not in looping and name not in lacking]
        problems = [f"{NO_ROOM}: {', '.join(lacking)} wait for room"] if lacking else []
        problems += [f"waiting for {', '.join(waited_for)}"] if waited_for else []
        return problems + [f"{name} is crash-looping" for name in looping]


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
