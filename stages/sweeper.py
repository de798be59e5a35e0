"""`stage sweeper`: forgets what has been delivered and what is old, and keeps the write-ahead log short.

It also calls back what a wrong clock has put off, and notes how it all goes.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from pipeline.process.stage import StageContext
from pipeline.settings.choices import SinkKind
from pipeline.settings.config import Config
from pipeline.store import disk, events, inbox, outbox, relay_pruning, retractions, shares, throughput
from pipeline.store.database import Database, Tx
from pipeline.store.database_file import JOURNAL_SIZE_LIMIT, wal_bytes
from pipeline.store.horizon import seen_before
from pipeline.store.outbox import SinkName
from pipeline.store.schema import open_database

_TURN_S: Final = 0.1
# The same while the log hardly grows and no walk has anything to do.
_IDLE_S: Final = 0.5
_GROWTH_BYTES: Final = 1 << 20
# Half of the 50 ms that no process should wait for the write lock; slices grow and shrink to stay under it.
_SLICE_TARGET_S: Final = 0.025
_FIRST_SLICE_ROWS: Final = 100
_MAX_SLICE_ROWS: Final = 2_000
# A walk that found nothing to do restarts after this, so that an idle service is idle.
_REST_S: Final = 10.0
# Ids go by day, not by second; their walk looks at every one of millions and must not be felt.
_SEEN_PACE_S: Final = 0.5
# Ids are kept for so much longer than sweeps go back, however full the database is.
_LEAST_SEEN_MS: Final = 86_400_000
# Relays come and go by the day.
_HORIZON_EVERY_S: Final = 60.0
# Forgetting an address takes some 50 µs.
_RELAYS_PER_SLICE: Final = 400
_CHECKPOINT_EVERY_S: Final = 2.0
_SAMPLE_EVERY_S: Final = 10.0
# Anybody can vanish under any number of keys; who does should be forgotten, and yet not come back by an old copy.
VANISHED_RETENTION_MS: Final = 365 * 86_400_000
_STAGE: Final = "sweeper"


def run(ctx: StageContext) -> None:
    """Sweep until stopped."""
    with open_database(ctx.config.database_path, ctx.clock, ctx.on_locked) as database:
        horizon = _Horizon(ctx, database)
        walks = [
            _TableWalk(ctx, database, "event", _Events(ctx).step),
            _TableWalk(ctx, database, "seen", _Seen(horizon).step, pace_s=lambda: horizon.pace_s),
            _TableWalk(ctx, database, "delivery", _Deliveries(ctx, horizon).step),
            _TableWalk(ctx, database, "deletion", _Deletions(horizon).step, pace_s=lambda: horizon.pace_s),
            _TableWalk(ctx, database, "vanished", _VanishRequests(ctx).step, pace_s=lambda: _SEEN_PACE_S),
            *(
                _TableWalk(ctx, database, f"outbox-{sink}", _OffSink(ctx, sink).step, pace_s=lambda: _SEEN_PACE_S)
                for sink in _sinks_off(ctx.config)
            ),
        ]
        log = _WriteAheadLog(ctx, database)
        late = _FutureRows(ctx, database)
        relays = _Relays(ctx, database)
        users = _Shares(ctx, database)
        sampler = _Sampler(ctx, database)
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


Step = Callable[[Tx, int], tuple[int, bool]]
"""Looks at up to that many rows: how many it dropped, and whether the walk is at its end."""


class _TableWalk:
    """Walk over a table in steps, each a short transaction of its own, repeated for ever."""

    def __init__(
        self, ctx: StageContext, database: Database, what: str, step: Step, *,
        pace_s: Callable[[], float] = lambda: 0.0,
    ) -> None:  # fmt: skip
        """`pace_s`: how long it rests between two steps."""
        self._clock = ctx.clock
        self._database = database
        self._step = step
        self._pace_s = pace_s
        self._rows = _FIRST_SLICE_ROWS
        self._rest_until = 0.0
        self._counter = ctx.metrics.stage_discarded.labels(_STAGE, f"expired-{what}")

    def turn(self) -> bool:
        """Do one slice if it is time; return True if it was."""
        began = self._clock.monotonic()
        if began < self._rest_until:
            return False
        with self._database.write() as tx:
            locked = self._clock.monotonic()
            dropped, at_end = self._step(tx, self._rows)
        held = self._clock.monotonic() - locked
        self._counter.inc(dropped)
        self._fit(held)
        self._rest_until = self._clock.monotonic() + (_REST_S if at_end else self._pace_s())
        return True

    def _fit(self, held: float) -> None:
        if held > _SLICE_TARGET_S:
            self._rows = max(1, self._rows // 2)
        elif held < _SLICE_TARGET_S / 4:
            self._rows = min(_MAX_SLICE_ROWS, self._rows * 2)


class _Events:
    """Payloads that every sink has had for longer than `EVENTS_EVENT_RETENTION`, or at all in a database too large."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self._after = 0

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        done_before = self._ctx.clock.now_ms() - self._ctx.config.event_retention
        most = self._ctx.settings.max_database_bytes
        if most and disk.used_bytes(tx) > most:
            done_before = self._ctx.clock.now_ms()
        done = events.drop_delivered(tx, after=self._after, done_before=done_before, limit=rows)
        at_end = done.looked_at < rows
        self._after = 0 if at_end else done.last
        return done.dropped, at_end


