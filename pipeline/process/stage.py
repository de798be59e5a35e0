"""One stage as a process: its slot, logs, metrics, heartbeat, signals and lifeline, around a `run(ctx)`."""

import faulthandler
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import CannotStart, NoRoom, Outdated
from pipeline.process import logs, metrics, procfs, profiling
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.doorbell import Doorbell, Doorbells, DoorbellUnusable
from pipeline.process.heartbeat import DATABASE_LOCKED, Heartbeat, read_heartbeat
from pipeline.process.liveness import HEARTBEAT_LIMIT_S, StageState, health_of
from pipeline.process.logs import Logger, RateLimitedLogger, get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.notify import Notifier
from pipeline.process.signals import StageSignals
from pipeline.process.slots import Slot, SlotTaken, acquire_slot, is_abandoned, settings_directory
from pipeline.process.stage_times import StageTimes
from pipeline.process.stop import Stop
from pipeline.process.tracing import EventTracer, otlp_exporter, tracing
from pipeline.process.watchdog import StageWatchdog
from pipeline.settings.running import record_settings

if TYPE_CHECKING:
    from pipeline.process.exposition import ExpositionServer, Health
    from pipeline.settings.config import Config
    from pipeline.settings.reload import ReloadableConfig

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CANNOT_START = 3
"""Restarting would not help; the supervisor stops everything, unless all ran before."""
EXIT_NO_ROOM = 4
"""A disk is full; restarting helps once there is room."""

__all__ = ["HEARTBEAT_LIMIT_S", "StageContext", "run_stage", "stage_health"]

_log = get_logger("stage")
# How long a stage may take to end after its supervisor is gone, when no process is left to kill it.
ORPHAN_GRACE_S = 20.0
# A supervisor that was killed leaves stages that hold their slots for as long as that.
SLOT_WAIT_S = ORPHAN_GRACE_S + 5.0
_STDIN = 0
# A process that waits for the lock says so every second.
_LOCKED_S = 3.0
# Where SQLite keeps the lock of the writer, in the file beside a database with a write-ahead log.
WRITE_LOCK_BYTE = 120


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage's `run` gets; everything in it may be used from every thread of the stage.

    `run` ends soon after `stop` is set, and calls `heartbeat.beat()` for the first time when it is ready and from then
    on at least every few seconds, from the loop that must not stand still.
    """

    config: "Config"
    """The settings that the process was started with."""
    clock: Clock
    stop: Stop
    slot: Slot
    metrics: Metrics
    heartbeat: Heartbeat
    log: Logger
    doorbell: Doorbell | None
    """Rung by those who commit work for this stage; None where there can be none."""
    bells: Doorbells
    """Those of all processes on this database, to be rung after a commit."""
    live: "ReloadableConfig | None" = None

    def on_locked(self, _: float) -> bool:
        """Say that the database is locked, and by whom; return True if to wait on. See `Database.open`."""
        holder = procfs.lock_owner(shared_memory(self.config.database_path), WRITE_LOCK_BYTE)
        self.heartbeat.complain(f"{DATABASE_LOCKED}{holder and f' by {holder}'}", _LOCKED_S)
        return not self.stop.is_set()

    def times(self) -> StageTimes:
        """Return what counts the waits of this stage and its write transactions; to be kept."""
        return StageTimes(self.metrics, self.slot.group, self.clock)

    def tracing(self) -> AbstractContextManager[EventTracer | None]:
        """Return a context that yields what takes the spans of sampled events, None where no events are traced.

        Entering it raises `CannotStart` if they cannot be exported; leaving it may take `tracing.FLUSH_S`.
        """
        log = RateLimitedLogger(self.log, self.clock)
        return tracing(self.config.trace_sample, lambda: otlp_exporter(self.slot), self.metrics, log)

    def is_abandoned(self, slot_name: str) -> bool:
        """Return True if the slot of that name belongs to no process any more; see `slots.is_abandoned`."""
        return is_abandoned(self.config.runtime_directory, self.config.database_path, slot_name)

    @property
    def settings(self) -> "Config":
        """The settings in force, which differ from `config` where they changed since the start."""
        return self.config if self.live is None else self.live.config

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
    sink: str = "",
    live: "ReloadableConfig | None" = None,
) -> int:
    """Be the process of `stage` in slot `index` (None: the first free one) until `run` returns; gives the exit code.

    0: `run` returned; 3: `CannotStart`; 4: a disk is full; 1: any other error, in `run` or in a thread, or that the
    slot of a supervised stage stays taken. Called once per process, in its main thread. `supervised` says that standard
    input is a lifeline: its end means that the supervisor is gone. `live` with a file is followed at SIGHUP, which ends
    the process without.
    """
    faulthandler.enable()
    clock, stop = SystemClock(), Stop()
    logs.configure(config.log_level, stage)
    follow = live.reload_and_log if live is not None and live.path is not None else None
    StageSignals(stop, clock, supervised=supervised, hangup=follow)
    if supervised:
        threading.Thread(target=_watch_lifeline, args=(stop,), name="lifeline", daemon=True).start()
    failure = _stop_when_threads_fail(stop)
    try:
        held = acquire_slot(
            config.runtime_directory, stage, index, sink=sink, database=config.database_path,
            wait_s=SLOT_WAIT_S if supervised else 0.0, stop=stop,
            on_wait=lambda holder: _log.warning("slot is taken; waiting", holder=holder, seconds=SLOT_WAIT_S),
        )  # fmt: skip
        try:
            with _in_slot(held.slot, config, clock, failure, supervised=supervised) as heartbeat:
                _log.info("stage started", pid=os.getpid())
                recorded = settings_directory(config.runtime_directory) / held.slot.name
                if supervised:
                    # Of one that was run alone before; those of this one are the supervisor's.
                    recorded.unlink(missing_ok=True)
                elif live is not None:
                    live.warn_of_unknown()
                    live.follow_up(lambda: record_settings(live.config, recorded))
                log, counted = get_logger(stage), Metrics(config.max_address_labels)
                with _doorbells(config, held.slot, counted, log) as (doorbell, bells):
                    run(StageContext(config, clock, stop, held.slot, counted, heartbeat, log, doorbell, bells, live))
                _log.info("stage ended", reason=stop.reason or "nothing left to do")
        finally:
            held.release()
    except CannotStart as error:
        _log.error("cannot start", error=str(error))
        if stop.is_set():
            return EXIT_OK
        # The process that holds the slot, started by hand while it was free, does the work; a supervisor tries again.
        return EXIT_FAILED if supervised and isinstance(error, SlotTaken) else EXIT_CANNOT_START
    except Exception as error:
        return _exit_code(failure[0] if failure else error)
    return _exit_code(failure[0]) if failure else EXIT_OK


def _exit_code(error: BaseException) -> int:
    if isinstance(error, NoRoom):
        _log.error("disk is full", error=str(error))
        return EXIT_NO_ROOM
    if isinstance(error, Outdated):
        _log.error("stage ends to be started again", reason=str(error))
        return EXIT_FAILED
    _log.exception("stage failed", cause=error)
    return EXIT_FAILED


@contextmanager
def _in_slot(
    slot: Slot, config: "Config", clock: Clock, failure: Sequence[BaseException], *, supervised: bool
) -> Iterator[Heartbeat]:
    """Be known by the slot's name to logs, metrics and health; an error that ends it is left there as a last word."""
    logs.configure(config.log_level, slot.name)
    procfs.set_process_name(slot.name)
    metrics.install(config.runtime_directory, slot.name)
    profiling.start(config, slot.group, slot.name)
    heartbeat = Heartbeat(config.runtime_directory, slot.name, clock)
    server = watchdog = None
    try:
        if not supervised:
            server = _expose(config, slot, clock)
            watchdog = StageWatchdog(config.runtime_directory, slot.name, Notifier.from_env(os.environ), clock)
        yield heartbeat
    except Exception as error:
        heartbeat.fail(_exit_message(failure[0] if failure else error))
        raise
    finally:
        if watchdog is not None:
            watchdog.close()
        if server is not None:
            server.close()
        if failure:
            heartbeat.fail(_exit_message(failure[0]))
        heartbeat.close()


