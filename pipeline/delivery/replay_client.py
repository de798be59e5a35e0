"""Client of the replay queue for one sink, shared by its workers.

A worker asks for rows of replays only when a claim has found nothing in the outbox, and offers them in one call: it
looks at the outbox again before the next. One worker at a time has some, so that the others are free for what is new.

    claim      up to `MAX_ROWS` with a lease; those that must not be tried, or are retracted by now, are removed
    settle     delivered or refused: removed and counted; retry: back with a delay; without a verdict, as when the sink
               is down: ready at once
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from threading import Lock
from typing import Final

from pipeline.delivery.outbox_client import LEASE_MS, OutboxCheck, dead_reason, postponed_after_failure
from pipeline.delivery.poison import is_suspect
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimitedLogger
from pipeline.sinks.base import Refused, Retry, Verdicts
from pipeline.store import replay_queue, retractions
from pipeline.store.counters import StageCounters, StageTally
from pipeline.store.database import Database, Tx
from pipeline.store.lease import Postponed
from pipeline.store.replay_queue import ReplayOutcome, ReplayRow
from pipeline.store.sinks import SinkName

MAX_ROWS: Final = 50
"""What is new may wait for one call with as many, where the sink has a single worker."""


@dataclass(slots=True)
class ReplayClient:
    """Client for the replays of one sink; thread-safe. `holder` is the slot of this process."""

    name: SinkName
    clock: Clock
    counters: StageCounters
    log: RateLimitedLogger
    holder: str | None = None
    check: OutboxCheck = lambda _: None
    """See `OutboxClient`."""
    rng: random.Random = field(default_factory=random.Random)
    _turn: Lock = field(default_factory=Lock)
    """Held from a claim that found rows until they are settled."""

    def claim(self, database: Database) -> list[ReplayRow]:
        """Lease ready rows, suspects last; none while another worker has some. Who gets any must `settle` them."""
        if not self._turn.acquire(blocking=False):
            return []
        rows: list[ReplayRow] = []
        try:
            with database.read() as tx:
                self.check(tx)
                is_ready = replay_queue.any_ready(tx, self.name, self.clock.now_ms())
            if is_ready:
                rows = self._lease(database)
        finally:
            if not rows:
                self._turn.release()
        return rows

    def settle(self, database: Database, rows: Sequence[ReplayRow], verdicts: Verdicts) -> None:
        """Commit the verdicts on the first of `rows`; release those without one, and let other workers claim."""
        try:
            done: list[tuple[ReplayRow, ReplayOutcome]] = []
            later: list[Postponed] = []
            untried: list[Postponed] = []
            with database.write() as tx:
                now = self.clock.now_ms()
                for each, verdict in zip_longest(rows, verdicts):
                    if verdict is None:
                        untried.append(Postponed(each.row.receipt, now))
                    elif isinstance(verdict, Retry):
                        later.append(postponed_after_failure(each.row, now, self.rng))
                    elif isinstance(verdict, Refused):
                        self._log_refused(each, verdict.reason)
                        done.append((each, ReplayOutcome.REFUSED))
                    else:
                        done.append((each, ReplayOutcome.DELIVERED))
                replay_queue.queue.release(tx, untried)
                replay_queue.queue.nack(tx, later)
                totals = self.counters.write(tx, self._settle(tx, done))
            self.counters.show(totals)
        finally:
            self._turn.release()

    def _lease(self, database: Database) -> list[ReplayRow]:
        with database.write() as tx:
            self.check(tx)
            now = self.clock.now_ms()
            claimed = replay_queue.claim(tx, self.name, now=now, lease=LEASE_MS, limit=MAX_ROWS, holder=self.holder)
            unfit = [(each, outcome) for each in claimed if (outcome := self._reason_to_remove(tx, each, now))]
            totals = self.counters.write(tx, self._settle(tx, unfit))
        self.counters.show(totals)
        removed = {each.row.receipt for each, _ in unfit}
        return sorted(
            (each for each in claimed if each.row.receipt not in removed), key=lambda each: is_suspect(each.row)
        )

    def _reason_to_remove(self, tx: Tx, each: ReplayRow, now: int) -> ReplayOutcome | None:
        reason = dead_reason(each.row)
        if reason is not None:
            self._log_refused(each, reason)
            return ReplayOutcome.REFUSED
        how = retractions.how_payload_retracted(tx, each.row.payload, now // 1000)
        return None if how is None else ReplayOutcome.RETRACTED

    def _settle(self, tx: Tx, done: Sequence[tuple[ReplayRow, ReplayOutcome]]) -> StageTally:
        tally = StageTally()
        for outcome, count in replay_queue.settle(tx, done).items():
            if count:
                tally.replayed[self.name, outcome.value] += count
        return tally

    def _log_refused(self, each: ReplayRow, reason: str) -> None:
        self.log.warning(
            reason, "event of a replay refused", sink=self.name, event=each.row.event_id.hex(), reason=reason
        )
