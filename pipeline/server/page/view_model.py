"""What the page shows, gathered from the database, the heartbeats and the metrics files."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Final

from pipeline.nostr.address import parse_address
from pipeline.process.clock import Clock
from pipeline.process.counters import read_newest
from pipeline.process.liveness import utc
from pipeline.process.metrics import LEFT
from pipeline.server.page.charts import Plot, milliseconds, plots
from pipeline.server.page.request import PageRequest
from pipeline.settings.choices import SinkKind
from pipeline.settings.config import Config
from pipeline.status import gaps
from pipeline.status.coverage import Coverage, coverage
from pipeline.status.diagnosis import Diagnosis, rough_duration
from pipeline.status.explain import Recent, TraceLine, explain_event
from pipeline.status.explain import newest as newest_events
from pipeline.status.host_view import HostRow, host_rows
from pipeline.status.service_diagnosis import diagnose
from pipeline.status.snapshot import SinkStatus, Snapshot, read_snapshot, sinks_of
from pipeline.store import host_counts
from pipeline.store.database import Database
from pipeline.store.dead import DeadRow
from pipeline.store.relay_records import RelayRecord
from pipeline.store.relay_status import RelayState
from pipeline.store.sinks import SinkName

MAX_NEWEST: Final = 12
"""Events that are listed for who wants to trace one."""
MAX_SHOWN: Final = 100
"""Rows on one page of the table of relays."""
MAX_COVERING: Final = 50
"""Relays that are listed for one user."""
_BEHIND: Final = "event_service_crawl_relay_seconds_behind"
_LIVE: Final = frozenset({RelayState.CONNECTED, RelayState.BACKPRESSURED})


@dataclass(frozen=True, slots=True)
class RelayRow:
    """A line of the table of relays; `behind` in seconds, `None` where nothing is known."""

    address: str
    state: str
    asked: str
    behind: int | None
    novel: int
    subscriptions: int
    gaps: int
    gap_reasons: str
    error: str
    host: str = ""
    """Which host asks it, where several crawl."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue, what it is for, and how it stands; `oldest` is an age in words."""

    name: str
    purpose: str
    waiting: int
    oldest: str
    dead: int


@dataclass(frozen=True, slots=True)
class DeadLine:
    """A dead letter."""

    queue: str
    number: int
    event_id: str
    reason: str
    at: str


@dataclass(frozen=True, slots=True)
class NewestLine:
    """One of the newest events; `age` and `delay` in words, `delay` empty while it waits for the sink."""

    event_id: str
    kind: int
    author: str
    why: str
    age: str
    delay: str


@dataclass(frozen=True, slots=True)
class View:
    """Everything but stages and problems, which health knows."""

    now: str
    diagnoses: tuple[Diagnosis, ...]
    plots: tuple[Plot, ...]
    queues: tuple[QueueRow, ...]
    relays: tuple[RelayRow, ...]
    relays_found: int
    page: int
    pages: int
    relays_by_state: dict[str, int]
    known_addresses: int
    users: int
    wal_mib: float
    dead: tuple[DeadLine, ...]
    trace: tuple[TraceLine, ...]
    newest: tuple[NewestLine, ...]
    coverage: Coverage | None = None
    """Of the user asked for, if they are wanted."""
    hosts: tuple[HostRow, ...] = ()
    """Those that crawl for this one."""


