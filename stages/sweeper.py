"""`stage sweeper`: forgets what has been delivered and what is old, and keeps the write-ahead log short.

It also calls back what a wrong clock has put off, notes how it all goes, and has a sample audited now and then.
"""

import threading
from typing import Final

from pipeline.audit.schedule import ScheduledAudits
from pipeline.process.stage import StageContext
from pipeline.store.schema import open_database
from pipeline.sweeper import retention, upkeep
from pipeline.sweeper.table_walk import TableWalk

_TURN_S: Final = 0.1
# The same while the log hardly grows and no walk has anything to do.
_IDLE_S: Final = 0.5
# An audit looks for the end of the stage every second.
_JOIN_S: Final = 5.0


def run(ctx: StageContext) -> None:
    """Sweep until stopped."""
    auditor = threading.Thread(target=_audits(ctx).run, name="audit", daemon=True)
    auditor.start()
    try:
        _sweep(ctx)
    finally:
        auditor.join(_JOIN_S)


def _audits(ctx: StageContext) -> ScheduledAudits:
    return ScheduledAudits(ctx, lambda: open_database(ctx.config.database_path, ctx.clock, ctx.on_locked))


def _sweep(ctx: StageContext) -> None:
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
                TableWalk(ctx, database, f"outbox-{off.sink}", off.step, pace_s=slow_pace)
                for off in retention.off_sinks(ctx, database)
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
