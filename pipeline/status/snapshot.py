"""The service at one moment, read from its database, its heartbeats and its counters."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.process.clock import Clock
from pipeline.process.counters import Counted, read_counters
from pipeline.process.heartbeat import read_heartbeats
from pipeline.process.liveness import StageHealth, health_of
from pipeline.process.slots import settings_directory
from pipeline.settings.choices import HostRole, SinkKind, SinkSetting
from pipeline.settings.config import Config
from pipeline.settings.running import recorded_settings
from pipeline.store import (
    backups,
    dead,
    gaps,
    gauges,
    host_counts,
    hosts,
    relay_records,
    replay_queue,
    replays,
    sinks,
    throughput,
)
from pipeline.store.audits import AuditOutcome
from pipeline.store.database import Database, Tx
from pipeline.store.dead import DeadRow
from pipeline.store.disk import disk_use, has_room_for_strangers, is_full
from pipeline.store.gaps import GapSummary
from pipeline.store.gauges import Failing, QueueGauges
from pipeline.store.hosts import HostState, Unfit
from pipeline.store.relay_records import RelayRecord
from pipeline.store.shares import Budget, Waiting
from pipeline.store.sinks import SinkName
from pipeline.store.throughput import Sample

MAX_RELAYS: Final = 5_000
MAX_DEAD_SHOWN: Final = 8
MAX_GAPS: Final = 5_000
_COUNTERS: Final = (
    "event_service_stage_discarded_total",
    "event_service_stage_errors_total",
    "event_service_stage_exits_total",
    "event_service_sink_retries_total",
)


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue: rows that wait, age of the oldest (ms, `None` if it is empty), dead letters, bytes of pending events."""

    name: str
    waiting: int
    oldest_ms: int | None
    dead: int
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """A sink that is switched on: where it leads, and how often it asked for something to be offered again, by why."""

    name: SinkName
    target: str
    retries: Mapping[str, int]
    stage: str = "forwarder"
    """The stage that delivers to it, as the slots of its processes begin."""
    backlog: int = 0
    """Events that may wait for it; 0: any number."""
    backlog_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ReplayStatus:
    """A replay: how many events it found, has queued and waits for the forwarder to deliver."""

    sink: str
    total: int
    queued: int
    pending: int
    is_over: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The service at `now` (ms). Counts by reason are since the runtime directory began."""

    now: int
    stages: tuple[StageHealth, ...]
    queues: tuple[QueueStatus, ...]
    sinks: tuple[SinkStatus, ...]
    relays: tuple[RelayRecord, ...]
    gaps: tuple[GapSummary, ...]
    failing: tuple[Failing, ...]
    dead: tuple[DeadRow, ...]
    samples: tuple[Sample, ...]
    discarded: Mapping[tuple[str, str], int]
    errors: Mapping[tuple[str, str], int]
    exits: Mapping[tuple[str, str], int]
    known_addresses: int
    registered_users: int
    budget: Budget
    waiting: Waiting
    database_bytes: int
    has_room_for_strangers: bool
    is_database_full: bool
    wal_bytes: int
    free_bytes: int
    audit: AuditOutcome = field(default_factory=AuditOutcome)
    replay: ReplayStatus | None = None
    """The newest replay, until it is finished and delivered."""
    sinks_of_slots: Mapping[str, str] = field(default_factory=dict)
    """`EVENTS_SINK` as the supervisor has it, and each process that runs alone, by slot."""
    hosts: tuple[HostState, ...] = ()
    """Those that crawl for this host."""
    holders: Mapping[str, str] = field(default_factory=dict)
    """By host of relays, which of them asks it."""
    unfit: tuple[Unfit, ...] = ()
    dropped_by_host: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Events that other hosts dropped, by host and reason."""
    is_home: bool = False
    """This host is home of several."""
    backed_up_at: int | None = None
    """When the newest backup was made (ms); None if there was none."""


def sinks_of(config: Config, tx: Tx) -> tuple[SinkName, ...]:
    """Return the outboxes of the sinks that are on: those of `EVENTS_SINK` in their order, that of the target relay."""
    relay = (SinkName.RELAY,) if config.target_relay is not None else ()
    return (*sinks.outboxes(tx, config.sink_names), *relay)


