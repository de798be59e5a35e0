"""The supervisor's own process: one for each database and runtime directory, watched by systemd."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import CannotStart
from pipeline.process import logs, metrics, procfs
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.forked import forker
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.liveness import utc
from pipeline.process.logs import get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.notify import Notifier
from pipeline.process.slots import Slot, acquire_supervisor_lock, settings_directory, wipe_free_slots
from pipeline.process.stage import EXIT_CANNOT_START, EXIT_FAILED
from pipeline.process.stop import Stop
from pipeline.process.supervisor import SLOT_NAME, StageSpec, Supervisor, SupervisorEnvironment, Timeouts
from pipeline.settings.running import record_settings

if TYPE_CHECKING:
    from pipeline.settings.config import Config
    from pipeline.settings.reload import ReloadableConfig

ROOM_BYTES = 16 << 20
"""A stage that ended over a full disk is started again with so much left beside the database."""
SETTINGS_FILE = "settings"
"""The file in the runtime directory that supervised stages follow, if the supervisor follows one."""

_log = get_logger("supervisor")


def supervise(
    specs: Sequence[StageSpec],
    run: Callable[[Slot], int],
    config: "Config",
    env: Mapping[str, str],
    *,
    timeouts: Timeouts | None = None,
    live: "ReloadableConfig | None" = None,
    started: Callable[[], None] = lambda: None,
) -> int:
    """Be the supervisor's process: run `specs`, each slot as a fork that calls `run`, until a signal; the exit code.

    `live` with a file is followed at SIGHUP; its stages then follow `SETTINGS_FILE`, which `run` must read.
    One supervisor per database and runtime directory; files that free slots left there are deleted first. `started` is
    called once this is the one. Called once per process.
    """
    clock = SystemClock()
    logs.configure(config.log_level, SLOT_NAME)
    directory = config.runtime_directory
    try:
        wait_s = (timeouts or Timeouts()).lock_wait_s
        lock = acquire_supervisor_lock(
            directory, config.database_path, wait_s=wait_s, on_wait=partial(_log_wait, clock, wait_s)
        )
    except CannotStart as error:
        _log.error("cannot start", error=str(error))
        return EXIT_CANNOT_START
    procfs.set_process_name(SLOT_NAME)
    wipe_free_slots(directory)
    metrics.install(directory, SLOT_NAME)
    heartbeat = Heartbeat(directory, SLOT_NAME, clock)
    try:
        record_settings(config, settings_directory(directory) / SLOT_NAME)
        environment = SupervisorEnvironment(
            directory, clock, Stop(), Notifier.from_env(env), Metrics(), heartbeat, timeouts=timeouts or Timeouts(),
            has_moved=partial(_has_moved, config.database_path, _inode(config.database_path)),
            has_room=partial(_has_room, config.database_path.parent),
            reload=_reloading(live, directory),
        )  # fmt: skip
        started()
        if live is not None:
            live.warn_of_unknown()
        _log.info("supervisor started", pid=os.getpid(), stages=sum(spec.count for spec in specs))
        code = Supervisor(specs, forker(run, env, directory), environment).run()
        _log.info("supervisor ended", code=code)
        return code
    except CannotStart as error:
        _log.error("cannot start", error=str(error))
        return EXIT_CANNOT_START
    except Exception:
        _log.exception("supervisor failed")
        return EXIT_FAILED
    finally:
        heartbeat.close()
        lock.release()


def _log_wait(clock: Clock, wait_s: float, holder: str) -> None:
    _log.warning(
        "another supervisor runs; waiting for its end", holder=holder, until=utc(clock.now_ms() / 1000 + wait_s)
    )


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _has_moved(path: Path, inode: int | None) -> bool:
    return inode is not None and path.parent.exists() and _inode(path) != inode


def _has_room(folder: Path) -> bool:
    try:
        disk = os.statvfs(folder)
    except OSError:
        # The stage itself says best what is wrong.
        return True
    return disk.f_bavail * disk.f_frsize >= ROOM_BYTES


def _reloading(live: "ReloadableConfig | None", directory: Path) -> Callable[[], bool] | None:
    """Return what to do at SIGHUP; stages follow a valid file only, so that a bad one harms no restarted stage."""
    if live is None or live.path is None:
        return None
    published = directory / SETTINGS_FILE
    live.publish(published)

    def reload() -> bool:
        if not live.reload_and_log():
            return False
        live.publish(published)
        record_settings(live.config, settings_directory(directory) / SLOT_NAME)
        return True

    return reload
