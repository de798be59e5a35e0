"""Problems and notes for the operator, found in one snapshot: what is wrong, why, and what to do. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.printable import count_of
from pipeline.process.liveness import HEARTBEAT_LIMIT_S, StageHealth, StageState
from pipeline.process.supervisor import NO_ROOM
from pipeline.process.supervisor import SLOT_NAME as SUPERVISOR
from pipeline.status.diagnosis import MAX_NAMED, Diagnosis, Severity, rough_duration
from pipeline.status.host_diagnosis import diagnose_hosts
from pipeline.status.relay_diagnosis import diagnose_crowding, diagnose_relays
from pipeline.status.snapshot import Snapshot, counted
from pipeline.store.sinks import SinkName

_MIN_FREE_BYTES: Final = 64 << 20
# The timer makes one each night.
_OLD_BACKUP_MS: Final = 3 * 86_400_000
_OUTBOX: Final = "outbox-"
# A backlog is full in bytes where not even such an event fits.
_LARGE_EVENT_BYTES: Final = 1 << 20


def diagnose(snapshot: Snapshot, max_queue_age: int) -> list[Diagnosis]:
    """Return problems, then notes; `max_queue_age` in ms, 0 for any age."""
    found = [
        *_stages(snapshot),
        *_settings(snapshot),
        *_disk(snapshot),
        *_queues(snapshot, max_queue_age),
        *_backlog(snapshot),
        *_kept(snapshot),
        *_dead(snapshot),
        *_failing(snapshot),
        *_restarts(snapshot),
        *diagnose_relays(snapshot),
        *_proxies(snapshot),
        *_shares(snapshot),
        *diagnose_crowding(snapshot),
        *diagnose_hosts(snapshot),
        *_audit(snapshot),
        *_backups(snapshot),
    ]
    return sorted(found, key=lambda each: each.severity is not Severity.PROBLEM)


def unhealthy_stages(stages: Sequence[StageHealth]) -> Iterator[StageHealth]:
    """Yield the processes that are not healthy.

    A supervisor knows its stages and reports one that is missing. Any other process that exited was started by hand,
    and is left out.
    """
    is_supervised = any(stage.slot == SUPERVISOR and stage.state is not StageState.EXITED for stage in stages)
    complaints = {stage.why for stage in stages if stage.slot == SUPERVISOR}
    for stage in stages:
        if stage.state is StageState.OK:
            continue
        if stage.state is StageState.EXITED and is_supervised and not any(stage.slot in each for each in complaints):
            continue
        yield stage


def _stages(snapshot: Snapshot) -> Iterator[Diagnosis]:
    if not snapshot.stages:
        yield Diagnosis(Severity.PROBLEM, "service", "no stage runs", "start it: event-service supervise")
    for stage in unhealthy_stages(snapshot.stages):
        if stage.why.startswith(NO_ROOM) and snapshot.free_bytes < _MIN_FREE_BYTES:
            # Reported once, as a problem of the disk.
            continue
        since = "" if stage.since is None else f" since {stage.since}"
        weight = Severity.NOTE if stage.state is StageState.STARTING else Severity.PROBLEM
        yield Diagnosis(weight, stage.slot, f"{stage.state}{since}: {stage.why}", _stage_advice(stage))


def _stage_advice(stage: StageHealth) -> str:
    match stage.state:
        case StageState.HUNG:
            return (
                f"after {HEARTBEAT_LIMIT_S:.0f} s without a heartbeat it is killed and restarted; what it held is kept"
            )
        case StageState.EXITED:
            return "the log says why it exited; event-service supervise restarts it"
        case StageState.FAILING:
            return "its work stays queued; event-service check --online tests what it needs"
        case _:
            return ""


def _settings(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Name processes with different sinks: a saver writes for those that it was started with."""
    slots: dict[str, list[str]] = {}
    for slot, text in sorted(snapshot.sinks_of_slots.items()):
        slots.setdefault(text, []).append(slot)
    if len(slots) > 1:
        # Without arguments of plugins, which may be secret.
        parts = [
            f"{','.join(each.partition(':')[0] for each in text.split(','))} in {', '.join(names)}"
            for text, names in slots.items()
        ]
        yield Diagnosis(
            Severity.PROBLEM, "EVENTS_SINK", f"processes run with different settings: {'; '.join(parts)}",
            "restart those that have the old one: until then a sink may get nothing",
        )  # fmt: skip


