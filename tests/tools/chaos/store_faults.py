"""Faults of the database and of what it lies on."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import apsw

from tests.fakes.net import pause
from tests.tools.chaos import hooks
from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.hooks.disk import CHECKPOINT
from tests.tools.chaos.power import LogState, lose_power
from tests.tools.chaos.process_faults import SERVICE
from tests.tools.chaos.queues import PUBSUB, RELAY
from tests.tools.chaos.refusals import CANNOT_START
from tests.tools.chaos.scene import MAX_CLOCK_ERROR_S, Scene

_BUSY_MS = 20_000
# Some rows fit in what is left here and there, so that the disk is full for some and not yet for others.
_MOST_LEFT_BYTES = 256 << 10
_SETTLE_SLACK_S = 1.0
_CHECKPOINT_WAIT_S = 6.0
_MOST_PAGES_FIRST = 30
_STEP_S = 0.05
# Who cannot start says so within so much.
_ENDS_AFTER_S = 3.0
_ENDS_ALL = "stage cannot start, ending all"
LEAST_CLOCK_ERROR_S = 1800
# Rows that were put off by a wrong clock are made ready within so much of its end.
_RELEASE_S = 15.0


@fault("database-locked", SERVICE)
def database_locked(scene: Scene) -> Play:
    """Another program holds the write lock for some seconds."""
    scene.doubts += 1
    yield from _lock(scene, scene.rng.uniform(2.0, 12.0))
    scene.doubts -= 1


@fault("database-locked-long", SERVICE, least_minutes=1.5, weight=0.5)
def database_locked_long(scene: Scene) -> Play:
    """The same for half a minute, in which nobody who writes can beat, and health says so."""
    scene.victims.update(one.pid for one in scene.stages())
    scene.ill = f"another program has locked the database at {time.strftime('%H:%M:%S')}"
    yield from _lock(scene, 30.0)
    scene.ill = ""


def _lock(scene: Scene, seconds: float) -> Play:
    connection = apsw.Connection(str(scene.service.database))
    try:
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute("BEGIN IMMEDIATE")
        # Nobody can claim or settle now; who dies of waiting does so with what is leased at this moment.
        scene.allow_in_flight()
        with scene.stalled():
            yield seconds
            connection.execute("ROLLBACK")
    finally:
        connection.close()


@fault("disk-full", SERVICE)
def disk_full(scene: Scene) -> Play:
    """No room beside the database for some seconds; only where it has a disk of its own."""
    if not scene.has_small_disk:
        return
    scene.doubts += 1
    began = time.time()
    scene.allow_in_flight()
    filler = scene.service.database.with_name("filler")
    with scene.stalled():
        _fill(filler, scene.rng.randint(0, _MOST_LEFT_BYTES))
        yield scene.rng.uniform(2.0, 6.0)
        filler.unlink()
    # What was delivered meanwhile could not always be written down.
    scene.allowance.lies += [(sink, began, time.time() + _SETTLE_SLACK_S) for sink in (PUBSUB, RELAY)]
    scene.doubts -= 1


def _fill(path: Path, left: int) -> None:
    """Take all room of the disk but about `left` bytes, while others write to it."""
    with path.open("wb") as file:
        while True:
            disk = os.statvfs(path.parent)
            room = disk.f_bavail * disk.f_frsize - left
            try:
                os.posix_fallocate(file.fileno(), 0, max(room, 1))
                return
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@fault("disk-full-at-restart", SERVICE)
def disk_full_at_restart(scene: Scene) -> Play:
    """A stage is started while there is no room; it waits for some, and ends nothing for good."""
    if not scene.has_small_disk:
        return
    scene.doubts += 1
    began = time.time()
    scene.allow_in_flight()
    filler = scene.service.database.with_name("filler")
    with scene.stalled():
        _fill(filler, 0)
        victim = scene.some_stage()
        if victim is not None:
            scene.kill_stages([victim])
        yield scene.rng.uniform(4.0, 8.0)
        filler.unlink()
    yield _ENDS_AFTER_S
    if not scene.service.running:
        scene.violations.append(f"a full disk ended the service: {scene.service.log_text()[-500:]}")
        scene.start_again()
    scene.allowance.lies += [(sink, began, time.time() + _SETTLE_SLACK_S) for sink in (PUBSUB, RELAY)]
    scene.doubts -= 1


@fault("backup-restored", SERVICE)
def backup_restored(scene: Scene) -> Play:
    """The database of some seconds ago is put back; users register again, deliveries since may repeat."""
    copy = scene.service.directory / "backup.db"
    command = [sys.executable, "-m", "pipeline.cli", "backup", "--force", str(copy)]
    done = subprocess.run(command, env=os.environ | scene.service.env, capture_output=True, text=True, check=False)
    if done.returncode:
        # Its disk or lock is another fault's.
        return
    yield scene.rng.uniform(2.0, 6.0)
    scene.doubts += 1
    if scene.end_in_order() != 0:
        scene.allow_in_flight()
    with scene.queues.alone():
        before = scene.queues.delivered()
    database = scene.service.database
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(copy, database)
    with scene.queues.alone():
        after = scene.queues.delivered()
    for sink, event_id in before - after:
        scene.allowance.add(sink, [event_id])
    scene.start_again()
    if "unclean end or restored database" not in scene.service.log_text():
        scene.violations.append("a restored backup was not noticed")
    scene.world.register_again(scene.service)
    scene.doubts -= 1


@fault("disk-read-only", SERVICE)
def disk_read_only(scene: Scene) -> Play:
    """The file system takes no writes for some seconds, as after an error; who cannot start for that says so."""
    scene.doubts += 1
    began = time.time()
    scene.allow_in_flight()
    switch, logged = hooks.disk_in(scene.hooks), len(scene.service.log_text())
    with scene.stalled():
        _overwrite(switch, b"\1")
        yield scene.rng.uniform(2.0, 6.0)
        _overwrite(switch, b"\0")
        yield _ENDS_AFTER_S
    if not scene.service.running or _ENDS_ALL in scene.service.log_text()[logged:]:
        while scene.service.running:
            yield _STEP_S
        code, said = scene.service.wait_exit(), scene.service.log_text()[logged:]
        if code != CANNOT_START or "it cannot be written" not in said:
            scene.violations.append(f"on a read-only disk the service ended with exit code {code}")
        scene.start_again()
    scene.allowance.lies += [(sink, began, time.time() + _SETTLE_SLACK_S) for sink in (PUBSUB, RELAY)]
    scene.doubts -= 1


def _overwrite(path: Path, content: bytes) -> None:
    """In place, since it is mapped into the memory of others."""
    with path.open("r+b") as file:
        file.write(content)


@fault("power-loss", SERVICE)
def power_loss(scene: Scene) -> Play:
    """Everything ends at once, and the last commits are lost with it; users register again."""
    yield from _lose_power(scene)


@fault("power-loss-at-checkpoint", SERVICE)
def power_loss_at_checkpoint(scene: Scene) -> Play:
    """The same while the log is copied into the database's own file, of whose sectors any may be lost."""
    with scene.stalled():
        asked = scene.points / CHECKPOINT
        unfinished = asked.with_suffix(".part")
        unfinished.write_text(str(scene.rng.randint(0, _MOST_PAGES_FIRST)))
        unfinished.rename(asked)
        deadline = time.monotonic() + _CHECKPOINT_WAIT_S
        while asked.exists() and time.monotonic() < deadline:
            yield _STEP_S
        asked.unlink(missing_ok=True)
        yield _STEP_S
        scene.points_reached["checkpoint"] += len(stopped := list(scene.points.glob("*.stopped")))
        yield from _lose_power(scene)
        for each in stopped:
            each.unlink()