class _Horizon:
    """How far back ids are kept, found out once in a while: less far in a database that is too full."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._ctx = ctx
        self._database = database
        self._next_at = -math.inf
        self.seen_before = 0
        """In ms."""
        self.retention = ctx.config.seen_retention
        """For how long outcomes are kept (ms)."""
        self.pace_s = _SEEN_PACE_S
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
        self.pace_s = 0.0 if pressure else _SEEN_PACE_S


def _pressed(config: Config, pressure: float) -> int:
    """Return for how long ids are kept (ms).

    Never less than sweeps go back: what they find again would be delivered again each time.
    """
    least = min(config.seen_retention, config.resweep_window + _LEAST_SEEN_MS)
    return least + round((1 - pressure) * (config.seen_retention - least))


class _Seen:
    """Ids that were accepted before the horizon."""

    def __init__(self, horizon: _Horizon) -> None:
        self._horizon = horizon
        self._after = events.FIRST_SEEN

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        done = events.forget_seen(tx, after=self._after, seen_before=self._horizon.seen_before, limit=rows)
        at_end = done.looked_at < rows
        self._after = events.FIRST_SEEN if at_end else done.last
        return done.dropped, at_end


class _Deliveries:
    """Outcomes as old as the ids."""

    def __init__(self, ctx: StageContext, horizon: _Horizon) -> None:
        self._ctx = ctx
        self._horizon = horizon
        self._after = 0

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        before = self._ctx.clock.now_ms() - self._horizon.retention
        done = events.forget_deliveries(tx, after=self._after, before=before, limit=rows)
        at_end = done.looked_at < rows
        self._after = 0 if at_end else done.last
        return done.dropped, at_end


class _Deletions:
    """What was deleted, for as long after that as an id is remembered."""

    def __init__(self, horizon: _Horizon) -> None:
        self._horizon = horizon
        self._after = retractions.FIRST_DELETION

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        done = retractions.forget_deletions(tx, after=self._after, before=self._horizon.seen_before, limit=rows)
        at_end = done.looked_at < rows
        self._after = retractions.FIRST_DELETION if at_end else done.last
        return done.dropped, at_end


class _VanishRequests:
    """Who has vanished, for as long as they are wanted and for `VANISHED_RETENTION_MS`."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self._after = 0

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        before = self._ctx.clock.now_ms() - max(VANISHED_RETENTION_MS, self._ctx.config.seen_retention)
        done = retractions.forget_vanished(tx, after=self._after, before=before, limit=rows)
        at_end = done.looked_at < rows
        self._after = 0 if at_end else done.last
        return done.dropped, at_end


def _sinks_off(config: Config) -> list[SinkName]:
    is_off = {SinkName.PUBSUB: config.sink.kind is SinkKind.NONE, SinkName.RELAY: config.target_relay is None}
    return [sink for sink in SinkName if is_off[sink]]


class _OffSink:
    """What a sink was owed when it was switched off, for as long as an id is remembered."""

    def __init__(self, ctx: StageContext, sink: SinkName) -> None:
        self._ctx = ctx
        self._sink = sink

    def step(self, tx: Tx, rows: int) -> tuple[int, bool]:
        now = self._ctx.clock.now_ms()
        before = now - self._ctx.config.seen_retention
        dropped = outbox.drop_old(
            tx, self._sink, received_before=before, limit=rows, outcome="dropped: sink off", now=now
        )
        return dropped, dropped < rows


