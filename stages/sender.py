"""`stage sender`: delivers contact lists, profiles and relay lists to the target relay."""

from pipeline.delivery.outbox_client import OutboxClient, reclaim_leases
from pipeline.delivery.sink_health import SinkHealth
from pipeline.delivery.stream_worker import StreamWorker
from pipeline.nostr.address import RelayAddress
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.stage import StageContext
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.dial import DialPolicy, dial
from pipeline.relay.nip11 import fetch_information
from pipeline.relay.secret_key import read_secret_key
from pipeline.sinks.frame_limit import FrameLimit
from pipeline.sinks.rate import SlidingWindowLimiter
from pipeline.sinks.relay import RelaySink
from pipeline.store import send_history, target_relay
from pipeline.store.counters import StageCounters
from pipeline.store.database import Database
from pipeline.store.relay_status import RelayState
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName


def run(ctx: StageContext) -> None:
    """Send until stopped; without a target relay there is nothing to do but wait."""
    config, target = ctx.config, ctx.config.target_relay
    if target is None:
        ctx.heartbeat.beat()
        while not ctx.stop.wait(1.0):
            ctx.heartbeat.beat()
        return
    policy = DialPolicy(allow_private=config.allow_private_relays, user_agent="event-service")
    log = RateLimitedLogger(ctx.log, ctx.clock)

    def beat() -> None:
        ctx.heartbeat.beat(loop.problem())

    def cancelled() -> bool:
        # Called repeatedly during a dial, which lasts longer than the limit of a heartbeat.
        beat()
        return ctx.stop.is_set()

    counters = StageCounters(ctx.slot, ctx.metrics)
    with (
        ctx.tracing() as tracer,
        open_database(config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database,
    ):
        sink = RelaySink(
            target,
            lambda: BlockingWebSocket(dial(target, policy, ctx.clock, cancelled), ctx.clock),
            read_secret_key(config.secret_key_path),
            ctx.clock,
            ctx.metrics,
            log,
            _rate(ctx, database),
            FrameLimit(lambda: fetch_information(target, policy, ctx.clock, ctx.stop.is_set), ctx.clock),
            lambda state: _note_state(ctx, database, target, state),
            FrameBounds(config.max_event_bytes, config.max_event_tags),
        )
        _note_state(ctx, database, target, RelayState.INITIALIZING)
        client = OutboxClient(
            "sender", SinkName.RELAY, ctx.clock, ctx.metrics, counters, log, ctx.slot.name, tracer=tracer
        )
        loop = StreamWorker(client, SinkHealth(SinkName.RELAY), ctx.stop, beat, sink, ctx.doorbell)
        counters.resume(database, ctx.is_abandoned)
        reclaim_leases(database, ctx.slot.name, ctx.clock.now_ms())
        try:
            loop.run(database)
        finally:
            sink.limiter.flush(ctx.clock.monotonic())
            sink.close()


def _note_state(ctx: StageContext, database: Database, target: RelayAddress, state: RelayState) -> None:
    with database.write() as tx:
        target_relay.put(tx, target.url, state, ctx.clock.now_ms())


def _rate(ctx: StageContext, database: Database) -> SlidingWindowLimiter:
    """Return the bound of the settings, with what the process before this one has sent within the last minute."""
    with database.read() as tx:
        now, mono = ctx.clock.now_ms(), ctx.clock.monotonic()
        before = send_history.recent(tx, SinkName.RELAY, now)

    def write(count: int) -> None:
        with database.write() as tx:
            send_history.note(tx, SinkName.RELAY, count, ctx.clock.now_ms())

    done = [mono - (now - at) / 1000 for at, count in before for _ in range(count)]
    return SlidingWindowLimiter(lambda: ctx.settings.target_relay_rate, done, write)
