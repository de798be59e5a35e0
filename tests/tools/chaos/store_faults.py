"""Faults of the database and of what it lies on."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from tests.fakes.net import pause
from tests.tools.chaos import hooks
from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.harness import MAX_CLOCK_ERROR_S, ChaosHarness
from tests.tools.chaos.hooks.disk import CHECKPOINT
from tests.tools.chaos.power import LogState, lose_power
from tests.tools.chaos.process_faults import SERVICE
from tests.tools.chaos.queues import PUBSUB, RELAY
from tests.tools.chaos.refusals import CANNOT_START

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
def database_locked(harness: ChaosHarness) -> Play:
    """Another program holds the write lock for some seconds."""
    harness.uncertain_faults += 1
    yield from _lock(harness, harness.rng.uniform(2.0, 12.0))
    harness.uncertain_faults -= 1


@fault("database-locked-long", SERVICE, least_minutes=1.5, weight=0.5)
def database_locked_long(harness: ChaosHarness) -> Play:
    """The same for half a minute, in which nobody who writes can beat, and health says so."""
    harness.killed_pids.update(one.pid for one in harness.stages())
    harness.expected_problem = f"another program has locked the database at {time.strftime('%H:%M:%S')}"
    yield from _lock(harness, 30.0)
    harness.expected_problem = ""


def _lock(harness: ChaosHarness, seconds: float) -> Play:
    connection = apsw.Connection(str(harness.service.database))
    try:
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute("BEGIN IMMEDIATE")
        with harness.stalled():
            # Nobody can claim or settle now; who dies of waiting does so with what is leased at this moment.
            harness.allow_in_flight()
            yield seconds
            connection.execute("ROLLBACK")
    finally:
        connection.close()


@fault("disk-full", SERVICE)
def disk_full(harness: ChaosHarness) -> Play:
    """No room beside the database for some seconds; only where it has a disk of its own."""
    if not harness.has_small_disk:
        return
    with _unrecorded(harness), _no_room(harness, harness.rng.randint(0, _MOST_LEFT_BYTES)):
        yield harness.rng.uniform(2.0, 6.0)


@contextmanager
def _unrecorded(harness: ChaosHarness) -> Iterator[None]:
    """A time in which what is delivered cannot always be written down, and health may say anything."""
    harness.uncertain_faults += 1
    began = time.time()
    harness.allow_in_flight()
    yield
    harness.allowance.unreliable_periods += [(sink, began, time.time() + _SETTLE_SLACK_S) for sink in (PUBSUB, RELAY)]
    harness.uncertain_faults -= 1


@contextmanager
def _no_room(harness: ChaosHarness, left: int) -> Iterator[None]:
    """A disk with `left` bytes of room at most, on which stages stand still."""
    filler = harness.service.database.with_name("filler")
    with harness.stalled():
        _fill(filler, left)
        yield
        filler.unlink()


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
def disk_full_at_restart(harness: ChaosHarness) -> Play:
    """A stage is started while there is no room; it waits for some, and ends nothing for good."""
    if not harness.has_small_disk:
        return
    with _unrecorded(harness):
        with _no_room(harness, 0):
            victim = harness.some_stage()
            if victim is not None:
                harness.kill_stages([victim])
            yield harness.rng.uniform(4.0, 8.0)
        yield _ENDS_AFTER_S
        if not harness.service.running:
            harness.violations.append(f"a full disk ended the service: {harness.service.log_text()[-500:]}")
            harness.start_again()


@fault("backup-restored", SERVICE)
def backup_restored(harness: ChaosHarness) -> Play:
    """The database of some seconds ago is put back; users register again, deliveries since may repeat."""
    copy = harness.service.directory / "backup.db"
    command = [sys.executable, "-m", "pipeline.cli", "backup", "--force", str(copy)]
    done = subprocess.run(command, env=os.environ | harness.service.env, capture_output=True, text=True, check=False)
    if done.returncode:
        # Its disk or lock is another fault's.
        return
    yield harness.rng.uniform(2.0, 6.0)
    harness.uncertain_faults += 1
    if harness.end_in_order() != 0:
        harness.allow_in_flight()
    with harness.queues.alone():
        before = harness.queues.delivered()
    database = harness.service.database
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(copy, database)
    with harness.queues.alone():
        after = harness.queues.delivered()
    for sink, event_id in before - after:
        harness.allowance.add(sink, [event_id])
    harness.start_again()
    if "unclean end or restored database" not in harness.service.log_text():
        harness.violations.append("a restored backup was not noticed")
    harness.environment.register_again(harness.service)
    harness.uncertain_faults -= 1


@fault("disk-read-only", SERVICE)
def disk_read_only(harness: ChaosHarness) -> Play:
    """The file system takes no writes for some seconds, as after an error; who cannot start for that says so."""
    harness.uncertain_faults += 1
    began = time.time()
    harness.allow_in_flight()
    switch, logged = hooks.disk_in(harness.hooks), len(harness.service.log_text())
    with harness.stalled():
        _overwrite(switch, b"\1")
        yield harness.rng.uniform(2.0, 6.0)
        _overwrite(switch, b"\0")
        yield _ENDS_AFTER_S
    if not harness.service.running or _ENDS_ALL in harness.service.log_text()[logged:]:
        while harness.service.running:
            yield _STEP_S
        code, said = harness.service.wait_exit(), harness.service.log_text()[logged:]
        if code != CANNOT_START or "it cannot be written" not in said:
            harness.violations.append(f"on a read-only disk the service ended with exit code {code}")
        harness.start_again()
    harness.allowance.unreliable_periods += [(sink, began, time.time() + _SETTLE_SLACK_S) for sink in (PUBSUB, RELAY)]
    harness.uncertain_faults -= 1


def _overwrite(path: Path, content: bytes) -> None:
    """In place, since it is mapped into the memory of others."""
    with path.open("r+b") as file:
        file.write(content)


@fault("power-loss", SERVICE)
def power_loss(harness: ChaosHarness) -> Play:
    """Everything ends at once, and the last commits are lost with it; users register again."""
    yield from _lose_power(harness)


@fault("power-loss-at-checkpoint", SERVICE)
def power_loss_at_checkpoint(harness: ChaosHarness) -> Play:
    """The same while the log is copied into the database's own file, of whose sectors any may be lost."""
    with harness.stalled():
        asked = harness.points / CHECKPOINT
        unfinished = asked.with_suffix(".part")
        unfinished.write_text(str(harness.rng.randint(0, _MOST_PAGES_FIRST)))
        unfinished.rename(asked)
        deadline = time.monotonic() + _CHECKPOINT_WAIT_S
        while asked.exists() and time.monotonic() < deadline:
            yield _STEP_S
        asked.unlink(missing_ok=True)
        yield _STEP_S
        harness.points_reached["checkpoint"] += len(stopped := list(harness.points.glob("*.stopped")))
        yield from _lose_power(harness)
        for each in stopped:
            each.unlink()


