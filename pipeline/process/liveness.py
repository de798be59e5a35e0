"""Health of a process by its heartbeat: the state, since when, and why."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pipeline.process.clock import Clock
from pipeline.process.heartbeat import HeartbeatReading

HEARTBEAT_LIMIT_S = 30.0
"""A stage whose last heartbeat is older is killed."""
SILENCE_LIMIT_S = 8.0
"""A stage whose last heartbeat is older is hung; health must report it within ten seconds."""


class StageState(StrEnum):
    """State of a process."""

    OK = "ok"
    FAILING = "failing"
    """It is alive and reports a problem."""
    STARTING = "starting"
    HUNG = "hung"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class StageHealth:
    """State of a slot; since when (UTC, None: unknown); and why, empty if there is no problem."""

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
