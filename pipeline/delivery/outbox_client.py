"""Client of the outbox for one sink: claim rows, renew or release their leases, settle verdicts, count them.

    claim      rows with a lease of `LEASE_MS`; those that must not be tried again become dead letters
    renew      while a worker holds rows: a batch before its next call once the lease is `RENEW_BATCH_AFTER_S` old, a
               stream every `RENEW_STREAM_EVERY_S`, both for the time of the wait while the sink is down
    release    rows that are ready again at once, when the worker stops or a lease was lost
    settle     delivered or refused: recorded and removed; retry: back with a delay; refused with `dead_letter`: a dead
               letter, as after `MAX_CLAIMS` claims; in the transaction of the next claim if that comes soon

Every step names the receipts of the claim, and changes no row that was claimed again since.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from pipeline.delivery.delivery_spans import context_of, record_delivered
from pipeline.delivery.poison import is_suspect
from pipeline.delivery.unsettled import RowVerdicts, Settlement, Unsettled
from pipeline.process.backoff import Backoff
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.metrics import Metrics, Observations
from pipeline.process.stage_times import StageTimes
from pipeline.process.tracing import EventTracer
from pipeline.sinks.base import Message, Refused, Retry
from pipeline.store import outbox, replay_queue
from pipeline.store.counters import StageCounters, StageTally, Totals
from pipeline.store.database import Database, Tx
from pipeline.store.lease import DeadLetter, Postponed
from pipeline.store.outbox import OutboxRow
from pipeline.store.sinks import SinkName

# Longer than the longest batch of calls that a sink makes. A crashed worker delays its rows by this at most.
LEASE_MS: Final = 120_000
# A batch renews a lease of this age before its next call; a stream renews this often, long before the end of the lease.
RENEW_BATCH_AFTER_S: Final = 5.0
RENEW_STREAM_EVERY_S: Final = LEASE_MS / 4000
# A row claimed this often was there at every crash of its worker, or has failed for two days: it is a dead letter.
MAX_CLAIMS: Final = 50
# Bytes of payloads in one claim, as many as one Pub/Sub call carries; at most one step more.
CLAIM_BYTES: Final = 9_000_000
CLAIM_STEP: Final = 50
# One claim in this number begins with the newest rows, so that new events do not wait behind a long backlog.
NEWEST_EVERY: Final = 4
_KEY_BYTES: Final = 32
_HANDLER: Final = "processSavedEvent"
_ROW_RETRY: Final = Backoff(base_s=5.0, factor=3.0, cap_s=3600.0, jitter=0.3)


def reclaim_leases(database: Database, holder: str, now: int) -> None:
    """Release the leases of the crashed process that had the slot `holder` before; for a stage that starts."""
    with database.write() as tx:
        outbox.queue.release_all(tx, holder, now)
        replay_queue.queue.release_all(tx, holder, now)


OutboxCheck = Callable[[Tx], None]


@dataclass(slots=True)
class OutboxClient:
    """Client for the rows of one sink, for one thread. `holder` is the slot of this process, for `reclaim_leases`."""

    stage: str
    name: SinkName
    clock: Clock
    metrics: Metrics
    counters: StageCounters
    log: RateLimitedLogger
    holder: str | None = None
    unsettled: Unsettled = field(default_factory=Unsettled)
    """Shared by the workers of one sink: the one that claims settles for all."""
    tracer: EventTracer | None = None
    """What takes the spans of sampled events."""
    check: OutboxCheck = lambda _: None
    """Called in the transactions of a claim: raises if `name` is not the sink's outbox any more."""
    is_first: bool = False
    """Whether this sink counts events for all: that of `EVENTS_SINK` which is named first."""
    rng: random.Random = field(default_factory=random.Random)
    claims: int = 0
    times: StageTimes = field(init=False)

    def __post_init__(self) -> None:
        self.times = StageTimes(self.metrics, self.stage, self.clock)

    def claim(self, database: Database, most: int) -> list[OutboxRow]:
        """Lease up to `most` ready rows, dead-letter those that must not be tried; suspects come last, shuffled.

        If there are any, also commit what is unsettled. Raises what `check` raises.
        """
        with database.read() as tx:
            self.check(tx)
            if not outbox.any_ready(tx, self.name, self.clock.now_ms()):
                return []
        settlements = self.unsettled.take()
        with database.write() as tx:
            self.check(tx)
            now = self.clock.now_ms()
            tally = StageTally()
            stale = self._write_verdicts(tx, settlements, tally, now)
            rows = self._lease(tx, most, now)
            letters = [DeadLetter(row.receipt, reason) for row in rows if (reason := dead_reason(row)) is not None]
            dead = outbox.queue.dead_letter(tx, letters, now)
            tally.taken += dead
            tally.drop("buried", dead)
            totals = self.counters.write(tx, tally)
        self._on_settled(settlements, totals, stale)
        for each in letters:
            self.log.error(
                each.reason, "event is a dead letter", sink=self.name, row=each.receipt.seq, reason=each.reason
            )
        return self._suspects_last([row for row in rows if dead_reason(row) is None])

    def _lease(self, tx: Tx, most: int, now: int) -> list[OutboxRow]:
        """Lease step by step, until there are `most` rows or `CLAIM_BYTES`, or none is left."""
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

    def renew(self, database: Database, rows: Sequence[OutboxRow], wait_s: float) -> bool:
        """Renew the leases of `rows` for `wait_s` and `LEASE_MS`; return False if some were lost."""
        with database.write() as tx:
            until = self.clock.now_ms() + round(wait_s * 1000) + LEASE_MS
            renewed = outbox.queue.renew(tx, [row.receipt for row in rows], until)
        self._note_stale(len(rows) - renewed)
        return renewed == len(rows)

    def release(self, database: Database, rows: Iterable[OutboxRow]) -> None:
        """Release the leases of `rows`: ready again at once, with no failure counted."""
        with database.write() as tx:
            now = self.clock.now_ms()
            outbox.queue.release(tx, [Postponed(row.receipt, now) for row in rows])

    def defer(self, verdicts: RowVerdicts, took_s: float) -> None:
        """Leave verdicts, which the sink took `took_s` for, to the next `claim` or `settle`."""
        if verdicts:
            self.unsettled.add(Settlement(verdicts, took_s, self.clock.now_ms(), self.clock.monotonic()))

    def settle_due_in_s(self) -> float:
        """Return after how many seconds `settle` must be called; infinity if nothing is unsettled."""
        return self.unsettled.due_in_s(self.clock.monotonic())

    def settle(self, database: Database) -> None:
        """Commit all verdicts that are unsettled, those of other workers included."""
        while settlements := self.unsettled.take():
            with database.write() as tx:
                tally = StageTally()
                stale = self._write_verdicts(tx, settlements, tally, self.clock.now_ms())
                totals = self.counters.write(tx, tally)
            self._on_settled(settlements, totals, stale)

    def _write_verdicts(self, tx: Tx, settlements: Sequence[Settlement], tally: StageTally, now: int) -> int:
        """Write verdicts and add them to `tally`; return how many rows were claimed again since."""
        stale = 0
        for settlement in settlements:
            settled: list[outbox.Settled] = []
            postponed: list[Postponed] = []
            letters: list[DeadLetter] = []
            for row, verdict in settlement.verdicts:
                if isinstance(verdict, Retry):
                    postponed.append(postponed_after_failure(row, now, self.rng))
                elif isinstance(verdict, Refused) and verdict.dead_letter:
                    letters.append(DeadLetter(row.receipt, verdict.reason))
                else:
                    outcome = f"refused: {verdict.reason}" if isinstance(verdict, Refused) else "delivered"
                    settled.append(outbox.Settled(row, outcome))
            held = outbox.settle(tx, settled, now) + outbox.queue.dead_letter(tx, letters, now)
            _add_to(tally, settlement.verdicts, held)
            stale += len(settlement.verdicts) - held - outbox.queue.nack(tx, postponed)
        return stale

    def _on_settled(self, settlements: Sequence[Settlement], totals: Totals, stale: int) -> None:
        self.counters.show(totals)
        self._note_stale(stale)
        for settlement in settlements:
            self._count(settlement)
            if self.tracer is not None:
                record_delivered(self.tracer, settlement, self.name)

    def message(self, row: OutboxRow) -> Message:
        """Return the message that the sink is given for `row`, with its trace context if its event is sampled."""
        return message_of(row, context_of(self.tracer, row, self.name))

    def note_retries(self, reasons: Counter[str]) -> None:
        """Count events to be offered again, by reason."""
        for reason, count in reasons.items():
            self.metrics.sink_retries.labels(self.name, reason).inc(count)

    def note_failure(self, row: OutboxRow, error: Exception) -> Retry:
        """Log an unexpected error that was traced to `row`; return the verdict on it."""
        reason = type(error).__name__
        text = f"{reason}: {error}"
        self.log.error(reason, "delivery failed", sink=self.name, event=row.event_id.hex(), reason=text)
        return Retry(reason)

    def _note_stale(self, count: int) -> None:
        if count:
            self.metrics.stage_errors.labels(self.stage, "stale-receipt").inc(count)

    def _count(self, settlement: Settlement) -> None:
        failed = 0
        ages_s: list[float] = []
        for row, verdict in settlement.verdicts:
            match verdict:
                case Refused(reason):
                    self.log.warning(reason, "event refused", sink=self.name, event=row.event_id.hex(), reason=reason)
                case Retry(reason):
                    self.metrics.stage_errors.labels(self.stage, reason).inc()
                    failed += 1
                case _:
                    ages_s.append(max(0, settlement.at_ms - row.received_at) / 1000)
        Observations(self.metrics.delivery.labels(self.name)).record(ages_s)
        if self.is_first:
            # One count per event; the target relay's share of them is counted in `events_sent_to_relay_counter`.
            count = len(settlement.verdicts)
            each_s = settlement.took_s / count
            self.metrics.handler(_HANDLER).record(each_s * (count - failed), count - failed)
            self.metrics.handler(_HANDLER, success=False).record(each_s * failed, failed)


