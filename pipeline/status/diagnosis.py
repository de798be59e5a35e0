"""Problems and notes for the operator, found in one snapshot: what is wrong, why, and what to do. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.process.liveness import HEARTBEAT_LIMIT_S, StageHealth, StageState
from pipeline.process.supervisor import NO_ROOM
from pipeline.process.supervisor import SLOT_NAME as SUPERVISOR
from pipeline.settings.values import format_duration
from pipeline.status import gaps
from pipeline.status.snapshot import Snapshot, counted
from pipeline.store.dead import DeadQueue
from pipeline.store.outbox import SinkName
from pipeline.store.relay_records import RelayRecord
from pipeline.store.relay_status import RelayState
from pipeline.store.relays import OperatorOverride

_MIN_FREE_BYTES: Final = 64 << 20
_CROWDED: Final = "crowded"
"""What a relay's last error begins with if it was not dialled for the sake of others at its address."""
_RELAY_QUEUE: Final = f"outbox-{SinkName.RELAY}"
_DAY_MS: Final = 86_400_000
# A backlog is full in bytes where not even such an event fits.
_LARGE_EVENT_BYTES: Final = 1 << 20
_NAMED: Final = 3
"""Of many alike so many are named; the others are counted."""


class Severity(StrEnum):
    """How much a diagnosis matters."""

    PROBLEM = "problem"
    """Something stands still, or events are dead letters."""
    NOTE = "note"
    """The service copes; what others do makes it incomplete or late."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One problem or note: where, what and since when, and what an operator can do (empty: nothing is needed).

    `event`: the id, in hexadecimal, of the event that it is about, where it is about one.
    """

    weight: Severity
    subject: str
    what: str
    advice: str = ""
    event: str = ""


def diagnose(seen: Snapshot, max_queue_age: int) -> list[Diagnosis]:
    """Return problems, then notes; `max_queue_age` in ms, 0 for any age."""
    found = [
        *_stages(seen),
        *_disk(seen),
        *_queues(seen, max_queue_age),
        *_backlog(seen),
        *_kept(seen),
        *_dead(seen),
        *_failing(seen),
        *_restarts(seen),
        *_relays(seen),
        *_gaps(seen),
        *_absences(seen),
        *_live(seen),
        *_costs(seen),
        *_proxies(seen),
        *_shares(seen),
        *_crowded(seen),
    ]
    return sorted(found, key=lambda each: each.weight is not Severity.PROBLEM)


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


def _stages(seen: Snapshot) -> Iterator[Diagnosis]:
    if not seen.stages:
        yield Diagnosis(Severity.PROBLEM, "service", "no stage runs", "start it: event-service supervise")
    for stage in unhealthy_stages(seen.stages):
        if stage.why.startswith(NO_ROOM) and seen.free_bytes < _MIN_FREE_BYTES:
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


def _disk(seen: Snapshot) -> Iterator[Diagnosis]:
    if seen.free_bytes < _MIN_FREE_BYTES:
        what = f"{NO_ROOM}: {seen.free_bytes >> 20} MiB are left beside the database"
        yield Diagnosis(Severity.PROBLEM, "disk", what, "make room; nothing is accepted that cannot be kept")


def _queues(seen: Snapshot, max_age: int) -> Iterator[Diagnosis]:
    off = _off(seen)
    for queue in seen.queues:
        if queue.name not in off and max_age and queue.oldest_ms is not None and queue.oldest_ms > max_age:
            what = f"{queue.waiting:,} pending, the oldest for {rough_duration(queue.oldest_ms)}"
            yield Diagnosis(Severity.PROBLEM, queue.name, what, "see what the stage that empties it reports")


def _backlog(seen: Snapshot) -> Iterator[Diagnosis]:
    queue = next((queue for queue in seen.queues if queue.name == _RELAY_QUEUE), None)
    if queue is None or _RELAY_QUEUE in _off(seen):
        return
    is_full = 0 < seen.relay_backlog <= queue.waiting
    if is_full or 0 < seen.relay_backlog_bytes <= queue.bytes + _LARGE_EVENT_BYTES:
        yield Diagnosis(
            Severity.PROBLEM, _RELAY_QUEUE, f"backlog full ({queue.waiting:,} events): the oldest are being discarded",
            f"see what the sender reports; EVENTS_TARGET_RELAY_BACKLOG{'' if is_full else '_BYTES'} is the bound",
        )  # fmt: skip