def gather(database: Database, config: Config, clock: Clock, request: PageRequest) -> View:
    """Look at everything; some milliseconds, and a tenth of a second with thousands of relays."""
    seen = read_snapshot(config, database, clock)
    trace: tuple[TraceLine, ...] = ()
    with database.read() as tx:
        newest = newest_events(tx, MAX_NEWEST, next(iter(sinks_of(config, tx)), SinkName.PUBSUB))
        if request.event_id is not None:
            trace = tuple(explain_event(tx, request.event_id))
        covered = None if request.user_key is None else coverage(tx, request.user_key, MAX_COVERING)
        relayed = host_counts.newest_gauges(tx, _BEHIND, "address") if seen.hosts else {}
    rows = _relay_rows(seen, config.runtime_directory, relayed)
    found = [row for row in rows if request.finds(row.address, row.state, row.error)]
    pages = max(1, math.ceil(len(found) / MAX_SHOWN))
    page = min(request.page, pages)
    states: dict[str, int] = defaultdict(int)
    for record in seen.relays:
        states[record.state.value] += 1
    return View(
        now=utc(seen.now / 1000),
        diagnoses=tuple(diagnose(seen, config.max_queue_age)),
        plots=plots(seen.samples, seen.now),
        queues=tuple(_queue_rows(seen, config)),
        relays=tuple(_sorted(found, request)[(page - 1) * MAX_SHOWN : page * MAX_SHOWN]),
        relays_found=len(found),
        page=page,
        pages=pages,
        relays_by_state=dict(states),
        known_addresses=seen.known_addresses,
        users=seen.registered_users,
        wal_mib=seen.wal_bytes / (1 << 20),
        dead=tuple(_dead_line(row) for row in sorted(seen.dead, key=attrgetter("buried_at"), reverse=True)),
        trace=trace,
        newest=tuple(_newest_line(each, seen.now) for each in newest),
        coverage=covered,
        hosts=tuple(host_rows(seen)),
    )


def _newest_line(found: Recent, now: int) -> NewestLine:
    delay = "" if found.delay_ms is None else milliseconds(found.delay_ms)
    return NewestLine(
        found.event_id, found.kind, found.author, found.why, rough_duration(max(0, now - found.received_at)), delay
    )


def _relay_rows(snapshot: Snapshot, runtime_directory: Path, relayed: Mapping[str, float]) -> list[RelayRow]:
    found = gaps.by_relay(snapshot.gaps)
    newest = read_newest(runtime_directory, _BEHIND, "address")
    behind = {address: seconds for address, seconds in newest.items() if seconds != LEFT} | dict(relayed)
    holders = snapshot.holders
    return [
        _relay_row(each, behind.get(each.address), found.get(each.address, {}), holders) for each in snapshot.relays
    ]


def _relay_row(
    record: RelayRecord, behind: float | None, counts: Mapping[str, int], holders: Mapping[str, str]
) -> RelayRow:
    is_live = record.state in _LIVE
    return RelayRow(
        record.address, record.state.value, record.asked if is_live else "",
        int(behind) if is_live and behind is not None else None,
        round(record.novel), record.subscriptions, sum(counts.values()),
        ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())), record.last_error,
        holders.get(parse_address(record.address).host_key, "") if holders else "",
    )  # fmt: skip


def _sorted(rows: list[RelayRow], request: PageRequest) -> list[RelayRow]:
    """By the column asked for; what has no value there comes last, whichever way."""
    having = [row for row in rows if getattr(row, request.sort) not in (None, "")]
    without = [row for row in rows if getattr(row, request.sort) in (None, "")]
    return [*sorted(having, key=attrgetter(request.sort), reverse=request.descending), *without]


def _queue_rows(snapshot: Snapshot, config: Config) -> Iterable[QueueRow]:
    purposes = {f"outbox-{sink.name}": _purpose(sink, config) for sink in snapshot.sinks}
    purposes["inbox"] = "verified, for the saver"
    for queue in snapshot.queues:
        if queue.name in purposes or queue.waiting or queue.dead:
            purpose = purposes.get(queue.name, "a sink that is off")
            oldest = "" if queue.oldest_ms is None else age(queue.oldest_ms // 1000)
            yield QueueRow(queue.name, purpose, queue.waiting, oldest, queue.dead)


def _purpose(sink: SinkStatus, config: Config) -> str:
    """Return where the sink leads, without the argument of a plugin."""
    if sink.name == SinkName.RELAY:
        return f"target relay {sink.target}"
    by_name = {setting.sink: setting for setting in config.sink}
    # One alone has the outbox `pubsub`, whatever it is.
    setting = by_name.get(sink.name, config.sink[0])
    match setting.kind:
        case SinkKind.PUBSUB:
            return f"Pub/Sub {sink.target}"
        case SinkKind.JSONL:
            return f"file {setting.path}"
        case _:
            return f"sink {setting.sink}"


def _dead_line(row: DeadRow) -> DeadLine:
    return DeadLine(row.queue, row.seq, row.event_id.hex(), row.reason, utc(row.buried_at / 1000))


def age(seconds: int) -> str:
    """Return a duration in its two largest units."""
    parts: Sequence[tuple[int, str]] = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    for (size, name), (smaller, smaller_name) in pairwise(parts):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{seconds} s"
