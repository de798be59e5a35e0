"""How a process stands, told by its heartbeat: in which state, since when, and why."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pipeline.process.clock import Clock
from pipeline.process.heartbeat import HeartbeatReading

HEARTBEAT_LIMIT_S = 30.0
"""A stage whose last beat is older is beyond help: it is killed."""
SILENCE_LIMIT_S = 8.0
"""A stage whose last beat is older hangs for the moment; health is to say so within ten seconds."""


class StageState(StrEnum):
    """How a process stands."""

    OK = "ok"
    FAILING = "failing"
    """It lives, and says itself that something is wrong."""
    STARTING = "starting"
    HUNG = "hung"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class StageHealth:
    """A slot's state; since when (UTC, None: unknown); and why, empty where there is nothing to say."""

    slot: str
    state: StageState
    since: str | None
    why: str


def health_of(reading: HeartbeatReading, clock: Clock) -> StageHealth:
    """Return what `reading` says of its process; `since` is its start, last beat or complaint, as it matters."""
    state, why = _state(reading)
    since: str | None
    if state in (StageState.FAILING, StageState.EXITED) and reading.status:
        since = _ago(reading.status_age_s, clock)
    elif reading.ready:
        since = _ago(reading.age_s, clock)
    else:
        since = utc(reading.started_s) if reading.alive else None
    return StageHealth(reading.slot_name, state, since, why)


def utc(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _state(reading: HeartbeatReading) -> tuple[StageState, str]:
    if not reading.alive:
        return StageState.EXITED, reading.status or "exited without an error message"
    if not reading.ready:
        return StageState.STARTING, "has sent no heartbeat yet"
    if reading.age_s > SILENCE_LIMIT_S:
        return StageState.HUNG, f"has sent no heartbeat for {reading.age_s:.0f} s"
    return (StageState.FAILING, reading.status) if reading.status else (StageState.OK, "")


def _ago(seconds: float, clock: Clock) -> str:
    return utc(clock.now_ms() / 1000 - seconds)