def _kept(seen: Snapshot) -> Iterator[Diagnosis]:
    for queue in seen.queues:
        if queue.name in (off := _off(seen)) and queue.waiting:
            yield Diagnosis(
                Severity.NOTE, queue.name, f"{_count(queue.waiting, 'event')} kept for a sink that is off",
                "switch it on to deliver them, or drop them: "
                f"event-service dead drop --sink {off[queue.name]}",
            )  # fmt: skip


def _off(seen: Snapshot) -> dict[str, SinkName]:
    """Return the queues of sinks that are off."""
    on = {sink.name for sink in seen.sinks}
    return {f"outbox-{sink}": sink for sink in SinkName if sink not in on}


def _dead(seen: Snapshot) -> Iterator[Diagnosis]:
    for queue, status in zip(DeadQueue, seen.queues, strict=True):
        if status.dead:
            reasons = Counter(row.reason for row in seen.dead if row.queue is queue)
            why = "; ".join(reason for reason, _ in reasons.most_common(_NAMED))
            yield Diagnosis(
                Severity.PROBLEM, status.name, f"{_count(status.dead, 'dead letter')}: {why}",
                f"event-service dead list --queue {queue}; then dead retry or dead drop",
            )  # fmt: skip


def _failing(seen: Snapshot) -> Iterator[Diagnosis]:
    names = {None: "inbox"} | {sink.name: f"outbox-{sink.name}" for sink in seen.sinks}
    kinds = counted({kind: count for (stage, kind), count in seen.errors.items() if stage == "saver"})
    retries = {sink.name: counted(sink.retries) for sink in seen.sinks}
    for sink, name in names.items():
        rows = [row for row in seen.failing if row.sink == sink]
        if rows:
            worst = max(rows, key=lambda row: row.failures)
            why = kinds if sink is None else retries.get(sink, "")
            what = f"{_count(len(rows), 'event')} failed and to be retried, one {worst.failures} times"
            what += f"; so far: {why}" if why else ""
            event = worst.event_id.hex()
            yield Diagnosis(Severity.NOTE, name, what, f"event-service explain {event}", event)


def _restarts(seen: Snapshot) -> Iterator[Diagnosis]:
    for (slot, reason), count in seen.exits.items():
        if reason == "no-room":
            continue
        what = f"crashed {_count(count, 'time')} and was restarted: {reason}"
        yield Diagnosis(Severity.NOTE, slot, what, "the log has why")


def _absences(seen: Snapshot) -> Iterator[Diagnosis]:
    """Relays that are swept since they were away, the longest first."""
    owed = sorted((relay for relay in seen.relays if relay.owed_since), key=lambda relay: relay.owed_since)
    for relays, what in (
        ([relay for relay in owed if relay.is_resweeping], "being swept for what came while we were away"),
        ([relay for relay in owed if not relay.is_resweeping], "still to be swept for what came while we were away"),
    ):
        if relays:
            since = rough_duration(max(0, seen.now - 1000 * relays[0].owed_since))
            yield Diagnosis(
                Severity.NOTE,
                "relays",
                f"{_count(len(relays), 'relay')} {what}, the oldest for {since}: {_named(relays)}",
            )


def _live(seen: Snapshot) -> Iterator[Diagnosis]:
    """Relays that are polled since their live subscriptions left out events."""
    polled = [relay for relay in seen.relays if relay.crawled_since is not None and relay.live_missed_at]
    if polled:
        yield Diagnosis(
            Severity.NOTE,
            "relays",
            f"{_count(len(polled), 'relay')} left out events of live subscriptions: polled. {_named(polled)}",
            "nothing: they are trusted again after a day",
        )


def _costs(seen: Snapshot) -> Iterator[Diagnosis]:
    """Relays whose events cost more than they may."""
    forging = [relay for relay in seen.relays if relay.forged_at and seen.now - relay.forged_at < _DAY_MS]
    if forging:
        yield Diagnosis(
            Severity.NOTE,
            "relays",
            f"{_count(len(forging), 'relay')} cut off for forged events: "
            + _some([f"{relay.address} ({_count(relay.forged, 'event')})" for relay in forging]),
            "nothing: it is dialled again after a while; event-service relays remove ADDRESS gives it up",
        )
    paced = [relay for relay in seen.relays if relay.paced_at and relay.crawled_since is not None]
    if paced:
        yield Diagnosis(
            Severity.NOTE,
            "relays",
            f"{_count(len(paced), 'relay')} brought more bytes of authors whom no user follows than"
            f" EVENTS_RELAY_BYTE_RATE allows: {_some([relay.address for relay in paced])}",
            "nothing: the rest is fetched later, at that rate",
        )


