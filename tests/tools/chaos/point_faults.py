"""Death at named points: between any two statements of the transactions by which an event is handed over."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.hooks.points import BEFORE, COMMITTED
from tests.tools.chaos.process_faults import SERVICE
from tests.tools.chaos.scene import Scene

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
_ROUND_S = (10.0, 16.0)
# A point that a stage hardly ever comes to must not keep it from the others.
_MOST_VAIN = 2


@dataclass(frozen=True, slots=True)
class Point:
    """Where a stage is to die: before a statement, or after the commit of a transaction in which it changed rows."""

    stage: str
    moment: str
    statement: str

    def __str__(self) -> str:
        return f"{self.stage} {self.moment} {self.statement}"


def _points() -> Sequence[Point]:
    """Each statement's beginning is the end of the one before it."""
    before = [Point(stage, BEFORE, statement) for stage, every in STATEMENTS.items() for statement in every]
    return [*before, *(Point(stage, COMMITTED, "COMMIT") for stage in STATEMENTS)]


POINTS = _points()


@fault("die-at-points", SERVICE, weight=4)
def die_at_points(scene: Scene) -> Play:
    """For some seconds every stage dies at one point after the other, as soon as it comes there."""
    until = time.monotonic() + scene.rng.uniform(*_ROUND_S)
    asked: dict[str, tuple[Point, float]] = {}
    while time.monotonic() < until:
        for stage in STATEMENTS:
            if stage not in asked:
                asked[stage] = (_ask(scene, _rarest(scene, stage)), time.monotonic())
        yield _STEP_S
        running = {one.name for one in scene.service.stages()}
        for stage, (point, since) in list(asked.items()):
            if stage not in running:
                # It is being started again, which may take longer than the way to the point.
                asked[stage] = (point, time.monotonic())
            elif _has_died(scene, point) or time.monotonic() - since > _WAIT_S:
                _withdraw(scene, point)
                del asked[stage]
    for point, _ in asked.values():
        _withdraw(scene, point)
    yield _STEP_S
    for point, _ in asked.values():
        _has_died(scene, point)


def _rarest(scene: Scene, stage: str) -> Point:
    """The point at which a stage has died least often; of several that to which it was sent least."""
    of_stage = [point for point in POINTS if point.stage == stage]
    return min(
        of_stage,
        key=lambda point: (
            scene.points_reached[str(point)] + scene.points_asked[str(point)] // _MOST_VAIN,
            scene.points_asked[str(point)],
            scene.rng.random(),
        ),
    )


@fault("die-after-cursor", SERVICE)
def die_after_cursor(scene: Scene) -> Play:
    """A crawler dies right after it committed a cursor."""
    yield from _die(scene, Point("crawler", COMMITTED, "INSERT INTO cursors"))


@fault("die-before-settling", SERVICE)
def die_before_settling(scene: Scene) -> Play:
    """A forwarder dies right before it writes down that a batch was delivered."""
    yield from _die(scene, Point("forwarder", BEFORE, "INSERT INTO deliveries"))


def _die(scene: Scene, point: Point) -> Play:
    _ask(scene, point)
    deadline = time.monotonic() + _WAIT_S
    while not (died := _has_died(scene, point)) and time.monotonic() < deadline:
        yield _STEP_S
    if not died:
        _withdraw(scene, point)
        yield _STEP_S
        _has_died(scene, point)


def _ask(scene: Scene, point: Point) -> Point:
    asked = scene.points / point.stage
    unfinished = asked.with_suffix(".part")
    unfinished.write_text(f"{point.moment}|{point.statement}|{point.stage}")
    unfinished.rename(asked)
    scene.points_asked[str(point)] += 1
    return point


def _withdraw(scene: Scene, point: Point) -> None:
    (scene.points / point.stage).unlink(missing_ok=True)


def _has_died(scene: Scene, point: Point) -> bool:
    """Whether a process of its stage stands still at the point; it is killed there."""
    for stopped in scene.points.glob("*.stopped"):
        if stopped.read_text().endswith(f"|{point.stage}"):
            _kill(scene, point.stage, stopped)
            scene.points_reached[str(point)] += 1
            return True
    return False


def _kill(scene: Scene, stage: str, stopped: Path) -> None:
    pid = int(stopped.stem)
    scene.victims.add(pid)
    if stage in ("forwarder", "sender"):
        scene.allow_in_flight()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    stopped.unlink()
