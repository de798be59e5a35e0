"""One sink's rows of the outbox as a process claims, holds and settles them, with their verdicts counted."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.process.backoff import Backoff
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimited
from pipeline.process.metrics import Metrics, Observations
from pipeline.sinks.base import Message, Refused, Retry, Verdict
from pipeline.sinks.suspects import is_suspect
from pipeline.store import outbox
from pipeline.store.database import Database, Tx
from pipeline.store.lease import Burial, Postponed
from pipeline.store.outbox import OutboxRow, SinkName
from pipeline.store.tallies import StageCounts, Tally

# Longer than the longest batch of calls that a sink makes; whoever dies with a batch holds it up for no longer.
LEASE_MS: Final = 120_000
# A row that was claimed this often was there each time that a process died, or failed for two days: it goes aside.
MAX_CLAIMS: Final = 50
# Payloads are claimed up to this many bytes, one Pub/Sub call's worth, and at most one step more.
CLAIM_BYTES: Final = 9_000_000
CLAIM_STEP: Final = 50
# Of so many claims one begins with the newest rows, so that behind a long backlog what is new goes out without delay.
NEWEST_EVERY: Final = 4
_HANDLER: Final = "processSavedEvent"
_ROW_RETRY: Final = Backoff(base_s=5.0, factor=3.0, cap_s=3600.0, jitter=0.3)

Judged = Sequence[tuple[OutboxRow, Verdict]]


def take_back(database: Database, holder: str, now: int) -> None:
    """Make ready at once what the process before this one in the slot `holder` died with; for a stage that starts."""
    with database.write() as tx:
        outbox.queue.free(tx, holder, now)


@dataclass(slots=True)
class Ledger:
    """The rows of one sink; for one thread. `holder` is the slot of this process, which `take_back` knows it by."""

    stage: str
    name: SinkName
    clock: Clock
    metrics: Metrics
    counts: StageCounts
    log: RateLimited
    holder: str | None = None
    rng: random.Random = field(default_factory=random.Random)
    claims: int = 0

    def claim(self, database: Database, most: int) -> list[OutboxRow]:
        """Lease up to `most` ready rows, and bury those that must not be tried; suspects come last, in any order."""
        with database.read() as tx:
            if not outbox.any_ready(tx, self.name, self.clock.now_ms()):
                return []
        with database.write() as tx:
            now = self.clock.now_ms()
            rows = self._lease(tx, most, now)
            burials = [Burial(row.receipt, reason) for row in rows if (reason := _reason_to_bury(row)) is not None]
            buried = Tally(taken=outbox.queue.bury(tx, burials, now))
            buried.drop("buried", buried.taken)
            self.counts.write(tx, buried)
        self.counts.show(buried)
        for burial in burials:
            self.log.error(burial.reason, "event buried", sink=self.name, row=burial.receipt.seq, reason=burial.reason)
        return self._suspects_last([row for row in rows if _reason_to_bury(row) is None])

    def _lease(self, tx: Tx, most: int, now: int) -> list[OutboxRow]:
        """Lease step by step, until there are `most`, or so many bytes, or none is left."""
        self.claims += 1
        newest = self.claims % NEWEST_EVERY == 0
        rows: list[OutboxRow] = []
        size = 0
        while size < CLAIM_BYTES and len(rows) < most:
            limit = min(CLAIM_STEP, most - len(rows))
            step = outbox.claim(tx, self.name, now=now, lease=LEASE_MS, limit=limit, holder=self.holder, newest=newest)
            rows += step
            size += sum(len(row.payload) for row in step)
            if len(step) < limit:
                break
        return rows

    def _suspects_last(self, rows: list[OutboxRow]) -> list[OutboxRow]:
        suspects = [row for row in rows if is_suspect(row)]
        if not suspects:
            return rows
        self.rng.shuffle(suspects)
        return [row for row in rows if not is_suspect(row)] + suspects

    def hold(self, database: Database, rows: Sequence[OutboxRow], wait_s: float) -> bool:
        """Hold `rows` for `wait_s` and another lease; false if some of them are somebody else's by now."""
        with database.write() as tx:
            until = self.clock.now_ms() + round(wait_s * 1000) + LEASE_MS
            held = outbox.queue.extend(tx, [row.receipt for row in rows], until)
        self._note_stale(len(rows) - held)
        return held == len(rows)

    def give_back(self, database: Database, rows: Iterable[OutboxRow]) -> None:
        """Make `rows` ready for anybody at once, without blame."""
        with database.write() as tx:
            now = self.clock.now_ms()
            outbox.queue.release(tx, [Postponed(row.receipt, now) for row in rows])

    def settle(self, database: Database, judged: Judged, took_s: float) -> None:
        """Write down the verdicts that the sink took `took_s` for."""
        settled: list[outbox.Delivered] = []
        postponed: list[Postponed] = []
        burials: list[Burial] = []
        if not judged:
            return
        with database.write() as tx:
            now = self.clock.now_ms()
            for row, verdict in judged:
                if isinstance(verdict, Retry):
                    wait_s = _ROW_RETRY.delay_s(row.failures + 1, self.rng)
                    postponed.append(Postponed(row.receipt, now + round(wait_s * 1000)))
                elif isinstance(verdict, Refused) and verdict.bury:
                    burials.append(Burial(row.receipt, verdict.reason))
                else:
                    outcome = f"refused: {verdict.reason}" if isinstance(verdict, Refused) else "delivered"
                    settled.append(outbox.Delivered(row, outcome))
            held = outbox.settle(tx, self.name, settled, now) + outbox.queue.bury(tx, burials, now)
            tally = _tally(judged, held)
            self.counts.write(tx, tally)
            held += outbox.queue.nack(tx, postponed)
        self.counts.show(tally)
        self._note_stale(len(judged) - held)
        self._count(judged, took_s, now)

    def note_retries(self, reasons: Counter[str]) -> None:
        """Count events that are to be offered again, by reason."""
        for reason, count in reasons.items():
            self.metrics.sink_retries.labels(self.name, reason).inc(count)

    def note_failure(self, row: OutboxRow, error: Exception) -> Retry:
        """Tell of an unforeseen error that was traced to `row`; returns the verdict on it."""
        reason = type(error).__name__
        text = f"{reason}: {error}"
        self.log.error(reason, "delivery failed", sink=self.name, event=row.event_id.hex(), reason=text)
        return Retry(reason)

    def _note_stale(self, count: int) -> None:
        if count:
            self.metrics.stage_errors.labels(self.stage, "stale-receipt").inc(count)

    def _count(self, judged: Judged, took_s: float, now: int) -> None:
        failed = 0
        ages_s: list[float] = []
        for row, verdict in judged:
            match verdict:
                case Refused(reason):
                    self.log.warning(reason, "event refused", sink=self.name, event=row.event_id.hex(), reason=reason)
                case Retry(reason):
                    self.metrics.stage_errors.labels(self.stage, reason).inc()
                    failed += 1
                case _:
                    ages_s.append(max(0, now - row.received_at) / 1000)
        Observations(self.metrics.delivery.labels(self.name)).record(ages_s)
        if self.name is SinkName.PUBSUB:
            # One count per event; the target relay's share of them is counted in `events_sent_to_relay_counter`.
            each_s = took_s / len(judged)
            self.metrics.handler(_HANDLER).record(each_s * (len(judged) - failed), len(judged) - failed)
            self.metrics.handler(_HANDLER, success=False).record(each_s * failed, failed)


def message_of(row: OutboxRow) -> Message:
    """What a sink is given of a row."""
    return Message(row.event_id, row.payload, row.received_at, row.retracted)


def _tally(judged: Judged, held: int) -> Tally:
    """What is done with for good, of which so many rows were still ours; the others are their new holder's to count."""
    tally = Tally(taken=held)
    for _, verdict in judged:
        if isinstance(verdict, Refused) and tally.discarded.total() < held:
            tally.drop(verdict.reason)
    tally.handed_on = held - tally.discarded.total()
    return tally


def _reason_to_bury(row: OutboxRow) -> str | None:
    if not row.payload:
        return "payload missing"
    return "too many claims" if row.receipt.claims - row.returned > MAX_CLAIMS else None
