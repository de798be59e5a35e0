"""Delivery of outbox rows in batches; `stream_worker.py` is for a sink that answers message by message.

A batch is claimed, delivered, and settled in the transaction of the next claim. Each row has a verdict of its own:
delivered, refused, to be retried, or a dead letter. While a sink is down the leases are renewed and the rows offered
again, so that an outage, however long, counts as a failure of none of them.
"""

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.delivery.outbox_client import RENEW_BATCH_AFTER_S
from pipeline.delivery.poison import next_batch
from pipeline.delivery.replay_client import ReplayClient
from pipeline.delivery.sink_health import SinkWorker
from pipeline.process.doorbell import Doorbell
from pipeline.process.stage_times import WaitReason
from pipeline.sinks.base import Delivered, Refused, Retry, Sink, SinkDown, Verdict, Verdicts
from pipeline.store.commit_watch import CommitWatch
from pipeline.store.database import Database
from pipeline.store.outbox import OutboxRow
from pipeline.store.replay_queue import ReplayRow

# How long the loop waits for a commit before it looks for rows whose retry is due.
_IDLE_S: Final = 1.0
# How long a worker waits for its turn before it beats again; the one that has the turn ends soon after a stop.
_TURN_WAIT_S: Final = 10.0


@dataclass(slots=True)
class BatchWorker(SinkWorker):
    """Loop of one thread for one sink that answers batches."""

    sink: Sink
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held while claiming or waiting for rows: of the workers that share it, one waits for all."""
    doorbell: Doorbell | None = None
    """Rung for new rows; for the worker that has the turn."""
    replays: ReplayClient | None = None
    """Rows that are offered while the outbox has none."""
    _rests_until: float = field(init=False, default=-math.inf)
    """When the sink is asked to keep alive again (monotonic s), after it could not."""

    def run(self, database: Database) -> None:
        """Deliver until stopped; then release what is claimed and not delivered."""
        watch = CommitWatch(database, self.doorbell)
        while not self.stop.is_set():
            self.beat()
            rows, replayed = self._next(database, watch)
            if rows:
                self._deliver(database, rows)
            if replayed and self.replays is not None:
                self._replay(database, self.replays, replayed)
        self.client.settle(database)

    def _next(self, database: Database, watch: CommitWatch) -> tuple[list[OutboxRow], list[ReplayRow]]:
        """Claim ready rows, or those of replays if there are none; return neither after a second, or after a commit.

        What is unsettled is committed with the claim, or when it is due, by this worker if another has the turn.
        """
        if not self.turn.acquire(timeout=min(_TURN_WAIT_S, self.client.settle_due_in_s())):
            self._settle_due(database)
            return [], []
        try:
            if self.stop.is_set():
                return [], []
            rows = self.client.claim(database, self.sink.max_messages)
            replayed = [] if rows or self.replays is None else self.replays.claim(database)
            if not rows and not replayed:
                self.health.reset()
                self._keep_alive()
                with self.client.times.waiting(WaitReason.WORK):
                    watch.wait(self.stop, min(_IDLE_S, self.client.settle_due_in_s()))
                self._settle_due(database)
            return rows, replayed
        finally:
            self.turn.release()

    def _keep_alive(self) -> None:
        """Let the sink look after its connections; where it cannot, wait before the next try as with an outage."""
        if self.now() < self._rests_until:
            return
        try:
            self.sink.keep_alive()
        except Exception as error:
            down = error if isinstance(error, SinkDown) else SinkDown(type(error).__name__, str(error)[:200])
            self.health.on_failure(down, self.now())
            self._rests_until = self.now() + self.report_down(down, 0)
        else:
            if self.health.failures:
                self.health.on_success(self.now())

    def _settle_due(self, database: Database) -> None:
        if not self.client.settle_due_in_s():
            self.client.settle(database)

    def _deliver(self, database: Database, rows: list[OutboxRow]) -> None:
        """Give each of `rows` a verdict, however long the sink is down; when stopped, release the rest."""
        leased_at = self.now()
        while rows and not self.stop.is_set():
            self.beat()
            if self.now() - leased_at > RENEW_BATCH_AFTER_S:
                if not self.client.renew(database, rows, 0.0):
                    break
                leased_at = self.now()
            batch = next_batch(rows)
            began = self.now()
            self.health.on_call(began)
            verdicts, down = self._offer(batch)
            self._note_outcome(verdicts, down)
            self._note_retries(verdicts, down)
            settled, left = _split(batch, verdicts)
            self.client.defer(settled, self.now() - began)
            rows = left + rows[len(batch) :]
            if rows or down is not None:
                self.client.settle(database)
            if down is None:
                continue
            wait_s = self.report_down(down, len(rows))
            leased_at = self.now() + wait_s
            if not self.client.renew(database, rows, wait_s):
                break
            self.pause(wait_s)
        self.health.reset()
        if rows:
            self.client.release(database, rows)

    def _replay(self, database: Database, replays: ReplayClient, rows: list[ReplayRow]) -> None:
        """Offer rows of replays in one call; while the sink is down they wait in the queue, behind what is new."""
        self.beat()
        self.client.settle(database)
        down: SinkDown | None = None
        verdicts: Verdicts = ()
        try:
            batch = next_batch([each.row for each in rows])[: self.sink.max_messages]
            self.health.on_call(self.now())
            verdicts, down = self._offer(batch)
            self._note_outcome(verdicts, down)
            self._note_retries(verdicts, down)
        finally:
            replays.settle(database, rows, verdicts)
        if down is not None:
            self.pause(self.report_down(down, len(rows)))

    def _offer(self, rows: Sequence[OutboxRow]) -> tuple[Verdicts, SinkDown | None]:
        """Return the verdicts on `rows`, and the error if the sink is down; trace other errors to the row at fault."""
        try:
            return self._call(rows), None
        except SinkDown as down:
            return [*down.verdicts, *[None] * (len(rows) - len(down.verdicts))], down
        except Exception as error:
            failure = error
        if len(rows) == 1:
            return [self.client.note_failure(rows[0], failure)], None
        middle = len(rows) // 2
        first, is_down = self._offer(rows[:middle])
        if is_down is not None:
            return [*first, *[None] * (len(rows) - middle)], is_down
        second, is_down = self._offer(rows[middle:])
        return [*first, *second], is_down

    def _call(self, rows: Sequence[OutboxRow]) -> Verdicts:
        metrics, name = self.client.metrics, self.client.name
        in_flight = metrics.sink_in_flight.labels(name)
        metrics.sink_batch.labels(name).observe(len(rows))
        in_flight.inc(len(rows))
        try:
            with metrics.sink_call.labels(name).time(), self.client.times.waiting(WaitReason.NETWORK):
                return self.sink.deliver([self.client.message(row) for row in rows])
        finally:
            in_flight.dec(len(rows))

    def _note_outcome(self, verdicts: Verdicts, down: SinkDown | None) -> None:
        if down is not None:
            self.health.on_failure(down, self.now())
        elif any(isinstance(verdict, Delivered | Refused) for verdict in verdicts):
            self.health.on_success(self.now())
        else:
            # Events that are offered again may have had no answer, or may be at fault themselves.
            self.health.reset()

    def _note_retries(self, verdicts: Verdicts, down: SinkDown | None) -> None:
        reasons = Counter(verdict.reason for verdict in verdicts if isinstance(verdict, Retry))
        if down is not None:
            reasons[down.reason] += sum(verdict is None for verdict in verdicts)
        self.client.note_retries(reasons)


def _split(rows: Sequence[OutboxRow], verdicts: Verdicts) -> tuple[list[tuple[OutboxRow, Verdict]], list[OutboxRow]]:
    """Return the rows with a verdict, and those without."""
    pairs = list(zip(rows, verdicts, strict=True))
    settled = [(row, verdict) for row, verdict in pairs if verdict is not None]
    return settled, [row for row, verdict in pairs if verdict is None]
