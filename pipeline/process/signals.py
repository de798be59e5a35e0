"""Signals as data: the handlers do nothing, the C runtime writes each number into a pipe, and a reader acts on it.

So nothing of ours runs inside a handler, where a lock that the interrupted code holds would never be freed.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable
from enum import Enum, auto
from types import FrameType

from pipeline.process.clock import Clock
from pipeline.process.stop import Stop

# `timeout(1)` and some terminals send a signal to the process and to its group: one this soon is the same request.
REPEAT_AFTER_S = 0.2
ASKS_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest(Enum):
    """What a signal asks for."""

    NOTHING = auto()
    STOP = auto()
    STOP_AT_ONCE = auto()


class StopRequests:
    """Stop requests of a process: the first signal, and one that asks again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first_s: float | None = None

    def on_signal(self, number: int) -> StopRequest:
        """Return what signal `number` asks for, given those before it."""
        if number not in ASKS_TO_STOP:
            return StopRequest.NOTHING
        now_s = self._clock.monotonic()
        if self._first_s is None:
            self._first_s = now_s
            return StopRequest.STOP
        # A terminal that goes away may say so twice.
        again = number != signal.SIGHUP and now_s - self._first_s >= REPEAT_AFTER_S
        return StopRequest.STOP_AT_ONCE if again else StopRequest.NOTHING


class SignalPipe:
    """Pipe that has the signals `numbers` as bytes, from construction to `close`; main thread only."""

    def __init__(self, numbers: Iterable[signal.Signals], *, hangup_ends: bool = True) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._former_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # nohup(1) and its like start us with SIGHUP ignored, and mean that it must not end us.
        ignored = {signal.SIGHUP} if hangup_ends and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
        self._numbers = frozenset(numbers) - ignored
        self._former = {number: signal.signal(number, _ignore) for number in self._numbers}

    def fileno(self) -> int:
        """Return the descriptor to watch: readable when signals wait."""
        return self._reader

    def read(self) -> list[int]:
        """Return the signals that have come since the last call, in order; never waits."""
        with contextlib.suppress(BlockingIOError):
            return [number for number in os.read(self._reader, 4096) if number in self._numbers]
        return []

    def close(self) -> None:
        """Put everything back as it was."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_wakeup)
        os.close(self._writer)
        os.close(self._reader)


class StageSignals:
    """What signals mean to a stage: SIGTERM and SIGINT set `stop`, a later one ends the process at once, exit code 1.

    A supervised stage leaves SIGINT, which a terminal sends to everybody, to its supervisor. SIGHUP calls `hangup`, in
    the watching thread, and is a SIGTERM where there is none.
    """

    def __init__(
        self, stop: Stop, clock: Clock, *, supervised: bool, hangup: Callable[[], object] | None = None
    ) -> None:
        self._stop = stop
        self._requests = StopRequests(clock)
        self._hangup = hangup
        if supervised:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        numbers = (number for number in ASKS_TO_STOP if not supervised or number != signal.SIGINT)
        self._pipe = SignalPipe(numbers, hangup_ends=hangup is None)
        # A fork begins with all of them blocked, so that none is lost before this.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def _watch(self) -> None:
        os.set_blocking(self._pipe.fileno(), True)
        while True:
            for number in self._pipe.read():
                self._take(signal.Signals(number))

    def _take(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP and self._hangup is not None:
            self._hangup()
            return
        request = self._requests.on_signal(number)
        if request is StopRequest.STOP:
            self._stop.set(number.name)
        elif request is StopRequest.STOP_AT_ONCE:
            os._exit(1)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Python writes to the wake-up descriptor only for signals that have a handler."""