@contextmanager
def _doorbells(
    config: "Config", slot: Slot, counted: Metrics, log: Logger
) -> Iterator[tuple[Doorbell | None, Doorbells]]:
    """Yield the bell of the process and those of all; every failure is counted, the first one logged."""
    errors = counted.stage_errors.labels(slot.group, "doorbell")
    told = False

    def on_failure(reason: str) -> None:
        nonlocal told
        errors.inc()
        if not told:
            told = True
            log.warning("a doorbell does not work, events may take up to a second longer", reason=reason)

    doorbell = None
    try:
        doorbell = Doorbell.hang(config.database_path, slot.name)
    except (DoorbellUnusable, CannotStart) as error:
        on_failure(str(error))
    try:
        yield doorbell, Doorbells(config.database_path, on_failure)
    finally:
        if doorbell is not None:
            doorbell.close()


def shared_memory(database: Path) -> Path:
    """Return the file by whose locks processes that use `database` keep out of each other's way."""
    database = database.resolve()
    return database.with_name(database.name + "-shm")


def _exit_message(error: BaseException) -> str:
    return f"ended: {error}" if isinstance(error, CannotStart | Outdated) else f"ended: {type(error).__name__}: {error}"


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
    """Return whether the process in `slot_name` has sent a heartbeat recently, and reports no problem."""
    from pipeline.process.exposition import Health  # noqa: PLC0415  # as above

    reading = read_heartbeat(runtime_directory, slot_name, clock)
    if reading is None:
        return Health(False, b'{"status": "failing", "stages": []}')
    condition = health_of(reading, clock)
    if condition.state is StageState.OK:
        return Health(True, b'"ok"')
    return Health(False, json.dumps({"status": "failing", "stages": [asdict(condition)]}).encode())


def _watch_lifeline(stop: Stop) -> None:
    """Wait for the end of standard input, then stop, and end the process by force if it does not end."""
    while os.read(_STDIN, 1024):
        pass
    stop.set("supervisor gone")
    # Its timer runs outside the interpreter, so that it fires even when no Python code can run any more.
    faulthandler.dump_traceback_later(ORPHAN_GRACE_S, exit=True)


def _stop_when_threads_fail(stop: Stop) -> list[BaseException]:
    """Let an error that ends a thread end the stage; return a list that such errors are added to."""
    failures: list[BaseException] = []

    def hook(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "unknown"
        failures.append(args.exc_value or args.exc_type())
        if not isinstance(args.exc_value, Outdated):
            _log.exception("thread failed", cause=args.exc_value, thread=name)
        stop.set(f"thread {name} failed")

    threading.excepthook = hook
    return failures
