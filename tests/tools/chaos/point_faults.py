"""Death at named points: between any two statements of the transactions by which an event is handed over."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.harness import ChaosHarness
from tests.tools.chaos.hooks.points import BEFORE, COMMITTED
from tests.tools.chaos.process_faults import SERVICE

STATEMENTS = {
    "crawler": ("INSERT INTO inbox", "INSERT INTO payloads", "INSERT INTO cursors", "COMMIT"),
    "saver": (
        "UPDATE inbox",
        "INSERT INTO seen",
        "INSERT INTO events",
        "DELETE FROM payloads",
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
def die_at_points(harness: ChaosHarness) -> Play:
    """For some seconds every stage dies at one point after the other, as soon as it comes there."""
    until = time.monotonic() + harness.rng.uniform(*_ROUND_S)
    asked: dict[str, tuple[Point, float]] = {}
    while time.monotonic() < until:
        for stage in STATEMENTS:
            if stage not in asked:
                asked[stage] = (_ask(harness, _rarest(harness, stage)), time.monotonic())
        yield _STEP_S
        running = {one.name for one in harness.service.stages()}
        for stage, (point, since) in list(asked.items()):
            if stage not in running:
                # It is being started again, which may take longer than the way to the point.
                asked[stage] = (point, time.monotonic())
            elif _has_died(harness, point) or time.monotonic() - since > _WAIT_S:
                _withdraw(harness, point)
                del asked[stage]
    for point, _ in asked.values():
        _withdraw(harness, point)
    yield _STEP_S
    for point, _ in asked.values():
        _has_died(harness, point)


def _rarest(harness: ChaosHarness, stage: str) -> Point:
    """The point at which a stage has died least often; of several that to which it was sent least."""
    of_stage = [point for point in POINTS if point.stage == stage]
    return min(
        of_stage,
        key=lambda point: (
            harness.points_reached[str(point)] + harness.points_asked[str(point)] // _MOST_VAIN,
            harness.points_asked[str(point)],
            harness.rng.random(),
        ),
    )


@fault("die-after-cursor", SERVICE)
def die_after_cursor(harness: ChaosHarness) -> Play:
    """A crawler dies right after it committed a cursor."""
    yield from _die(harness, Point("crawler", COMMITTED, "INSERT INTO cursors"))


@fault("die-before-settling", SERVICE)
def die_before_settling(harness: ChaosHarness) -> Play:
    """A forwarder dies right before it writes down that a batch was delivered."""
    yield from _die(harness, Point("forwarder", BEFORE, "INSERT INTO deliveries"))


def _die(harness: ChaosHarness, point: Point) -> Play:
    _ask(harness, point)
    deadline = time.monotonic() + _WAIT_S
    while not (died := _has_died(harness, point)) and time.monotonic() < deadline:
        yield _STEP_S
    if not died:
        _withdraw(harness, point)
        yield _STEP_S
        _has_died(harness, point)


def _ask(harness: ChaosHarness, point: Point) -> Point:
    asked = harness.points / point.stage
    unfinished = asked.with_suffix(".part")
    unfinished.write_text(f"{point.moment}|{point.statement}|{point.stage}")
    unfinished.rename(asked)
    harness.points_asked[str(point)] += 1
    return point


def _withdraw(harness: ChaosHarness, point: Point) -> None:
    (harness.points / point.stage).unlink(missing_ok=True)


def _has_died(harness: ChaosHarness, point: Point) -> bool:
    """Whether a process of its stage stands still at the point; it is killed there."""
    for stopped in harness.points.glob("*.stopped"):
        if stopped.read_text().endswith(f"|{point.stage}"):
            _kill(harness, point.stage, stopped)
            harness.points_reached[str(point)] += 1
            return True
    return False


def _kill(harness: ChaosHarness, stage: str, stopped: Path) -> None:
    pid = int(stopped.stem)
    harness.killed_pids.add(pid)
    # It may have had the write lock all the time that it stood there, unseen.
    with harness.stalled(since=_stood_since(stopped)):
        if stage in ("forwarder", "sender"):
            harness.allow_in_flight()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    stopped.unlink()


def _stood_since(stopped: Path) -> float:
    """When (monotonic seconds) a process came to its point: it renamed the file then."""
    return time.monotonic() - max(0.0, time.time() - stopped.stat().st_ctime)
