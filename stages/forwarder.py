"""`stage forwarder`: delivers the events of one outbox to its sink: the first of `EVENTS_SINK`, or that of the slot."""

import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pipeline.delivery.batch_worker import BatchWorker
from pipeline.delivery.outbox_client import OutboxCheck, OutboxClient, reclaim_leases
from pipeline.delivery.replay_client import ReplayClient
from pipeline.delivery.sink_health import LastAnswer, SinkHealth
from pipeline.delivery.unsettled import Unsettled
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.stage import StageContext
from pipeline.process.tracing import EventTracer
from pipeline.settings.choices import SinkKind, SinkSetting
from pipeline.settings.config import Config
from pipeline.sinks.base import Sink
from pipeline.store import sinks
from pipeline.store.counters import StageCounters
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName

# Batches under way at once, so that throughput does not hang on the latency of one call.
PUBSUB_CALLS: Final = 4
_TURN_S: Final = 1.0
# A worker may be in one call of 20 s, or several for a batch that must be taken apart.
_WORKER_LIMIT_S: Final = 90.0


def run(ctx: StageContext) -> None:
    """Deliver until stopped; batches under way are finished first."""
    names = ctx.config.sink_names
    if not names:
        _idle(ctx)
        return
    with ctx.tracing() as tracer:
        _deliver(ctx, names.index(ctx.slot.sink or names[0]), tracer)


def _deliver(ctx: StageContext, number: int, tracer: EventTracer | None) -> None:
    """Deliver to the sink of this number in `EVENTS_SINK`."""
    setting = ctx.config.sink[number]
    sink = _sink(setting, ctx.config)
    counters = StageCounters(ctx.slot, ctx.metrics)
    with open_database(ctx.config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database:
        enrolled = sinks.enroll(database, ctx.config.sink_names, ctx.clock, ctx.log)
        counters.resume(database, ctx.is_abandoned)
        reclaim_leases(database, ctx.slot.name, ctx.clock.now_ms())
    count = PUBSUB_CALLS if setting.kind is SinkKind.PUBSUB else 1
    progress = [ctx.clock.monotonic()] * count
    outbox = enrolled.outboxes[number]
    check = partial(enrolled.check_one, number=number)
    replays = ReplayClient(outbox, ctx.clock, counters, RateLimitedLogger(ctx.log, ctx.clock), ctx.slot.name, check)
    shared = _Shared(sink, outbox, check, counters, tracer, replays, is_first=number == 0)
    workers = [_worker(ctx, shared, progress, index) for index in range(count)]
    threads = [
        threading.Thread(target=_work, args=(ctx, worker), name=f"delivery-{index}")
        for index, worker in enumerate(workers)
    ]
    try:
        for thread in threads:
            thread.start()
        while not ctx.stop.wait(_TURN_S):
            # A worker that stands still is a stage that stands still.
            if ctx.clock.monotonic() - min(progress) < _WORKER_LIMIT_S:
                ctx.heartbeat.beat(next(filter(None, (each.problem() for each in workers)), ""))
    finally:
        for thread in threads:
            thread.join()
        _close(ctx, sink)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the workers of one sink share."""

    sink: Sink
    outbox: SinkName
    check: OutboxCheck
    counters: StageCounters
    tracer: EventTracer | None
    replays: ReplayClient
    is_first: bool
    turn: threading.Lock = field(default_factory=threading.Lock)
    last_answer: LastAnswer = field(default_factory=LastAnswer)
    unsettled: Unsettled = field(default_factory=Unsettled)


def _close(ctx: StageContext, sink: Sink) -> None:
    """Close `sink`; an error of a plugin costs nothing any more."""
    try:
        sink.close()
    except Exception as error:
        kind = type(error).__name__
        ctx.metrics.stage_errors.labels("forwarder", kind).inc()
        ctx.log.exception("sink not closed", reason=kind)


def _worker(ctx: StageContext, shared: _Shared, progress: list[float], index: int) -> BatchWorker:
    def beat() -> None:
        progress[index] = ctx.clock.monotonic()

    log = RateLimitedLogger(ctx.log, ctx.clock)
    client = OutboxClient(
        ctx.slot.group, shared.outbox, ctx.clock, ctx.metrics, shared.counters, log, ctx.slot.name, shared.unsettled,
        shared.tracer, shared.check, is_first=shared.is_first,
    )  # fmt: skip
    health = SinkHealth(shared.outbox, shared.last_answer)
    return BatchWorker(client, health, ctx.stop, beat, shared.sink, shared.turn, ctx.doorbell, shared.replays)


def _work(ctx: StageContext, worker: BatchWorker) -> None:
    with open_database(ctx.config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database:
        ctx.heartbeat.beat()
        worker.run(database)


def _sink(setting: SinkSetting, config: Config) -> Sink:
    """Return the configured sink; each kind is imported only where it is used, Pub/Sub above all."""
    match setting.kind:
        case SinkKind.PUBSUB:
            from pipeline.sinks.pubsub import PubsubSettings, PubsubSink  # noqa: PLC0415

            project = config.google_pubsub_project_id
            assert project is not None, "checked by Config"
            return PubsubSink(PubsubSettings(project, config.pubsub_topic, config.google_pubsub_credentials_json_path))
        case SinkKind.JSONL:
            from pipeline.sinks.jsonl import JsonlSink  # noqa: PLC0415

            assert setting.path is not None, "checked by Config"
            return JsonlSink(setting.path)
        case SinkKind.PLUGIN:
            from pipeline.sinks.plugins import load_sink  # noqa: PLC0415

            return load_sink(setting.name, setting.argument)
        case _:
            from pipeline.sinks.jsonl import StdoutSink  # noqa: PLC0415

            return StdoutSink()


def _idle(ctx: StageContext) -> None:
    ctx.heartbeat.beat()
    while not ctx.stop.wait(_TURN_S):
        ctx.heartbeat.beat()
