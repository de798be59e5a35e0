"""One stage as a process: its slot, logs, metrics, heartbeat, signals and lifeline, around a `run(ctx)`."""

import faulthandler
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import CannotStart
from pipeline.process import logs, metrics, procfs
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.heartbeat import Heartbeat, read_heartbeat
from pipeline.process.logs import Logger, get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.signals import StageSignals
from pipeline.process.slots import HeldSlot, Slot, acquire_slot
from pipeline.process.stop import Stop

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.process.exposition import ExpositionServer, Health

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CANNOT_START = 3
"""Restarting would not help; the supervisor stops everything."""

HEARTBEAT_LIMIT_S = 30.0
"""A stage whose last beat is older hangs."""

_log = get_logger("stage")
# How long a stage may take to end after its supervisor is gone, when nobody is left to kill it.
ORPHAN_GRACE_S = 20.0
# A supervisor that was killed leaves stages that hold their slots for as long as that.
_SLOT_WAIT_S = ORPHAN_GRACE_S + 5.0
_STDIN = 0


def _no_hangup(callback: Callable[[], None]) -> None:
    """Nothing ever hangs up."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage's `run` gets; everything in it may be used from every thread of the stage.

    `run` ends soon after `stop` is set, and calls `heartbeat.beat()` for the first time when it is ready and from then
    on at least every few seconds, from the loop that must not stand still.
    """

    config: "Config"
    clock: Clock
    stop: Stop
    slot: Slot
    metrics: Metrics
    heartbeat: Heartbeat
    log: Logger
    on_hangup: Callable[[Callable[[], None]], None] = _no_hangup
    """Takes what to run at SIGHUP (in the signal thread: only set something)."""

    @property
    def index(self) -> int:
        """The slot's number among those of the stage."""
        return self.slot.index


def run_stage(
    stage: str,
    index: int | None,
    config: "Config",
    run: Callable[[StageContext], None],
    *,
    supervised: bool,
) -> int:
    """Be the process of `stage` in slot `index` (None: the first free one) until `run` returns; gives the exit code.

    0: `run` returned; 3: `CannotStart`; 1: any other error, in `run` or in a thread. Called once per process, in its
    main thread. `supervised` says that standard input is a lifeline: its end means that the supervisor is gone.
    """
    faulthandler.enable()
    clock, stop = SystemClock(), Stop()
    logs.configure(config.log_level, stage)
    signals = StageSignals(stop, clock, supervised=supervised)
    if supervised:
        threading.Thread(target=_watch_lifeline, args=(stop,), name="lifeline", daemon=True).start()
    failed = _stop_when_threads_fail(stop)
    try:
        held = acquire_slot(
            config.runtime_directory, stage, index, wait_s=_SLOT_WAIT_S if supervised else 0.0, stop=stop
        )
        try:
            _run_in_slot(held, config, clock, stop, run, signals, supervised=supervised)
        finally:
            held.release()
    except CannotStart as error:
        _log.error("cannot start", error=str(error))
        return EXIT_OK if stop.is_set() else EXIT_CANNOT_START
    except Exception:
        _log.exception("stage failed")
        return EXIT_FAILED
    return EXIT_FAILED if failed.is_set() else EXIT_OK


def _run_in_slot(
    held: HeldSlot,
    config: "Config",
    clock: Clock,
    stop: Stop,
    run: Callable[[StageContext], None],
    signals: StageSignals,
    *,
    supervised: bool,
) -> None:
    slot = held.slot
    logs.configure(config.log_level, slot.name)
    procfs.set_process_name(slot.name)
    metrics.install(config.runtime_directory, slot.name)
    heartbeat = Heartbeat(config.runtime_directory, slot.name, clock)
    server = None if supervised else _expose(config, slot, clock)
    try:
        _log.info("stage started", pid=os.getpid())
        log = get_logger(slot.stage)
        run(
            StageContext(
                config, clock, stop, slot, Metrics(config.max_address_labels), heartbeat, log, signals.on_hangup
            )
        )
        _log.info("stage ended", reason=stop.reason or "nothing left to do")
    finally:
        if server is not None:
            server.close()
        heartbeat.close()


def _expose(config: "Config", slot: Slot, clock: Clock) -> "ExpositionServer | None":
    address = config.stage_listen_address
    if address is None:
        return None
    # Only here, since the web server's modules cost 20 ms that no supervised stage needs.
    from pipeline.process.exposition import ExpositionServer, render  # noqa: PLC0415

    directory = config.runtime_directory
    try:
        return ExpositionServer(
            address, lambda: render(directory, clock=clock), lambda: stage_health(directory, slot.name, clock)
        )
    except OSError as error:
        raise CannotStart(f"cannot listen on {address}: {error.strerror}") from error


def stage_health(runtime_directory: Path, slot_name: str, clock: Clock) -> "Health":
    """Whether the process in `slot_name` has beaten lately."""
    from pipeline.process.exposition import Health  # noqa: PLC0415  # as above

    reading = read_heartbeat(runtime_directory, slot_name, clock)
    if reading is None or not reading.ready:
        return Health(False, b'"starting"')
    ok = reading.alive and reading.age_s <= HEARTBEAT_LIMIT_S
    return Health(ok, json.dumps("ok" if ok else "hangs").encode())


def _watch_lifeline(stop: Stop) -> None:
    """Wait for the end of standard input, then stop, and end the process by force if it does not end."""
    while os.read(_STDIN, 1024):
        pass
    stop.set("supervisor gone")
    # Its timer runs outside the interpreter, so that it fires even when no Python code can run any more.
    faulthandler.dump_traceback_later(ORPHAN_GRACE_S, exit=True)


def _stop_when_threads_fail(stop: Stop) -> threading.Event:
    """Let an error that ends a thread end the stage; returns what tells that it happened."""
    failed = threading.Event()

    def hook(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "unknown"
        failed.set()
        _log.exception("thread failed", cause=args.exc_value, thread=name)
        stop.set(f"thread {name} failed")

    threading.excepthook = hook
    return failed