def _disk(snapshot: Snapshot) -> Iterator[Diagnosis]:
    if snapshot.free_bytes < _MIN_FREE_BYTES:
        what = f"{NO_ROOM}: {snapshot.free_bytes >> 20} MiB are left beside the database"
        yield Diagnosis(Severity.PROBLEM, "disk", what, "make room; nothing is accepted that cannot be kept")
    if snapshot.is_database_full:
        what = "the database uses a quarter more than EVENTS_MAX_DATABASE_BYTES: relays are not read"
        action = "raise it; what is pending is delivered, and relays are read on once there is room"
        yield Diagnosis(Severity.PROBLEM, "database", what, action)
    elif not snapshot.has_room_for_strangers:
        what = "the database uses more than EVENTS_MAX_DATABASE_BYTES: profiles and lists of strangers are dropped"
        yield Diagnosis(
            Severity.PROBLEM, "database", what, "raise it; events of and about your users are saved as ever"
        )


def _queues(snapshot: Snapshot, max_age: int) -> Iterator[Diagnosis]:
    off = _off(snapshot)
    for queue in snapshot.queues:
        if queue.name not in off and max_age and queue.oldest_ms is not None and queue.oldest_ms > max_age:
            what = f"{queue.waiting:,} pending, the oldest for {rough_duration(queue.oldest_ms)}"
            yield Diagnosis(Severity.PROBLEM, queue.name, what, "see what the stage that empties it reports")


def _backlog(snapshot: Snapshot) -> Iterator[Diagnosis]:
    queues = {queue.name: queue for queue in snapshot.queues}
    for sink in snapshot.sinks:
        queue = queues.get(f"{_OUTBOX}{sink.name}")
        if queue is None:
            # The service has not been started since it was named.
            continue
        is_full = 0 < sink.backlog <= queue.waiting
        if is_full or 0 < sink.backlog_bytes <= queue.bytes + _LARGE_EVENT_BYTES:
            setting = "EVENTS_TARGET_RELAY_BACKLOG" if sink.name == SinkName.RELAY else "EVENTS_SINK_BACKLOG"
            yield Diagnosis(
                Severity.PROBLEM, queue.name,
                f"backlog full ({count_of(queue.waiting, 'event')}): the oldest are being discarded",
                f"see what the {sink.stage} reports; {setting}{'' if is_full else '_BYTES'} is the bound",
            )  # fmt: skip


def _kept(snapshot: Snapshot) -> Iterator[Diagnosis]:
    for queue in snapshot.queues:
        if queue.name in (off := _off(snapshot)) and queue.waiting:
            yield Diagnosis(
                Severity.NOTE, queue.name, f"{count_of(queue.waiting, 'event')} kept for a sink that is off",
                "switch it on to deliver them, or drop them: "
                f"event-service dead drop --sink {off[queue.name]}",
            )  # fmt: skip


def _audit(snapshot: Snapshot) -> Iterator[Diagnosis]:
    audit = snapshot.audit
    if audit.missed:
        yield Diagnosis(
            Severity.NOTE, "audit",
            f"{audit.missed:,} of {count_of(audit.had + audit.missed, 'event')} of the newest sample had been missed",
            "they were fetched; the sweeper's log names them, event-service audit --users looks for others",
        )  # fmt: skip


