"""What is forgotten when: steps of walks over tables, each of which drops what is old in one slice."""

import math
from typing import Final

from pipeline.process.stage import StageContext
from pipeline.settings.config import Config
from pipeline.store import disk, events, outbox, retractions, sinks
from pipeline.store.database import Database, Tx
from pipeline.store.horizon import seen_before
from pipeline.store.sinks import EnrolledSinks, SinkName

# Ids go by day, not by second; their walk looks at every one of millions and must not be felt.
SEEN_PACE_S: Final = 0.5
# Ids are kept for so much longer than sweeps go back, however full the database is.
_LEAST_SEEN_MS: Final = 86_400_000
# Relays come and go by the day.
_HORIZON_EVERY_S: Final = 60.0
# Anybody can vanish under any number of keys; who does should be forgotten, and yet not come back by an old copy.
VANISHED_RETENTION_MS: Final = 365 * 86_400_000


class SeenHorizon:
    """How far back ids are kept, found out once in a while: less far in a database that is too full."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._ctx = ctx
        self._database = database
        self._next_at = -math.inf
        self.seen_before = 0
        """In ms."""
        self.retention = ctx.config.seen_retention
        """For how long outcomes are kept (ms)."""
        self.pace_s = SEEN_PACE_S
        """How long to rest between two looks at ids."""

    def turn(self) -> None:
        """Read it again when due."""
        if self._ctx.clock.monotonic() < self._next_at:
            return
        self._next_at = self._ctx.clock.monotonic() + _HORIZON_EVERY_S
        config = self._ctx.config
        with self._database.read() as tx:
            pressure = disk.pressure(tx, self._ctx.settings.max_database_bytes)
            self.retention = _pressed(config, pressure)
            most = min(config.seen_retention_max, self.retention) if pressure else config.seen_retention_max
            self.seen_before = seen_before(
                tx, self._ctx.clock.now_ms(), retention=self.retention, most=most,
                resweep_window=config.resweep_window,
            )  # fmt: skip
        self.pace_s = 0.0 if pressure else SEEN_PACE_S


def _pressed(config: Config, pressure: float) -> int:
    """Return for how long ids are kept (ms).

    Never less than sweeps go back: what they find again would be delivered again each time.
    """
    least = min(config.seen_retention, config.resweep_window + _LEAST_SEEN_MS)
    return least + round((1 - pressure) * (config.seen_retention - least))


class DeliveredEvents:
    """Payloads that every sink has had for longer than `EVENTS_EVENT_RETENTION`, or at all in a database too large."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self._after = 0

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        """See `Step`."""
        done_before = self._ctx.clock.now_ms() - self._ctx.config.event_retention
        most = self._ctx.settings.max_database_bytes
        if most and disk.used_bytes(tx) > most:
            done_before = self._ctx.clock.now_ms()
        done = events.drop_delivered(tx, after=self._after, done_before=done_before, limit=rows)
        at_end = done.looked_at < rows
        self._after = 0 if at_end else done.last
        return done.dropped, at_end


class SeenIds:
    """Ids that were accepted before the horizon."""

    def __init__(self, horizon: SeenHorizon) -> None:
        self._horizon = horizon
        self._after = events.FIRST_SEEN

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        """See `Step`."""
        done = events.forget_seen(tx, after=self._after, seen_before=self._horizon.seen_before, limit=rows)
        at_end = done.looked_at < rows
        self._after = events.FIRST_SEEN if at_end else done.last
        return done.dropped, at_end


class Deliveries:
    """Outcomes as old as the ids."""

    def __init__(self, ctx: StageContext, horizon: SeenHorizon) -> None:
        self._ctx = ctx
        self._horizon = horizon
        self._after = 0

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        """See `Step`."""
        before = self._ctx.clock.now_ms() - self._horizon.retention
        done = events.forget_deliveries(tx, after=self._after, before=before, limit=rows)
        at_end = done.looked_at < rows
        self._after = 0 if at_end else done.last
        return done.dropped, at_end


class Deletions:
    """What was deleted, for as long after that as an id is remembered."""

    def __init__(self, horizon: SeenHorizon) -> None:
        self._horizon = horizon
        self._after = retractions.FIRST_DELETION

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        """See `Step`."""
        done = retractions.forget_deletions(tx, after=self._after, before=self._horizon.seen_before, limit=rows)
        at_end = done.looked_at < rows
        self._after = retractions.FIRST_DELETION if at_end else done.last
        return done.dropped, at_end


class VanishRequests:
    """Who has vanished, for as long as they are wanted and for `VANISHED_RETENTION_MS`."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self._after = 0

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        """See `Step`."""
        before = self._ctx.clock.now_ms() - max(VANISHED_RETENTION_MS, self._ctx.config.seen_retention)
        done = retractions.forget_vanished(tx, after=self._after, before=before, limit=rows)
        at_end = done.looked_at < rows
        self._after = 0 if at_end else done.last
        return done.dropped, at_end


def off_sinks(ctx: StageContext, database: Database) -> "list[OffSinkRows]":
    """Return what forgets the rows of each sink that this database knows and that gets nothing by the settings."""
    enrolled = sinks.enroll(database, ctx.config.sink_names, ctx.clock, ctx.log)
    on = {*enrolled.outboxes}
    if ctx.config.target_relay is not None:
        on.add(SinkName.RELAY)
    return [OffSinkRows(ctx, enrolled, sink) for sink in enrolled.known if sink not in on]


class OffSinkRows:
    """What a sink was owed when it was switched off, for as long as an id is remembered."""

    def __init__(self, ctx: StageContext, enrolled: EnrolledSinks, sink: SinkName) -> None:
        self.sink = sink
        self._ctx = ctx
        self._enrolled = enrolled

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        """See `Step`. Raises `SinksChanged`: the outbox may be that of another sink."""
        self._enrolled.check(tx)
        now = self._ctx.clock.now_ms()
        before = now - self._ctx.config.seen_retention
        dropped = outbox.drop_old(
            tx, self.sink, received_before=before, limit=rows, outcome="dropped: sink off", now=now
        )
        return dropped, dropped < rows
