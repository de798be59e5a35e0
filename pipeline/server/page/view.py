"""What the page shows, gathered from the database, the heartbeats and the metrics files."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Final

from prometheus_client.core import Metric

from pipeline import story
from pipeline.config import Config, SinkKind
from pipeline.process import exposition
from pipeline.process.clock import Clock
from pipeline.process.condition import utc
from pipeline.server.collectors import sinks_of
from pipeline.server.page.plots import Plot, plots
from pipeline.server.page.request import PageRequest
from pipeline.store import dead, overview, relays, samples
from pipeline.store.database import Database, wal_bytes
from pipeline.store.dead import DeadQueue, DeadRow
from pipeline.store.overview import Overview, QueueGauges
from pipeline.store.relays import RelayRecord, RelayState

MAX_RELAYS: Final = 5_000
MAX_SHOWN: Final = 300
"""Rows of the table; a search finds the others."""
_MAX_DEAD: Final = 8
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
    """A row that was given up."""

    queue: str
    number: int
    event_id: str
    reason: str
    at: str


@dataclass(frozen=True, slots=True)
class View:
    """Everything but stages and problems, which health knows."""

    now: str
    plots: tuple[Plot, ...]
    queues: tuple[QueueRow, ...]
    relays: tuple[RelayRow, ...]
    relays_found: int
    relays_by_state: dict[str, int]
    known_addresses: int
    users: int
    wal_mib: float
    dead: tuple[DeadLine, ...]
    story: tuple[story.Line, ...]


def gather(database: Database, config: Config, clock: Clock, request: PageRequest) -> View:
    """Look at everything; some milliseconds, and a tenth of a second with thousands of relays."""
    now = clock.now_ms()
    with database.read() as tx:
        seen = overview.read(tx, max_relays=0)
        records = relays.records(tx, everything=False, limit=MAX_RELAYS)
        hour = samples.recent(tx)
        buried = [row for queue in DeadQueue for row in dead.find_newest(tx, queue, _MAX_DEAD)]
        told = () if request.event_id is None else tuple(story.of_event(tx, request.event_id))
    rows = _relay_rows(records, config.runtime_directory, clock)
    found = [row for row in rows if request.finds(row.address, row.state, row.error)]
    states: dict[str, int] = defaultdict(int)
    for record in records:
        states[record.state.value] += 1
    return View(
        now=utc(now / 1000),
        plots=plots(hour, now),
        queues=tuple(_queue_rows(seen, config, now)),
        relays=tuple(_sorted(found, request)[:MAX_SHOWN]),
        relays_found=len(found),
        relays_by_state=dict(states),
        known_addresses=seen.known_addresses,
        users=seen.registered_users,
        wal_mib=wal_bytes(database.path) / (1 << 20),
        dead=tuple(_dead_line(row) for row in sorted(buried, key=attrgetter("buried_at"), reverse=True)),
        story=told,
    )


def _relay_rows(records: Iterable[RelayRecord], runtime_directory: Path, clock: Clock) -> list[RelayRow]:
    behind: dict[str, float] = {}
    gaps: dict[str, dict[str, int]] = defaultdict(dict)
    for metric in exposition.counted(runtime_directory, clock):
        _take(metric, behind, gaps)
    return [_relay_row(record, behind.get(record.address), gaps[record.address]) for record in records]


def _take(metric: Metric, behind: dict[str, float], gaps: dict[str, dict[str, int]]) -> None:
    if metric.name == "event_service_crawl_relay_seconds_behind":
        behind.update((sample.labels["address"], sample.value) for sample in metric.samples)
    elif metric.name == "event_service_crawl_gaps":
        for sample in metric.samples:
            if sample.name.endswith("_total") and sample.value:
                gaps[sample.labels["address"]][sample.labels["reason"]] = int(sample.value)


def _relay_row(record: RelayRecord, behind: float | None, gaps: dict[str, int]) -> RelayRow:
    is_live = record.state in _LIVE
    return RelayRow(
        record.address, record.state.value, record.asked if is_live else "",
        int(behind) if is_live and behind is not None else None,
        round(record.novel), record.subscriptions, sum(gaps.values()),
        ", ".join(f"{count} {reason}" for reason, count in sorted(gaps.items())), record.last_error,
    )  # fmt: skip


def _sorted(rows: list[RelayRow], request: PageRequest) -> list[RelayRow]:
    """By the column asked for; what has no value there comes last, whichever way."""
    having = [row for row in rows if getattr(row, request.sort) not in (None, "")]
    without = [row for row in rows if getattr(row, request.sort) in (None, "")]
    return [*sorted(having, key=attrgetter(request.sort), reverse=request.descending), *without]


def _queue_rows(seen: Overview, config: Config, now: int) -> Iterable[QueueRow]:
    yield _queue_row("inbox", "verified, for the saver", seen.inbox, now)
    on = sinks_of(config)
    for queue in seen.outboxes:
        if queue.sink in on or queue.waiting or queue.dead:
            purpose = _pubsub_purpose(config) if queue.sink == "pubsub" else f"target relay {config.target_relay or ''}"
            yield _queue_row(f"outbox-{queue.sink}", purpose, queue, now)


def _pubsub_purpose(config: Config) -> str:
    match config.sink.kind:
        case SinkKind.PUBSUB:
            return f"Pub/Sub projects/{config.google_pubsub_project_id}/topics/{config.pubsub_topic}"
        case SinkKind.JSONL:
            return f"file {config.sink.path}"
        case kind:
            return f"sink {kind}"


def _queue_row(name: str, purpose: str, queue: QueueGauges, now: int) -> QueueRow:
    oldest = "" if queue.oldest is None else age(max(0, now - queue.oldest) // 1000)
    return QueueRow(name, purpose, queue.waiting, oldest, queue.dead)


def _dead_line(row: DeadRow) -> DeadLine:
    return DeadLine(row.queue.value, row.seq, row.event_id.hex(), row.reason, utc(row.buried_at / 1000))


def age(seconds: int) -> str:
    """A duration in its two largest units."""
    parts: Sequence[tuple[int, str]] = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    for (size, name), (smaller, smaller_name) in pairwise(parts):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{seconds} s"
