"""One slot as its supervisor sees it: the process in it, its signs of life, and when it is started again."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.process import procfs
from pipeline.process.clock import Clock
from pipeline.process.heartbeat import read_heartbeat
from pipeline.process.procfs import ProcessUse
from pipeline.process.slots import Slot


class StageProcess(Protocol):
    """A process of a stage, as its supervisor holds it."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    def poll(self) -> int | None:
        """Reap it if it has ended; return its exit code, negative for a signal, or None while it runs."""
        ...

    def send_signal(self, number: signal.Signals, /) -> None:
        """Send it a signal, unless it was reaped."""
        ...

    def wait(self, timeout_s: float, /) -> int | None:
        """Return its exit code once it has ended; None after about `timeout_s`."""
        ...


Launch = Callable[[Slot], StageProcess]
"""Starts the process of a slot, whose standard input ends when this process does."""

# Ends in a row that are no accidents any more; by then about three seconds have passed.
CRASH_LOOP_FAILURES = 3
# A killed process is gone within moments, unless the kernel itself holds it; then nothing helps.
KILL_GRACE_S = 5.0
# So many times the first bound is the most processor time that a start may take: 16 minutes.
_MOST_DOUBLED = 16


class Child:
    """A slot under supervision; used by the supervisor's thread alone."""

    def __init__(self, slot: Slot, drain_order: int) -> None:
        self.slot = slot
        self.drain_order = drain_order
        self.failures = 0
        """Ends in a row without a healthy time before."""
        self.restart_at_s: float | None = None
        """When the process is to be started; None while there is one."""
        self.hung = False
        """Whether the process was killed for its silence."""
        self.reload_due = False
        """True if the process must be signalled that its settings have changed."""
        self.lacks_room = False
        """Whether the last process ended since a disk was full."""
        self._failed_starts = 0
        """Processes in a row that ended without a beat."""
        self._cpu_s = 0.0
        self._grown_s = 0.0
        self._process: StageProcess | None = None
        self._started_s = 0.0
        self._alive_s = 0.0
        self._beaten = False

    @property
    def name(self) -> str:
        """The slot's name."""
        return self.slot.name

    @property
    def running(self) -> bool:
        """True if there is a process that has not been reaped."""
        return self._process is not None

    @property
    def has_run(self) -> bool:
        """True if there ever was a process."""
        return self._started_s > 0.0

    @property
    def ready(self) -> bool:
        """True if the present process has beaten."""
        return self.running and self._beaten

    @property
    def pid(self) -> int | None:
        """The process's id; None when there is none."""
        return None if self._process is None else self._process.pid

    @property
    def healthy_for_s(self) -> float:
        """How long the process has shown life."""
        return self._alive_s - self._started_s

    def is_looping(self, healthy_s: float) -> bool:
        """Return True if it is crash-looping: it exited several times, and has not been well for `healthy_s` since."""
        return self.failures >= CRASH_LOOP_FAILURES and self.healthy_for_s < healthy_s

    def start(self, launch: Launch, now_s: float) -> None:
        """Start the process. Raises `OSError` when that cannot be done."""
        self._failed_starts = 0 if self._beaten else self._failed_starts + self.has_run
        self._started_s = self._alive_s = self._grown_s = now_s
        self._cpu_s = 0.0
        self._beaten = self.hung = self.reload_due = self.lacks_room = False
        self._process = launch(self.slot)
        self.restart_at_s = None

    def reap(self) -> int | None:
        """Return the exit code of an ended process (negative: by that signal); None if there is nothing to reap."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is not None:
            self._process = None
        return code

    def read_heartbeat(self, runtime_directory: Path, clock: Clock) -> None:
        """Take note of the process's latest sign of life."""
        reading = read_heartbeat(runtime_directory, self.name, clock)
        # A former process of the slot may have left its own, or still be ending.
        if reading is not None and reading.ready and reading.pid == self.pid:
            self._beaten = True
            self._alive_s = max(self._alive_s, clock.monotonic() - reading.age_s)
        elif not self._beaten and self.pid is not None:
            self._note_progress(procfs.process_use(self.pid), clock.monotonic())

    def _note_progress(self, use: ProcessUse | None, now_s: float) -> None:
        """Take note that the process, which has sent no heartbeat yet, gets on with its start."""
        if use is not None and use.cpu_s > self._cpu_s:
            self._cpu_s, self._grown_s = use.cpu_s, now_s

    def reset_heartbeat_timer(self, now_s: float) -> None:
        """Count its silence from `now_s`, as after a time in which no process could run."""
        self._alive_s = self._grown_s = now_s

    def is_hung(self, now_s: float, beat_limit_s: float, first_beat_limit_s: float) -> bool:
        """Return True if a running process has been silent for longer than it may.

        Before its first beat it may be as long as it takes on a busy machine: it hangs when its processor time does not
        grow for `first_beat_limit_s`, or has come to that, and twice that with each failed start before.
        """
        if self._beaten or not self.running:
            return self.running and now_s - self._alive_s > beat_limit_s
        most_cpu_s = min(first_beat_limit_s * 2**self._failed_starts, first_beat_limit_s * _MOST_DOUBLED)
        return now_s - self._grown_s > first_beat_limit_s or self._cpu_s > most_cpu_s

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def pass_reload_on(self) -> None:
        """Tell the process to reload if that is due and it can take the signal, as it can once it has beaten."""
        if self.reload_due and self.ready:
            self.reload_due = False
            self.send(signal.SIGHUP)

    def kill(self) -> None:
        """End the process by force and reap it, as far as the kernel allows within moments."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(KILL_GRACE_S)
            self.reap()