def _lose_power(harness: ChaosHarness) -> Play:
    harness.uncertain_faults += 1
    with harness.frozen(harness.stages()):
        harness.allow_in_flight()
        state = LogState.read(harness.service.database)
        harness.kill_all()
    with harness.queues.alone():
        before = harness.queues.delivered()
        lost = lose_power(harness.service.database, state, hooks.unsynced_in(harness.hooks), harness.rng)
        faults = harness.queues.integrity()
        after = harness.queues.delivered()
    harness.frames_lost += lost.frames
    harness.sectors_lost += lost.sectors
    if faults:
        harness.violations.append(f"the database is damaged after a loss of power: {faults}")
    for sink, event_id in before - after:
        harness.allowance.add(sink, [event_id])
    yield harness.rng.uniform(0.0, 1.0)
    harness.start_again()
    harness.environment.register_again(harness.service)
    harness.uncertain_faults -= 1


@fault("clock-jumps", "clock")
def clock_jumps(harness: ChaosHarness) -> Play:
    """The time of day is wrong by hours, forward or back, for some seconds."""
    hours = harness.rng.choice((-1, 1)) * harness.rng.uniform(LEAST_CLOCK_ERROR_S, MAX_CLOCK_ERROR_S)
    began = time.time()
    harness.allow_in_flight()
    _overwrite(hooks.clock_in(harness.hooks), struct.pack("=q", round(hours * 1e9)))
    yield harness.rng.uniform(3.0, 10.0)
    harness.allow_in_flight()
    _overwrite(hooks.clock_in(harness.hooks), bytes(8))
    # Leases end too early, or not for hours; those are set free, whoever holds them.
    harness.allowance.unreliable_periods += [(sink, began, time.time() + _RELEASE_S) for sink in (PUBSUB, RELAY)]


def set_clock_right(harness: ChaosHarness, after_s: float) -> None:
    """Let a clock that is wrong since the start stay so for a while, and then be right."""
    began = time.time()
    pause(after_s)
    harness.allow_in_flight()
    _overwrite(hooks.clock_in(harness.hooks), bytes(8))
    harness.allowance.unreliable_periods += [
        (sink, began - after_s, time.time() + _RELEASE_S) for sink in (PUBSUB, RELAY)
    ]
