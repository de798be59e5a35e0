"""`event-service status`: what the service does right now, from its database and its heartbeats."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from pipeline.commands.setting_up import config_or_exit, open_or_exit
from pipeline.config import Config
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.heartbeat import HeartbeatReading, read_heartbeats
from pipeline.process.stage import HEARTBEAT_LIMIT_S
from pipeline.process.stop import Stop
from pipeline.store import overview
from pipeline.store.database import Database, wal_bytes
from pipeline.store.overview import Overview, QueueGauges
from pipeline.values import format_duration

_EVERY_S: Final = 1.0
_MAX_RELAYS: Final = 100_000
_CLEAR: Final = "\x1b[H\x1b[2J"


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue: rows that wait, age of the oldest (ms, `None` if it is empty), rows given up."""

    name: str
    waiting: int
    oldest_ms: int | None
    dead: int


@dataclass(frozen=True, slots=True)
class StageStatus:
    """A process: whether it beats, the seconds since it last did, and what it says of itself."""

    slot: str
    state: str
    beat_age_s: float | None
    pid: int
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """The service at one moment."""

    stages: tuple[StageStatus, ...]
    queues: tuple[QueueStatus, ...]
    relays: dict[str, int]
    known_addresses: int
    registered_users: int
    database_bytes: int
    wal_bytes: int


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("--watch", is_flag=True, help="Show it anew every second until Ctrl-C.")
def status(as_json: bool, watch: bool) -> None:
    """Print stages, queues and relays of a running service.

    Example: event-service status --watch
    """
    config, clock = config_or_exit(), SystemClock()
    with open_or_exit(config) as database:
        show(config, database, clock, as_json=as_json)
        stop = Stop()
        while watch:
            try:
                stop.wait(_EVERY_S)
                click.echo("" if as_json else _CLEAR, nl=False)
                show(config, database, clock, as_json=as_json)
            except KeyboardInterrupt:
                return


def show(config: Config, database: Database, clock: Clock, *, as_json: bool) -> None:
    """Print the status once."""
    found = read_status(config, database, clock)
    click.echo(json.dumps(asdict(found)) if as_json else as_text(found))


def read_status(config: Config, database: Database, clock: Clock) -> Status:
    """The status by the database and the heartbeats."""
    with database.read() as tx:
        seen: Overview = overview.read(tx, max_relays=_MAX_RELAYS)
    now = clock.now_ms()
    readings = read_heartbeats(config.runtime_directory, clock) if config.runtime_directory.exists() else []
    return Status(
        stages=tuple(_stage(reading) for reading in sorted(readings, key=lambda reading: reading.slot_name)),
        queues=tuple(_queue(queue, now) for queue in (seen.inbox, *seen.outboxes)),
        relays=dict(sorted(Counter(relay.state.value for relay in seen.relays).items())),
        known_addresses=seen.known_addresses,
        registered_users=seen.registered_users,
        database_bytes=_size(config.database_path),
        wal_bytes=wal_bytes(config.database_path),
    )


def as_text(found: Status) -> str:
    """The status for a person."""
    lines = [f"{stage.slot:<14} {stage.state:<9} {_age(stage):<14} {stage.text}".rstrip() for stage in found.stages]
    lines = lines or ["no stage runs"]
    lines.append("")
    for queue in found.queues:
        oldest = (
            "" if queue.oldest_ms is None else f", the oldest for {format_duration(queue.oldest_ms // 1000 * 1000)}"
        )
        lines.append(f"{queue.name:<14} {queue.waiting} waiting{oldest}, {queue.dead} dead")
    relays = ", ".join(f"{count} {state}" for state, count in found.relays.items()) or "none yet"
    lines += [
        "",
        f"relays         {relays}; {found.known_addresses} addresses known",
        f"users          {found.registered_users} registered",
        f"database       {found.database_bytes >> 20} MiB, write-ahead log {found.wal_bytes >> 20} MiB",
    ]
    return "\n".join(lines)


def _stage(reading: HeartbeatReading) -> StageStatus:
    if not reading.alive:
        state = "gone"
    elif not reading.ready:
        state = "starting"
    else:
        state = "runs" if reading.age_s <= HEARTBEAT_LIMIT_S else "hangs"
    age = round(reading.age_s, 1) if reading.ready else None
    return StageStatus(reading.slot_name, state, age, reading.pid, reading.status)


def _queue(queue: QueueGauges, now: int) -> QueueStatus:
    name = "inbox" if queue.sink is None else f"outbox-{queue.sink}"
    return QueueStatus(name, queue.waiting, None if queue.oldest is None else max(0, now - queue.oldest), queue.dead)


def _age(stage: StageStatus) -> str:
    return "" if stage.beat_age_s is None else f"beat {stage.beat_age_s} s ago"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
