"""`stage sweeper`: forgets what has been delivered and what is old, and keeps the write-ahead log short.

It also calls back what a wrong clock has put off, and notes how it all goes.
"""

from typing import Final

from pipeline.process.stage import StageContext
from pipeline.store.schema import open_database
from pipeline.sweeper import retention, upkeep
from pipeline.sweeper.table_walk import TableWalk

_TURN_S: Final = 0.1
# The same while the log hardly grows and no walk has anything to do.
_IDLE_S: Final = 0.5


def run(ctx: StageContext) -> None:
    """Sweep until stopped."""
    with open_database(ctx.config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database:
        horizon = retention.SeenHorizon(ctx, database)
        ids_pace, slow_pace = (lambda: horizon.pace_s), (lambda: retention.SEEN_PACE_S)
        walks = [
            TableWalk(ctx, database, "event", retention.DeliveredEvents(ctx).step),
            TableWalk(ctx, database, "seen", retention.SeenIds(horizon).step, pace_s=ids_pace),
            TableWalk(ctx, database, "delivery", retention.Deliveries(ctx, horizon).step),
            TableWalk(ctx, database, "deletion", retention.Deletions(horizon).step, pace_s=ids_pace),
            TableWalk(ctx, database, "vanished", retention.VanishRequests(ctx).step, pace_s=slow_pace),
            *(
                TableWalk(ctx, database, f"outbox-{sink}", retention.OffSinkRows(ctx, sink).step, pace_s=slow_pace)
                for sink in retention.sinks_off(ctx.config)
            ),
        ]
        log = upkeep.LogCheckpoints(ctx, database)
        late = upkeep.FutureRows(ctx, database)
        relays = upkeep.RelayPruning(ctx, database)
        users = upkeep.UserShares(ctx, database)
        sampler = upkeep.ThroughputSampler(ctx, database)
        handled = ctx.metrics.handler("cleanupProcessedEvents")
        rest_s = _TURN_S
        while not ctx.stop.wait(rest_s):
            began = ctx.clock.monotonic()
            horizon.turn()
            busy = [walk.turn() for walk in walks]
            grows = log.turn()
            late.turn()
            relays.turn()
            users.turn()
            sampler.turn()
            if any(busy):
                handled.record(ctx.clock.monotonic() - began)
            ctx.heartbeat.beat()
            rest_s = _TURN_S if grows or any(busy) or relays.is_at_work or users.is_at_work else _IDLE_S
