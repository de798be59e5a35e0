"""The answer to `/_health`.

Healthy is the JSON text "ok", as it ever was, so that no probe that compares it must be changed. Anything else is an
object that names each stage and the time since when it has been as it is.
"""

import asyncio
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import apsw

from pipeline.errors import EventServiceError
from pipeline.process import procfs
from pipeline.process.clock import Clock
from pipeline.process.exposition import Health
from pipeline.process.heartbeat import HeartbeatReading, read_heartbeats
from pipeline.process.stage import HEARTBEAT_LIMIT_S
from pipeline.server.worker import DatabaseThread
from pipeline.store import wanted
from pipeline.store.database import Database

HEALTHY: Final = b'"ok"'
DATABASE_TIMEOUT_S: Final = 5.0
"""A question of microseconds that is not answered by then finds the disk or the thread stuck."""


class StageState(StrEnum):
    """How a process stands."""

    OK = "ok"
    STARTING = "starting"
    HANGS = "hangs"
    GONE = "gone"


_IN_ORDER: Final = (StageState.OK, StageState.GONE)


@dataclass(frozen=True, slots=True)
class StageHealth:
    """A slot and since when (UTC) it is in its state: started, last heard of."""

    slot: str
    state: StageState
    since: str | None


class HealthCheck:
    """Looks at the heartbeats of all processes, and whether the database answers."""

    def __init__(self, thread: DatabaseThread, runtime_directory: Path, clock: Clock) -> None:
        self._thread = thread
        self._runtime_directory = runtime_directory
        self._clock = clock

    async def check(self) -> Health:
        """Healthy when every process that lives beats and the database answers.

        A process that has died holds its slot no longer: it is named, but its supervisor's business.
        """
        database = await self._database_state()
        stages = [self._stage(reading) for reading in read_heartbeats(self._runtime_directory, self._clock)]
        if database == "ok" and all(stage.state in _IN_ORDER for stage in stages):
            return Health(True, HEALTHY)
        body = {"status": "failing", "database": database, "stages": [asdict(stage) for stage in stages]}
        return Health(False, json.dumps(body).encode())

    async def _database_state(self) -> str:
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT_S):
                await self._thread.run(_ask)
        except TimeoutError:
            return f"has not answered for {DATABASE_TIMEOUT_S:.0f} s"
        except (apsw.Error, EventServiceError) as error:
            return str(error)
        return "ok"

    def _stage(self, reading: HeartbeatReading) -> StageHealth:
        if not reading.alive:
            state = StageState.GONE
        elif not reading.ready:
            state = StageState.STARTING
        else:
            state = StageState.HANGS if reading.age_s > HEARTBEAT_LIMIT_S else StageState.OK
        return StageHealth(reading.slot_name, state, self._since(reading))

    def _since(self, reading: HeartbeatReading) -> str | None:
        if reading.ready:
            return _utc(self._clock.now_ms() / 1000 - reading.age_s)
        use = procfs.process_use(reading.pid) if reading.alive else None
        return None if use is None else _utc(use.start_time_s)


def _ask(database: Database) -> None:
    """The cheapest question that reads a table."""
    with database.read() as tx:
        wanted.latest_generation(tx)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