def _relays(seen: Snapshot) -> Iterator[Diagnosis]:
    crawled = [
        relay for relay in seen.relays
        if relay.crawled_since is not None and relay.operator is not OperatorOverride.REMOVED
    ]  # fmt: skip
    up = [relay for relay in crawled if relay.state in (RelayState.CONNECTED, RelayState.BACKPRESSURED)]
    if crawled and not up:
        yield Diagnosis(
            Severity.PROBLEM, "relays", f"none of {len(crawled)} is connected: {_named(crawled)}",
            "event-service check --online says whether they can be reached from here",
        )  # fmt: skip
    yield from _connected(up)
    if up:
        yield from _unreachable(crawled)


def _connected(up: Sequence[RelayRecord]) -> Iterator[Diagnosis]:
    held = [relay for relay in up if relay.state is RelayState.BACKPRESSURED]
    if held:
        yield Diagnosis(
            Severity.PROBLEM, "relays", f"{len(held)} are not read: too many events are pending",
            "see the queues: the stage that empties the longest one is too slow or down",
        )  # fmt: skip
    refusing = [relay for relay in up if relay.last_error]
    if refusing:
        yield Diagnosis(
            Severity.NOTE, "relays", f"{_count(len(refusing), 'relay')} refuse some requests: "
            f"{_named(refusing)}", "event-service relays show ADDRESS",
        )  # fmt: skip


def _unreachable(crawled: Sequence[RelayRecord]) -> Iterator[Diagnosis]:
    down = [relay for relay in crawled if relay.state is RelayState.DISCONNECTED and relay.failures]
    # Those that were cut off are reported separately.
    down = [relay for relay in down if not relay.forged_at or relay.forged_at < relay.state_since]
    if down:
        yield Diagnosis(
            Severity.NOTE, "relays", f"{_count(len(down), 'relay')} cannot be reached: {_named(down)}",
            "they are dialled again, ever later; event-service relays remove ADDRESS ends that",
        )  # fmt: skip


def _gaps(seen: Snapshot) -> Iterator[Diagnosis]:
    reasons: dict[str, list[str]] = {}
    for gap in seen.gaps:
        more = f" and {gap.count - 1:,} more" if gap.count > 1 else ""
        reasons.setdefault(gap.reason, []).append(f"{gap.address} ({gaps.describe(gap)}{more})")
    for reason, found in reasons.items():
        yield Diagnosis(
            Severity.NOTE, "gaps", f"{reason} at {_some(found)}: {gaps.describe_reason(reason)}",
            "it closes by itself once the relay returns what it holds; other relays may hold the same events."
            " event-service relays show ADDRESS lists all",
        )  # fmt: skip


def _proxies(seen: Snapshot) -> Iterator[Diagnosis]:
    if seen.discarded.get(("server", "unnamed-proxy")):
        yield Diagnosis(
            Severity.NOTE, "web server", "forwarded requests arrive from an address that EVENTS_TRUSTED_PROXIES does "
            "not name: their X-Forwarded-For is ignored", "if a reverse proxy of yours sends them, set "
            "EVENTS_TRUSTED_PROXIES to its address and restart, so that clients are bounded one by one",
        )  # fmt: skip


def _crowded(seen: Snapshot) -> Iterator[Diagnosis]:
    put_off = [relay for relay in seen.relays if relay.last_error.startswith(f"{_CROWDED}: ")]
    if put_off:
        yield Diagnosis(
            Severity.NOTE, "relays", f"{_count(len(put_off), 'relay')} put off, since many names lead to one address, "
            f"network or domain: {_named(put_off)}", "nothing: they are dialled in turn. One that you add by "
            "event-service relays add ADDRESS always is",
        )  # fmt: skip


def _shares(seen: Snapshot) -> Iterator[Diagnosis]:
    if seen.waiting.followees:
        waiting = f"{_count(seen.waiting.followees, 'followee')} of {_count(seen.waiting.users, 'user')} wait"
        yield Diagnosis(
            Severity.NOTE, "users", f"{waiting}: {seen.budget.authors:,} authors are wanted of at most "
            f"{seen.budget.max_authors:,}. The newest and largest users yield", "raise EVENTS_MAX_WANTED_AUTHORS, or "
            "end registrations that follow invented keys: event-service users list, users block; EVENTS_REGISTRATION "
            "restricts new ones",
        )  # fmt: skip


def _named(relays: Iterable[RelayRecord]) -> str:
    return _some([f"{relay.address} ({relay.last_error or relay.state})" for relay in relays])


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def rough_duration(milliseconds: int) -> str:
    """Return a duration in the largest unit that fits, as 3h or 12s."""
    for unit in (86_400_000, 3_600_000, 60_000, 1_000):
        if milliseconds >= unit:
            return format_duration(milliseconds // unit * unit)
    return "0s"