class _Sampler:
    """Samples at intervals how much arrived, was delivered and is pending."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._clock = ctx.clock
        self._database = database
        self._next = 0.0

    def turn(self) -> None:
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + _SAMPLE_EVERY_S
        with self._database.read() as tx:
            sample = throughput.sample(tx, self._clock.now_ms())
        with self._database.write() as tx:
            throughput.put(tx, sample)


class _FutureRows:
    """Repair of rows that were scheduled while the clock was ahead, and would wait until that time."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._ctx = ctx
        self._database = database
        self._next = 0.0

    def turn(self) -> None:
        if (now_s := self._ctx.clock.monotonic()) < self._next:
            return
        self._next = now_s + _REST_S
        now = self._ctx.clock.now_ms()
        with self._database.read() as tx:
            if not inbox.has_future_rows(tx, now) and not outbox.has_future_rows(tx, now):
                return
        with self._database.write() as tx:
            rows = inbox.reset_future_rows(tx, now) + outbox.reset_future_rows(tx, now)
        self._ctx.log.warning("rows of a time to come made ready, the clock was set back", rows=rows)


class _Relays:
    """Pruning of relay addresses and mentions beyond the bounds of `relay_pruning`."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._clock = ctx.clock
        self._database = database
        self._next = 0.0
        self._unanswered = ctx.metrics.stage_discarded.labels(_STAGE, "unanswered-relay")
        self._surplus = ctx.metrics.stage_discarded.labels(_STAGE, "surplus-relay-naming")

    @property
    def is_at_work(self) -> bool:
        """True if there may be something to do at once."""
        return self._clock.monotonic() >= self._next

    def turn(self) -> None:
        """Forget one slice if it is time; the counting is done outside of the write lock."""
        if (now := self._clock.monotonic()) < self._next:
            return
        with self._database.read() as tx:
            crowded = relay_pruning.crowded(tx)
            unanswered = relay_pruning.unanswered_surplus(tx)
        if not crowded and not unanswered:
            self._next = now + _REST_S
            return
        with self._database.write() as tx:
            namings = 0
            for author in crowded:
                namings += relay_pruning.prune_mentions(tx, author, _RELAYS_PER_SLICE - namings)
            forgotten = relay_pruning.forget_unanswered(tx, min(unanswered, _RELAYS_PER_SLICE - namings))
        self._surplus.inc(namings)
        self._unanswered.inc(forgotten)
        if not namings and not forgotten:
            self._next = now + _REST_S


class _Shares:
    """Shares of users in the wanted authors: some followees wait or cease to; those of who has left are released."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._clock = ctx.clock
        self._database = database
        self._next = 0.0
        self._bells = ctx.bells
        self._steps: deque[shares.Step] = deque()
        self._released = ctx.metrics.stage_discarded.labels(_STAGE, "followee-of-departed-user")
        with database.write() as tx:
            shares.set_bound(tx, ctx.config.max_wanted_authors)

    @property
    def is_at_work(self) -> bool:
        """True if there may be a step to do at once."""
        return self._clock.monotonic() >= self._next

    def turn(self) -> None:
        """Do one step if it is time; what is to be done is found outside of the write lock."""
        if (now_s := self._clock.monotonic()) < self._next:
            return
        now = self._clock.now_ms()
        if not self._steps:
            with self._database.read() as tx:
                self._steps += shares.next_steps(tx, now)
        if not self._steps:
            self._next = now_s + _REST_S
            return
        step = self._steps.popleft()
        with self._database.write() as tx:
            changed = shares.take_step(tx, step, now)
        self._released.inc(changed if step.leaves else 0)
        self._bells.ring("crawler")


class _WriteAheadLog:
    """Checkpoints that keep the log beside the database short, while others read and write."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._ctx = ctx
        self._database = database
        self._next = 0.0
        self._size = 0

    def turn(self) -> bool:
        """Keep it short; return True if it is long or grows quickly."""
        size, before = wal_bytes(self._database.path), self._size
        self._size = size
        if size > JOURNAL_SIZE_LIMIT:
            # Most attempts meet a reader; the next turn tries again.
            if self._database.restart_log():
                self._ctx.log.debug("write-ahead log restarted", bytes=size)
        elif (now := self._ctx.clock.monotonic()) >= self._next:
            self._next = now + _CHECKPOINT_EVERY_S
            self._database.checkpoint()
        return size > JOURNAL_SIZE_LIMIT or size - before > _GROWTH_BYTES