def _lose_power(scene: Scene) -> Play:
    scene.doubts += 1
    with scene.frozen(scene.stages()):
        scene.allow_in_flight()
        state = LogState.read(scene.service.database)
        scene.kill_all()
    with scene.queues.alone():
        before = scene.queues.delivered()
        lost = lose_power(scene.service.database, state, hooks.unsynced_in(scene.hooks), scene.rng)
        faults = scene.queues.integrity()
        after = scene.queues.delivered()
    scene.frames_lost += lost.frames
    scene.sectors_lost += lost.sectors
    if faults:
        scene.violations.append(f"the database is damaged after a loss of power: {faults}")
    for sink, event_id in before - after:
        scene.allowance.add(sink, [event_id])
    yield scene.rng.uniform(0.0, 1.0)
    scene.start_again()
    scene.world.register_again(scene.service)
    scene.doubts -= 1


@fault("clock-jumps", "clock")
def clock_jumps(scene: Scene) -> Play:
    """The time of day is wrong by hours, forward or back, for some seconds."""
    hours = scene.rng.choice((-1, 1)) * scene.rng.uniform(LEAST_CLOCK_ERROR_S, MAX_CLOCK_ERROR_S)
    began = time.time()
    scene.allow_in_flight()
    _overwrite(hooks.clock_in(scene.hooks), struct.pack("=q", round(hours * 1e9)))
    yield scene.rng.uniform(3.0, 10.0)
    scene.allow_in_flight()
    _overwrite(hooks.clock_in(scene.hooks), bytes(8))
    # Leases end too early, or not for hours; those are set free, whoever holds them.
    scene.allowance.lies += [(sink, began, time.time() + _RELEASE_S) for sink in (PUBSUB, RELAY)]


def set_clock_right(scene: Scene, after_s: float) -> None:
    """Let a clock that is wrong since the start stay so for a while, and then be right."""
    began = time.time()
    pause(after_s)
    scene.allow_in_flight()
    _overwrite(hooks.clock_in(scene.hooks), bytes(8))
    scene.allowance.lies += [(sink, began - after_s, time.time() + _RELEASE_S) for sink in (PUBSUB, RELAY)]