def message_of(row: OutboxRow, traceparent: str = "") -> Message:
    """Return the message that a sink is given for a row."""
    mentions = () if row.mentions is None else _keys(row.mentions)
    rules = _names(row.rules or "")
    return Message(
        row.event_id,
        row.payload,
        row.received_at,
        row.retracted,
        row.address or "",
        rules,
        mentions,
        traceparent,
        row.is_replay,
    )


@lru_cache(64)
def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _keys(data: bytes) -> tuple[str, ...]:
    return tuple(data[at : at + _KEY_BYTES].hex() for at in range(0, len(data), _KEY_BYTES))


def _add_to(tally: StageTally, verdicts: RowVerdicts, held: int) -> None:
    """Count the settled rows, of which `held` were still leased; the new holder of the others counts them."""
    reasons = [verdict.reason for _, verdict in verdicts if isinstance(verdict, Refused)][:held]
    for reason in reasons:
        tally.drop(reason)
    tally.taken += held
    tally.out += held - len(reasons)


def postponed_after_failure(row: OutboxRow, now: int, rng: random.Random) -> Postponed:
    """Return until when a row waits that has failed once more, at `now` (ms)."""
    return Postponed(row.receipt, now + round(_ROW_RETRY.delay_s(row.failures + 1, rng) * 1000))


def dead_reason(row: OutboxRow) -> str | None:
    """Return why the row must not be tried; `None` if it may be."""
    if not row.payload:
        return "payload missing"
    return "too many claims" if row.receipt.claims - row.returned > MAX_CLAIMS else None
