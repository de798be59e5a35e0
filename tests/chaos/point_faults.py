"""Death at named points: between any two statements of the transactions by which an event is handed over."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.chaos.faults import Play, fault
from tests.chaos.hooks.points import AFTER, BEFORE, COMMITTED
from tests.chaos.process_faults import SERVICE
from tests.chaos.scene import Scene

STATEMENTS = {
    "crawler": ("INSERT INTO inbox", "INSERT INTO cursors", "COMMIT"),
    "saver": (
        "UPDATE inbox",
        "INSERT INTO seen",
        "INSERT INTO events",
        "INSERT INTO outbox",
        "DELETE FROM inbox",
        "COMMIT",
    ),
    "forwarder": ("UPDATE outbox", "INSERT INTO deliveries", "DELETE FROM outbox", "COMMIT"),
    "sender": ("UPDATE outbox", "INSERT INTO deliveries", "DELETE FROM outbox", "COMMIT"),
    "server": ("INSERT INTO monitored", "INSERT INTO wanted", "COMMIT"),
    "sweeper": ("DELETE FROM", "COMMIT"),
}
_WAIT_S = 6.0
_STEP_S = 0.05


@fault("die-at-point", SERVICE, weight=4)
def die_at_point(scene: Scene) -> Play:
    """Some stage dies at some point, if it comes to it soon."""
    stage = scene.rng.choice(sorted(STATEMENTS))
    yield from _die(scene, stage, scene.rng.choice((BEFORE, AFTER, COMMITTED)), scene.rng.choice(STATEMENTS[stage]))


@fault("die-after-cursor", SERVICE)
def die_after_cursor(scene: Scene) -> Play:
    """A crawler dies right after it committed a cursor."""
    yield from _die(scene, "crawler", COMMITTED, "INSERT INTO cursors")


@fault("die-before-settling", SERVICE)
def die_before_settling(scene: Scene) -> Play:
    """A forwarder dies right before it writes down that a batch was delivered."""
    yield from _die(scene, "forwarder", BEFORE, "INSERT INTO deliveries")


def _die(scene: Scene, stage: str, moment: str, statement: str) -> Play:
    asked = scene.points / stage
    unfinished = asked.with_suffix(".part")
    unfinished.write_text(f"{moment}|{statement}")
    unfinished.rename(asked)
    deadline = time.monotonic() + _WAIT_S
    while asked.exists() and time.monotonic() < deadline:
        yield _STEP_S
    asked.unlink(missing_ok=True)
    yield _STEP_S
    for stopped in scene.points.glob("*.stopped"):
        scene.points_reached += 1
        _kill(scene, stage, stopped)


def _kill(scene: Scene, stage: str, stopped: Path) -> None:
    pid = int(stopped.stem)
    scene.victims.add(pid)
    if stage in ("forwarder", "sender"):
        scene.allow_in_flight()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    stopped.unlink()
