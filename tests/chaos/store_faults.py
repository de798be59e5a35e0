"""Faults of the database and of what it lies on."""

import apsw

from tests.chaos.faults import Play, fault
from tests.chaos.process_faults import SERVICE
from tests.chaos.scene import Scene

_BUSY_MS = 20_000


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
