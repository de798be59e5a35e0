"""The answers to `/_health`, `/_live` and `/_ready`.

Healthy is the JSON text "ok", as it ever was, so that no probe that compares it must be changed. Anything else is an
object whose `problems` name a stage or part each, since when, and why.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import apsw

from pipeline.errors import EventServiceError
from pipeline.process.clock import Clock
from pipeline.process.exposition import Health
from pipeline.process.heartbeat import read_heartbeats
from pipeline.process.liveness import StageHealth, StageState, health_of, utc
from pipeline.process.supervisor import NO_ROOM
from pipeline.process.supervisor import SLOT_NAME as SUPERVISOR
from pipeline.server.worker import DatabaseThread
from pipeline.settings.config import Config
from pipeline.status.service_diagnosis import unhealthy_stages
from pipeline.status.snapshot import sinks_of, stage_of
from pipeline.store import inbox, outbox, wanted_authors
from pipeline.store.database import Database

HEALTHY: Final = b'"ok"'
DATABASE_TIMEOUT_S: Final = 5.0
"""A question of microseconds that is not answered by then finds the disk or the thread stuck."""
MIN_FREE_BYTES: Final = 64 << 20
"""Left on the database's disk: as much as the write-ahead log alone may take."""
_BEYOND_SELF_HELP: Final = frozenset({StageState.HUNG, StageState.EXITED})


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps the service from being well: a slot, stage or part, since when (UTC), and why."""

    stage: str
    since: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is wrong, how each process stands, and what is wrong with the database or `ok`."""

    problems: tuple[Problem, ...]
    stages: tuple[StageHealth, ...]
    database: str


@dataclass(frozen=True, slots=True)
class _Found:
    """What the database's thread sees; times in ms since the epoch, by the stage that empties the queue."""

    oldest: Sequence[tuple[str, int]]
    free_bytes: int


class HealthCheck:
    """Looks at the heartbeats of all processes, the database, its disk and its queues; used by the event loop alone."""

    def __init__(self, thread: DatabaseThread, settings: Callable[[], Config], clock: Clock) -> None:
        self._thread = thread
        self._settings = settings
        self._clock = clock
        self._first_seen: dict[str, str] = {}

    async def check(self) -> Health:
        """Healthy when every stage beats and complains of nothing, the database answers, and no queue stands still."""
        report = await self.look()
        if not report.problems:
            return Health(True, HEALTHY)
        body = {
            "status": "failing",
            "problems": [asdict(problem) for problem in report.problems],
            "database": report.database,
            "stages": [asdict(stage) for stage in report.stages],
        }
        return Health(False, json.dumps(body).encode())

    async def live(self) -> Health:
        """Return whether a restart of the whole service would help nothing: its supervisor, if it has one, is at work.

        Stages that hang or end are the supervisor's; a sink, a disk or a database that is away comes back by itself.
        """
        stuck = [stage for stage in self._conditions() if stage.slot == SUPERVISOR and stage.state in _BEYOND_SELF_HELP]
        return _verdict("not live", [Problem(stage.slot, stage.since, stage.why) for stage in stuck])

    async def ready(self) -> Health:
        """Return whether the service works: each process has sent a heartbeat, none hangs, and the database answers."""
        problems = [
            Problem(stage.slot, stage.since, stage.why)
            for stage in unhealthy_stages(self._conditions())
            if stage.state is not StageState.FAILING or stage.slot == SUPERVISOR
        ]
        database, _ = await self._ask_database()
        if database != "ok":
            problems.append(Problem("database", None, database))
        return _verdict("not ready", problems)

    def _conditions(self) -> list[StageHealth]:
        directory = self._settings().runtime_directory
        return [health_of(reading, self._clock) for reading in read_heartbeats(directory, self._clock)]

    async def look(self) -> Report:
        """How every process stands, and all that is wrong."""
        database, found = await self._ask_database()
        stages = self._conditions()
        problems = [Problem(stage.slot, stage.since, stage.why) for stage in unhealthy_stages(stages)]
        here = {"database": database} if database != "ok" else {}
        if found is not None:
            problems += self._queue_problems(found)
            if found.free_bytes < MIN_FREE_BYTES:
                here["disk"] = f"disk is full: {found.free_bytes >> 20} MiB left beside the database"
                # One problem is reported once: stages that wait for room report the same.
                problems = [problem for problem in problems if not problem.why.startswith(NO_ROOM)]
        problems += self._lasting(here)
        return Report(tuple(problems), tuple(stages), database)

    async def _ask_database(self) -> tuple[str, _Found | None]:
        """Return what is wrong with the database, or `ok` and what it says."""
        settings = self._settings()
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT_S):
                return "ok", await self._thread.run(lambda database: _ask(database, settings))
        except TimeoutError:
            return f"has not answered for {DATABASE_TIMEOUT_S:.0f} s", None
        except (apsw.Error, EventServiceError, OSError) as error:
            return str(error), None

    def _queue_problems(self, found: _Found) -> Iterable[Problem]:
        bound = self._settings().max_queue_age
        for stage, oldest in found.oldest:
            age = self._clock.now_ms() - oldest
            if bound and age > bound:
                why = f"an event waits for {age // 1000} s, EVENTS_MAX_QUEUE_AGE is {bound // 1000} s"
                yield Problem(stage, utc((oldest + bound) / 1000), why)

    def _lasting(self, problems: dict[str, str]) -> Iterable[Problem]:
        """Problems that nothing but our own looks dates."""
        now = utc(self._clock.now_ms() / 1000)
        self._first_seen = {part: self._first_seen.get(part, now) for part in problems}
        return [Problem(part, self._first_seen[part], why) for part, why in problems.items()]


def _verdict(status: str, problems: Sequence[Problem]) -> Health:
    if not problems:
        return Health(True, HEALTHY)
    body = {"status": status, "problems": [asdict(problem) for problem in problems]}
    return Health(False, json.dumps(body).encode())


def _ask(database: Database, settings: Config) -> _Found:
    with database.read() as tx:
        wanted_authors.latest_generation(tx)
        on = sinks_of(settings, tx)
        oldest = [
            ("saver", inbox.oldest_unattempted(tx)),
            *((stage_of(sink, on), outbox.oldest_unattempted(tx, sink)) for sink in on),
        ]
    disk = os.statvfs(database.path.parent)
    return _Found([(stage, at) for stage, at in oldest if at is not None], disk.f_bavail * disk.f_frsize)
