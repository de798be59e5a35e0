"""Faults of the database and of what it lies on."""

import errno
import os
import time
from pathlib import Path

import apsw

from tests.chaos.faults import Play, fault
from tests.chaos.power import LogState, lose_power
from tests.chaos.process_faults import SERVICE
from tests.chaos.queues import PUBSUB, RELAY
from tests.chaos.scene import Scene

_BUSY_MS = 20_000
# Some rows fit in what is left here and there, so that the disk is full for some and not yet for others.
_MOST_LEFT_BYTES = 256 << 10
_SETTLE_SLACK_S = 1.0


@fault("database-locked", SERVICE)
def database_locked(scene: Scene) -> Play:
    """Another program holds the write lock for some seconds."""
    yield from _lock(scene, scene.rng.uniform(2.0, 12.0))


@fault("database-locked-long", SERVICE, is_short=False, weight=0.5)
def database_locked_long(scene: Scene) -> Play:
    """The same for half a minute, in which nobody who writes can beat."""
    scene.victims.update(one.pid for one in scene.stages())
    yield from _lock(scene, 30.0)


def _lock(scene: Scene, seconds: float) -> Play:
    scene.doubts += 1
    connection = apsw.Connection(str(scene.service.database))
    try:
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute("BEGIN IMMEDIATE")
        # Nobody can claim or settle now; who dies of waiting does so with what is leased at this moment.
        scene.allow_in_flight()
        yield seconds
        connection.execute("ROLLBACK")
    finally:
        connection.close()
    scene.doubts -= 1


@fault("disk-full", SERVICE)
def disk_full(scene: Scene) -> Play:
    """No room beside the database for some seconds; only where it has a disk of its own."""
    if not scene.has_small_disk:
        return
    scene.doubts += 1
    began = time.time()
    scene.allow_in_flight()
    filler = scene.service.database.with_name("filler")
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


@fault("power-loss", SERVICE)
def power_loss(scene: Scene) -> Play:
    """Everything ends at once, and the last commits are lost with it; users register again."""
    scene.doubts += 1
    with scene.frozen(scene.stages()):
        scene.allow_in_flight()
        state = LogState.read(scene.service.database)
        scene.kill_all()
    before = scene.queues.delivered()
    scene.frames_lost += lose_power(scene.service.database, state, scene.rng)
    for sink, event_id in before - scene.queues.delivered():
        scene.allowance.add(sink, [event_id])
    yield scene.rng.uniform(0.0, 1.0)
    scene.start_again()
    scene.world.register_again(scene.service)
    scene.doubts -= 1