def _backups(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Yield what is wrong with the backups of home, from which another host would go on."""
    at = snapshot.backed_up_at
    if not snapshot.is_home or (at is not None and snapshot.now - at < _OLD_BACKUP_MS):
        return
    what = "there is no backup" if at is None else f"the newest backup is {rough_duration(snapshot.now - at)} old"
    lost = snapshot.errors.get(("hub", "unbacked-parcels"), 0)
    what += f", and the hub dropped {count_of(lost, 'parcel')} that no host has" if lost else ""
    yield Diagnosis(
        Severity.PROBLEM if lost else Severity.NOTE, "backups", f"{what}: if this host is lost, so is what came before"
        " the hub's log", "event-service backup --keep 7 FOLDER, or systemctl enable --now event-service-backup.timer",
    )  # fmt: skip


def _off(snapshot: Snapshot) -> dict[str, SinkName]:
    """Return the queues of sinks that are off."""
    on = {f"outbox-{sink.name}" for sink in snapshot.sinks}
    outboxes = [queue.name for queue in snapshot.queues if queue.name.startswith(_OUTBOX)]
    return {name: SinkName(name.removeprefix(_OUTBOX)) for name in outboxes if name not in on}


def _dead(snapshot: Snapshot) -> Iterator[Diagnosis]:
    for status in snapshot.queues:
        if status.dead:
            queue = status.name.removeprefix(_OUTBOX)
            reasons = Counter(row.reason for row in snapshot.dead if row.queue == queue)
            why = "; ".join(reason for reason, _ in reasons.most_common(MAX_NAMED))
            yield Diagnosis(
                Severity.PROBLEM, status.name, f"{count_of(status.dead, 'dead letter')}: {why}",
                f"event-service dead list --queue {queue}; then dead retry or dead drop",
            )  # fmt: skip


def _failing(snapshot: Snapshot) -> Iterator[Diagnosis]:
    names = {None: "inbox"} | {sink.name: f"outbox-{sink.name}" for sink in snapshot.sinks}
    kinds = counted({kind: count for (stage, kind), count in snapshot.errors.items() if stage == "saver"})
    retries = {sink.name: counted(sink.retries) for sink in snapshot.sinks}
    for sink, name in names.items():
        rows = [row for row in snapshot.failing if row.sink == sink]
        if rows:
            worst = max(rows, key=lambda row: row.failures)
            why = kinds if sink is None else retries.get(sink, "")
            what = f"{count_of(len(rows), 'event')} failed and to be retried, one {count_of(worst.failures, 'time')}"
            what += f"; so far: {why}" if why else ""
            event = worst.event_id.hex()
            yield Diagnosis(Severity.NOTE, name, what, f"event-service explain {event}", event)


def _restarts(snapshot: Snapshot) -> Iterator[Diagnosis]:
    for (slot, reason), count in snapshot.exits.items():
        if reason == "no-room":
            continue
        what = f"crashed {count_of(count, 'time')} and was restarted: {reason}"
        yield Diagnosis(Severity.NOTE, slot, what, "the log has why")


def _proxies(snapshot: Snapshot) -> Iterator[Diagnosis]:
    if snapshot.discarded.get(("server", "unnamed-proxy")):
        yield Diagnosis(
            Severity.NOTE, "web server", "forwarded requests arrive from an address that EVENTS_TRUSTED_PROXIES does "
            "not name: their X-Forwarded-For is ignored", "if a reverse proxy of yours sends them, set "
            "EVENTS_TRUSTED_PROXIES to its address and restart, so that clients are bounded one by one",
        )  # fmt: skip


def _shares(snapshot: Snapshot) -> Iterator[Diagnosis]:
    if snapshot.waiting.followees:
        waiting = (
            f"{count_of(snapshot.waiting.followees, 'followee')} of {count_of(snapshot.waiting.users, 'user')} waiting"
        )
        yield Diagnosis(
            Severity.NOTE, "users", f"{waiting}: {count_of(snapshot.budget.authors, 'author', 'are')} wanted of at "
            f"most {snapshot.budget.max_authors:,}. The newest and largest users yield",
            "raise EVENTS_MAX_WANTED_AUTHORS, or end registrations that follow invented keys: event-service users "
            "list, users block; EVENTS_REGISTRATION "
            "restricts new ones",
        )  # fmt: skip