def read_snapshot(config: Config, database: Database, clock: Clock) -> Snapshot:
    """Return the service as it is; each part is read by itself, so that they may be milliseconds apart."""
    with database.read() as tx:
        seen = gauges.read(tx, max_relays=0)
        now = clock.now_ms()
        records = relay_records.records(tx, everything=False, limit=MAX_RELAYS)
        failing = gauges.failing(tx, now)
        on = sinks_of(config, tx)
        buried = [row for queue in dead.queues(tx) for row in dead.find_newest(tx, queue, MAX_DEAD_SHOWN)]
        hour = throughput.recent(tx)
        open_gaps = gaps.summaries(tx, limit=MAX_GAPS)
        has_room = has_room_for_strangers(tx, config.max_database_bytes)
        is_database_full = is_full(tx, config.max_database_bytes)
        replay = _replay(tx)
        crawling, holders, unfit = hosts.every(tx), hosts.holders(tx), hosts.every_unfit(tx)
        dropped = host_counts.dropped(tx)
        backup = backups.newest(tx)
    disk = disk_use(config.database_path)
    directory = config.runtime_directory
    counters = read_counters(directory, _COUNTERS) if directory.exists() else []
    readings = read_heartbeats(directory, clock) if directory.exists() else []
    return Snapshot(
        now=now,
        stages=tuple(health_of(reading, clock) for reading in readings),
        queues=tuple(_queue(queue, now) for queue in (seen.inbox, *seen.outboxes) if _is_shown(queue, on)),
        sinks=tuple(_sinks(config, on, counters)),
        relays=tuple(records),
        gaps=tuple(open_gaps),
        failing=failing,
        dead=tuple(buried),
        samples=hour,
        discarded=_summed(counters, "event_service_stage_discarded_total", "stage", "reason"),
        errors=_summed(counters, "event_service_stage_errors_total", "stage", "kind"),
        exits=_summed(counters, "event_service_stage_exits_total", "slot", "reason"),
        is_home=config.role is HostRole.HOME,
        backed_up_at=None if backup is None else backup.at,
        known_addresses=seen.known_addresses,
        registered_users=seen.registered_users,
        budget=seen.budget,
        waiting=seen.waiting,
        database_bytes=disk.database,
        has_room_for_strangers=has_room,
        is_database_full=is_database_full,
        wal_bytes=disk.wal,
        free_bytes=disk.free,
        audit=seen.audit,
        replay=replay,
        sinks_of_slots=_sinks_of_slots(directory, [each.slot_name for each in readings if each.alive]),
        hosts=tuple(crawling),
        holders=holders,
        unfit=tuple(unfit),
        dropped_by_host=dropped,
    )


def counted(counts: Mapping[str, int]) -> str:
    """Reasons and how often each was met, in one line."""
    return ", ".join(f"{reason} ({count:,})" for reason, count in counts.items())


def _queue(queue: QueueGauges, now: int) -> QueueStatus:
    name = "inbox" if queue.sink is None else f"outbox-{queue.sink}"
    oldest = None if queue.oldest is None else max(0, now - queue.oldest)
    return QueueStatus(name, queue.waiting, oldest, queue.dead, queue.bytes)


def _sinks_of_slots(directory: Path, slots: Sequence[str]) -> dict[str, str]:
    recorded = {slot: recorded_settings(settings_directory(directory) / slot) for slot in slots}
    return {slot: found["EVENTS_SINK"] for slot, found in recorded.items() if "EVENTS_SINK" in found}


def _replay(tx: Tx) -> ReplayStatus | None:
    newest = replays.latest(tx)
    pending = 0 if newest is None else replay_queue.pending(tx, newest.job)
    if newest is None or (newest.is_over and not pending):
        return None
    return ReplayStatus(newest.scope.sink, newest.total, newest.queued, pending, newest.is_over)


def _is_shown(queue: QueueGauges, on: Sequence[SinkName]) -> bool:
    """Return False for the empty outbox of a sink that once was one of several."""
    is_of_now = queue.sink is None or queue.sink in (*on, SinkName.PUBSUB, SinkName.RELAY)
    return is_of_now or bool(queue.waiting or queue.dead)


def stage_of(sink: SinkName, on: Sequence[SinkName]) -> str:
    """Return the stage that delivers to `sink`, one of those that are `on`."""
    if sink == SinkName.RELAY:
        return "sender"
    return "forwarder" if sink == on[0] else f"forwarder-{sink}"


def _sinks(config: Config, on: Sequence[SinkName], counters: list[Counted]) -> Iterator[SinkStatus]:
    retries = _summed(counters, "event_service_sink_retries_total", "sink", "reason")
    targets = [*(_target(config, setting) for setting in config.sink), str(config.target_relay)]
    for number, (sink, target) in enumerate(zip(on, targets, strict=False)):
        bounds = (0, 0) if number == 0 else (config.sink_backlog, config.sink_backlog_bytes)
        if sink == SinkName.RELAY:
            bounds = (config.target_relay_backlog, config.target_relay_backlog_bytes)
        reasons = {why: count for (name, why), count in retries.items() if name == sink}
        yield SinkStatus(sink, target, reasons, stage_of(sink, on), *bounds)


def _target(config: Config, setting: SinkSetting) -> str:
    if setting.kind is not SinkKind.PUBSUB:
        return str(setting)
    project = config.google_pubsub_project_id
    # A command beside the service may lack the setting.
    unset = f"topic {config.pubsub_topic}; EVENTS_GOOGLE_PUBSUB_PROJECT_ID is not set here"
    return f"projects/{project}/topics/{config.pubsub_topic}" if project else unset


def _summed(counters: list[Counted], name: str, *labels: str) -> dict[tuple[str, str], int]:
    """Return the counters of `name` by the values of two labels, added up over processes, the largest first."""
    found: Counter[tuple[str, str]] = Counter()
    for each in counters:
        if each.name == name and each.value:
            found[each.labels[labels[0]], each.labels[labels[1]]] += round(each.value)
    return dict(found.most_common())
