"""Stages as forks of the supervisor, which has imported what they need: quick to start, and most of memory is shared.

A fork inherits everything, so a child begins by dropping what is the supervisor's:

    signals                blocked over the fork, and until the stage has handlers of its own (`StageSignals`)
    wake-up descriptor     none, or a signal to the child would be written into the supervisor's pipe
    files                  all closed but standard output and error; standard input is the lifeline. An inherited lock
                           would outlive the supervisor, an inherited end of a sibling's lifeline its end
    environment            that of a stage
    metrics files          closed
    stack                  never unwound: the child leaves by `os._exit`

The supervisor has one thread, and no connection to a database or a sink.
"""

import contextlib
import gc
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NoReturn

from pipeline.process import metrics, procfs
from pipeline.process.child import Launch
from pipeline.process.clock import pause
from pipeline.process.slots import Slot

# What systemd passes to the supervisor is not meant for its children, only a stage run alone has a web server of its
# own, and the supervisor's choice of metrics files, which it makes through its environment, is for itself.
_NOT_FOR_STAGES: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "EVENTS_STAGE_LISTEN_ADDRESS",
    "PROMETHEUS_MULTIPROC_DIR",
)
_LOOK_EVERY_S: Final = 0.01
_STDIN: Final = 0
_LAST_STANDARD: Final = 2


class ForkedProcess:
    """A child of this process, and the end of its lifeline that is held here. For one thread."""

    __slots__ = ("_code", "_lifeline", "pid")

    def __init__(self, pid: int, lifeline: int) -> None:
        self.pid = pid
        self._lifeline: int | None = lifeline
        self._code: int | None = None

    def poll(self) -> int | None:
        """Reap it if it has ended; return its exit code, negative for a signal, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
                self._let_go()
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it was reaped."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> int | None:
        """Return its exit code once it has ended; None after about `timeout_s`."""
        for _ in range(1 + round(timeout_s / _LOOK_EVERY_S)):
            if (code := self.poll()) is not None:
                return code
            pause(_LOOK_EVERY_S)
        return None

    def _let_go(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def forker(run: Callable[[Slot], int], env: Mapping[str, str], runtime_directory: Path) -> Launch:
    """Return what forks a process for a slot, which calls `run` and ends with the exit code that this returns.

    `env`: the environment, less what is not for stages. To be called when all is imported.
    """
    stage_env = {name: value for name, value in env.items() if name not in _NOT_FOR_STAGES}
    stage_env["EVENTS_RUNTIME_DIRECTORY"] = str(runtime_directory)
    # A collection in a child would touch, and so copy, every page of what was imported.
    gc.collect()
    gc.freeze()

    def launch(slot: Slot) -> ForkedProcess:
        _flush()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if not pid:
                _be_child(slot, reader, run, stage_env)
        except OSError:
            os.close(writer)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(reader)
        return ForkedProcess(pid, writer)

    return launch


def _be_child(slot: Slot, lifeline: int, run: Callable[[Slot], int], env: Mapping[str, str]) -> NoReturn:
    code = 1
    try:
        _begin_clean(lifeline, env)
        of_sink = ("--sink", slot.sink) if slot.sink else ()
        sys.argv[:] = ("event-service", "stage", slot.stage, *of_sink, "--slot", str(slot.index))
        procfs.set_command_line(sys.argv)
        code = run(slot)
    except SystemExit as leaving:
        # How a command ends that says in one line what is wrong.
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            _flush()
        os._exit(code)


def _begin_clean(lifeline: int, env: Mapping[str, str]) -> None:
    """Drop what is the supervisor's; signals stay blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    # Before its files are closed under it.
    metrics.uninstall()
    os.dup2(lifeline, _STDIN)
    _close_inherited()
    # Out of reach of what a terminal or timeout(1) sends to our group: the supervisor stops stages in order.
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(env)


def _close_inherited() -> None:
    descriptors = procfs.open_descriptors()
    if descriptors is None:
        os.closerange(_LAST_STANDARD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        return
    for descriptor in descriptors:
        if descriptor > _LAST_STANDARD:
            # The one that the list was read by is closed.
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _flush() -> None:
    """Write what is buffered, or a fork would write it once more."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
