"""What keeps the database in order besides forgetting: each does a little when its turn comes, if it is time."""

from collections import deque
from typing import Final

from pipeline.process.stage import StageContext
from pipeline.store import inbox, outbox, relay_pruning, replay_queue, shares, throughput
from pipeline.store.database import Database
from pipeline.store.database_file import JOURNAL_SIZE_LIMIT, wal_bytes
from pipeline.sweeper import table_walk

_GROWTH_BYTES: Final = 1 << 20
# Forgetting an address takes some 50 µs.
_RELAYS_PER_SLICE: Final = 400
_CHECKPOINT_EVERY_S: Final = 2.0
_SAMPLE_EVERY_S: Final = 10.0
_QUEUES: Final = (inbox, outbox, replay_queue)


class ThroughputSampler:
    """Samples at intervals how much arrived, was delivered and is pending."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._clock = ctx.clock
        self._database = database
        self._next = 0.0

    def turn(self) -> None:
        """Take a sample if it is time."""
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + _SAMPLE_EVERY_S
        with self._database.read() as tx:
            sample = throughput.sample(tx, self._clock.now_ms())
        with self._database.write() as tx:
            throughput.put(tx, sample)


class FutureRows:
    """Repair of rows that were scheduled while the clock was ahead, and would wait until that time."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._ctx = ctx
        self._database = database
        self._next = 0.0

    def turn(self) -> None:
        """Look for such rows if it is time."""
        if (now_s := self._ctx.clock.monotonic()) < self._next:
            return
        self._next = now_s + table_walk.REST_S
        now = self._ctx.clock.now_ms()
        with self._database.read() as tx:
            if not any(queue.has_future_rows(tx, now) for queue in _QUEUES):
                return
        with self._database.write() as tx:
            rows = sum(queue.reset_future_rows(tx, now) for queue in _QUEUES)
        self._ctx.log.warning("rows of a time to come made ready, the clock was set back", rows=rows)


class RelayPruning:
    """Pruning of relay addresses and mentions beyond the bounds of `relay_pruning`."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._clock = ctx.clock
        self._database = database
        self._next = 0.0
        self._unanswered = ctx.metrics.stage_discarded.labels(table_walk.STAGE, "unanswered-relay")
        self._surplus = ctx.metrics.stage_discarded.labels(table_walk.STAGE, "surplus-relay-naming")

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
            self._next = now + table_walk.REST_S
            return
        with self._database.write() as tx:
            namings = 0
            for author in crowded:
                namings += relay_pruning.prune_mentions(tx, author, _RELAYS_PER_SLICE - namings)
            forgotten = relay_pruning.forget_unanswered(tx, min(unanswered, _RELAYS_PER_SLICE - namings))
        self._surplus.inc(namings)
        self._unanswered.inc(forgotten)
        if not namings and not forgotten:
            self._next = now + table_walk.REST_S


class UserShares:
    """Shares of users in the wanted authors: some followees wait or cease to; those of who has left are released."""

    def __init__(self, ctx: StageContext, database: Database) -> None:
        self._clock = ctx.clock
        self._database = database
        self._next = 0.0
        self._bells = ctx.bells
        self._steps: deque[shares.Step] = deque()
        self._released = ctx.metrics.stage_discarded.labels(table_walk.STAGE, "followee-of-departed-user")
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
            self._next = now_s + table_walk.REST_S
            return
        step = self._steps.popleft()
        with self._database.write() as tx:
            changed = shares.take_step(tx, step, now)
        self._released.inc(changed if step.leaves else 0)
        self._bells.ring("crawler")


class LogCheckpoints:
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
