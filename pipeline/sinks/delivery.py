"""From outbox rows to a sink and back: the loop that every sink's stage runs.

A batch is claimed, delivered and settled. Each row's fate is its own: delivered, refused for good (and said so in
`deliveries`), put off after a failure of its own, or buried after too many; a sink that is down puts the whole batch
off and blames none of it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pipeline.process.backoff import Backoff
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimited
from pipeline.process.metrics import Metrics
from pipeline.process.stop import Stop
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, Sink, SinkDown, Verdict
from pipeline.store import outbox
from pipeline.store.database import Database
from pipeline.store.lease import Burial, Postponed
from pipeline.store.outbox import OutboxRow, SinkName
from pipeline.store.waiting import POLL_S, CommitWatch

# Longer than the longest batch of calls that a sink makes; whoever dies with a batch holds it up for no longer.
LEASE_MS: Final = 120_000
# A row that was claimed this often was there each time that a process died: it goes aside before it kills the next.
MAX_CLAIMS: Final = 50
# How long the loop waits for a commit before it looks whether put-off rows are due.
_IDLE_POLLS: Final = round(1.0 / POLL_S)
_PATIENCE: Final = Backoff(base_s=1.0, factor=2.0, cap_s=60.0, jitter=0.3)
_ROW_RETRY: Final = Backoff(base_s=5.0, factor=3.0, cap_s=3600.0, jitter=0.3)


@dataclass(slots=True)
class Delivery:
    """One thread's loop for one sink."""

    stage: str
    name: SinkName
    sink: Sink
    clock: Clock
    stop: Stop
    metrics: Metrics
    log: RateLimited
    beat: Callable[[], None]
    failures: int = 0
    rng: random.Random = field(default_factory=random.Random)

    def run(self, database: Database) -> None:
        """Deliver until stopped; what is claimed but not delivered by then is given back at once."""
        watch = CommitWatch(database)
        handled = self.metrics.handler("processSavedEvent")
        while not self.stop.is_set():
            self.beat()
            rows = self._claim(database)
            if not rows:
                self.sink.keep_alive()
                watch.wait(self.stop, _IDLE_POLLS)
                continue
            began = self.clock.monotonic()
            delivered = self._deliver(database, rows)
            if delivered:
                handled.record(self.clock.monotonic() - began, delivered)

    def _claim(self, database: Database) -> list[OutboxRow]:
        with database.read() as tx:
            if not outbox.any_ready(tx, self.name, self.clock.now_ms()):
                return []
        with database.write() as tx:
            now = self.clock.now_ms()
            rows = outbox.claim(tx, self.name, now=now, lease=LEASE_MS, limit=self.sink.max_messages)
            hopeless = [row for row in rows if row.receipt.claims > MAX_CLAIMS or not row.payload]
            for row in hopeless:
                reason = "too many claims" if row.payload else "payload missing"
                outbox.queue.bury(tx, [Burial(row.receipt, reason)], now)
        self._count_buried(len(hopeless))
        return [row for row in rows if row not in hopeless]

    def _deliver(self, database: Database, rows: list[OutboxRow]) -> int:
        self.metrics.stage_in.labels(self.stage).inc(len(rows))
        try:
            verdicts = self.sink.deliver([Message(row.event_id, row.payload, row.received_at) for row in rows])
        except SinkDown as error:
            self._put_off(database, rows, error)
            return 0
        self.failures = 0
        self._settle(database, rows, verdicts)
        return len(rows)

    def _settle(self, database: Database, rows: list[OutboxRow], verdicts: list[Verdict]) -> None:
        settled: list[outbox.Delivered] = []
        postponed: list[Postponed] = []
        with database.write() as tx:
            now = self.clock.now_ms()
            for row, verdict in zip(rows, verdicts, strict=True):
                if isinstance(verdict, Retry):
                    wait_s = _ROW_RETRY.delay_s(row.failures + 1, self.rng)
                    postponed.append(Postponed(row.receipt, now + round(wait_s * 1000)))
                else:
                    outcome = f"refused: {verdict.reason}" if isinstance(verdict, Refused) else "delivered"
                    settled.append(outbox.Delivered(row, outcome))
            held = outbox.settle(tx, self.name, settled, now) + outbox.queue.nack(tx, postponed)
        self._count(rows, verdicts, stale=len(rows) - held)

    def _count(self, rows: list[OutboxRow], verdicts: list[Verdict], *, stale: int) -> None:
        if stale:
            self.metrics.stage_errors.labels(self.stage, "stale-receipt").inc(stale)
        for row, verdict in zip(rows, verdicts, strict=True):
            match verdict:
                case Refused(reason):
                    self.metrics.stage_discarded.labels(self.stage, reason).inc()
                    self.log.warning(reason, "event refused", sink=self.name, event=row.event_id.hex(), reason=reason)
                case Retry(reason):
                    self.metrics.stage_errors.labels(self.stage, reason).inc()
                case _:
                    pass
        self.metrics.stage_out.labels(self.stage).inc(verdicts.count(DELIVERED))

    def _put_off(self, database: Database, rows: list[OutboxRow], error: SinkDown) -> None:
        self.failures += 1
        wait_s = _PATIENCE.delay_s(self.failures, self.rng)
        with database.write() as tx:
            ready_at = self.clock.now_ms() + round(wait_s * 1000)
            outbox.queue.snooze(tx, [Postponed(row.receipt, ready_at) for row in rows])
        self.metrics.stage_errors.labels(self.stage, error.reason).inc()
        self.log.error(
            error.reason,
            "sink is down",
            sink=self.name,
            reason=error.reason,
            detail=error.detail,
            advice=error.advice,
            waiting=len(rows),
            retry_in_s=round(wait_s, 1),
        )
        self._wait(wait_s)

    def _wait(self, seconds: float) -> None:
        """Leave the sink alone for a while; claiming more would only put off more."""
        until = self.clock.monotonic() + seconds
        while (left := until - self.clock.monotonic()) > 0 and not self.stop.wait(min(left, 1.0)):
            self.beat()

    def _count_buried(self, count: int) -> None:
        if count:
            self.metrics.stage_discarded.labels(self.stage, "buried").inc(count)
