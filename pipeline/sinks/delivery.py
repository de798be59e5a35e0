"""From outbox rows to a sink and back: the loop that every sink's stage runs.

A batch is claimed, delivered and settled. Each row's fate is its own: delivered, refused for good (and said so in
`deliveries`, or buried where that is not in the order of things), put off after a failure of its own, or buried after
too many. While a sink is down the rows are held on
to and offered again, so that an outage, however long, counts against none of them.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.process.backoff import Backoff
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimited
from pipeline.process.metrics import Metrics, Observations
from pipeline.process.stop import Stop
from pipeline.sinks.base import Delivered, Message, Refused, Retry, Sink, SinkDown, Verdict, Verdicts
from pipeline.sinks.outage import Answers, Outage
from pipeline.store import outbox
from pipeline.store.database import Database
from pipeline.store.lease import Burial, Postponed
from pipeline.store.outbox import OutboxRow, SinkName
from pipeline.store.tallies import StageCounts, Tally
from pipeline.store.waiting import POLL_S, CommitWatch

# Longer than the longest batch of calls that a sink makes; whoever dies with a batch holds it up for no longer.
LEASE_MS: Final = 120_000
# A lease this old is renewed before the next of several batches.
RENEW_AFTER_S: Final = 5.0
# A row that was claimed this often was there each time that a process died, or failed for two days: it goes aside.
MAX_CLAIMS: Final = 50
# A row that was claimed and never heard of may be what its claimer died of. Each time that happens it is delivered
# together with fewer others, in the end alone, and in any order, so that they get past what is deadly.
TOGETHER: Final = (1024, 256, 64, 16, 4, 1)
# Payloads are claimed up to this many bytes, one Pub/Sub call's worth, and at most one step more.
CLAIM_BYTES: Final = 9_000_000
CLAIM_STEP: Final = 50
# Of so many claims one begins with the newest rows, so that behind a long backlog what is new goes out without delay.
NEWEST_EVERY: Final = 4
# How long the loop waits for a commit before it looks whether put-off rows are due.
_IDLE_POLLS: Final = round(1.0 / POLL_S)
_HANDLER: Final = "processSavedEvent"
# Asking costs next to nothing, and for as long as nobody asks the backlog waits, and health tells of what is over.
_PATIENCE: Final = Backoff(base_s=1.0, factor=2.0, cap_s=5.0, jitter=0.3)
_ROW_RETRY: Final = Backoff(base_s=5.0, factor=3.0, cap_s=3600.0, jitter=0.3)


def take_back(database: Database, holder: str, now: int) -> None:
    """Make ready at once what the process before this one in the slot `holder` died with; for a stage that starts."""
    with database.write() as tx:
        outbox.queue.free(tx, holder, now)


@dataclass(slots=True)
class Delivery:
    """One thread's loop for one sink."""

    stage: str
    name: SinkName
    sink: Sink
    clock: Clock
    stop: Stop
    metrics: Metrics
    counts: StageCounts
    log: RateLimited
    beat: Callable[[], None]
    holder: str | None = None
    """The slot of this process, which `take_back` knows it by."""
    claims: int = 0
    rng: random.Random = field(default_factory=random.Random)
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held while claiming or waiting for something to claim: of loops that share it, one looks and wakes for all."""
    answers: Answers = field(default_factory=Answers)
    """Shared by the loops of one sink: what it answers one of them says that it is not down."""
    outage: Outage = field(init=False)

    def __post_init__(self) -> None:
        self.outage = Outage(self.name, self.answers)

    def trouble(self) -> str:
        """What an operator should know of the sink now; empty when nothing."""
        return self.outage.trouble(self.clock.monotonic())

    def heard(self) -> None:
        """Called by a sink that takes its time when it was answered, or is owed no answer."""
        self.outage.heard(self.clock.monotonic())

    def run(self, database: Database) -> None:
        """Deliver until stopped; what is claimed but not delivered by then is given back at once."""
        watch = CommitWatch(database)
        while not self.stop.is_set():
            self.beat()
            rows = self._next(database, watch)
            if rows:
                self._deliver(database, rows)

    def _next(self, database: Database, watch: CommitWatch) -> list[OutboxRow]:
        """What is ready to be delivered; [] after about a second without, or after something was committed."""
        if not self.turn.acquire(timeout=_IDLE_POLLS * POLL_S):
            return []
        try:
            rows = self._claim(database)
            if not rows:
                self.sink.keep_alive()
                watch.wait(self.stop, _IDLE_POLLS)
            return rows
        finally:
            self.turn.release()

    def _claim(self, database: Database) -> list[OutboxRow]:
        with database.read() as tx:
            if not outbox.any_ready(tx, self.name, self.clock.now_ms()):
                return []
        rows: list[OutboxRow] = []
        with database.write() as tx:
            now = self.clock.now_ms()
            size, most = 0, self.sink.max_messages
            self.claims += 1
            newest = self.claims % NEWEST_EVERY == 0
            while size < CLAIM_BYTES and len(rows) < most:
                limit = min(CLAIM_STEP, most - len(rows))
                step = outbox.claim(
                    tx, self.name, now=now, lease=LEASE_MS, limit=limit, holder=self.holder, newest=newest
                )
                rows += step
                size += sum(len(row.payload) for row in step)
                if len(step) < limit:
                    break
            burials = [Burial(row.receipt, reason) for row in rows if (reason := _reason_to_bury(row)) is not None]
            buried = Tally(taken=outbox.queue.bury(tx, burials, now))
            buried.drop("buried", buried.taken)
            self.counts.write(tx, buried)
        self.counts.show(buried)
        for burial in burials:
            self.log.error(burial.reason, "event buried", sink=self.name, row=burial.receipt.seq, reason=burial.reason)
        if burials:
            rows = [row for row in rows if _reason_to_bury(row) is None]
        suspects = [row for row in rows if _is_suspect(row)]
        if not suspects:
            return rows
        self.rng.shuffle(suspects)
        return [row for row in rows if not _is_suspect(row)] + suspects

    def _deliver(self, database: Database, rows: list[OutboxRow]) -> None:
        """See every one of `rows` settled, however long the sink is down; or give back what is left when stopped."""
        leased_at = self.clock.monotonic()
        while rows and not self.stop.is_set():
            self.beat()
            if self.clock.monotonic() - leased_at > RENEW_AFTER_S:
                if not self._keep(database, rows, 0.0):
                    break
                leased_at = self.clock.monotonic()
            batch = _next_batch(rows)
            began = self.clock.monotonic()
            self.outage.called(began)
            verdicts, down = self._offer(batch)
            self._note_outcome(verdicts, down)
            self._note_retries(verdicts, down)
            left = self._settle(database, batch, verdicts, self.clock.monotonic() - began)
            rows = left + rows[len(batch) :]
            if down is None:
                continue
            wait_s = self._note_down(down, len(rows))
            leased_at = self.clock.monotonic() + wait_s
            if not self._keep(database, rows, wait_s):
                break
            self._wait(wait_s)
        self.outage.over()
        if rows:
            with database.write() as tx:
                now = self.clock.now_ms()
                outbox.queue.snooze(tx, [Postponed(row.receipt, now) for row in rows])

    def _keep(self, database: Database, rows: Sequence[OutboxRow], wait_s: float) -> bool:
        """Hold `rows` for `wait_s` and another lease; false if some of them are somebody else's by now."""
        with database.write() as tx:
            until = self.clock.now_ms() + round(wait_s * 1000) + LEASE_MS
            held = outbox.queue.extend(tx, [row.receipt for row in rows], until)
        if held < len(rows):
            self.metrics.stage_errors.labels(self.stage, "stale-receipt").inc(len(rows) - held)
        return held == len(rows)

    def _offer(self, rows: Sequence[OutboxRow]) -> tuple[Verdicts, SinkDown | None]:
        """What the sink says of `rows`, and whether it is down; an unforeseen error is traced to the row at fault."""
        try:
            return self._call(rows), None
        except SinkDown as down:
            return [*down.verdicts, *[None] * (len(rows) - len(down.verdicts))], down
        except Exception as error:
            failure = error
        if len(rows) == 1:
            reason = type(failure).__name__
            text = f"{reason}: {failure}"
            self.log.error(reason, "delivery failed", sink=self.name, event=rows[0].event_id.hex(), reason=text)
            return [Retry(reason)], None
        middle = len(rows) // 2
        first, is_down = self._offer(rows[:middle])
        if is_down is not None:
            return [*first, *[None] * (len(rows) - middle)], is_down
        second, is_down = self._offer(rows[middle:])
        return [*first, *second], is_down

    def _call(self, rows: Sequence[OutboxRow]) -> Verdicts:
        in_flight = self.metrics.sink_in_flight.labels(self.name)
        self.metrics.sink_batch.labels(self.name).observe(len(rows))
        in_flight.inc(len(rows))
        try:
            with self.metrics.sink_call.labels(self.name).time():
                return self.sink.deliver([Message(row.event_id, row.payload, row.received_at) for row in rows])
        finally:
            in_flight.dec(len(rows))

    def _note_outcome(self, verdicts: Verdicts, down: SinkDown | None) -> None:
        now = self.clock.monotonic()
        if down is not None:
            self.outage.failed(down, now)
        elif any(isinstance(verdict, Delivered | Refused) for verdict in verdicts):
            self.outage.worked(now)
        else:
            # Events that are to be offered again may not have been answered at all, or be at fault themselves.
            self.outage.over()

    def _note_retries(self, verdicts: Verdicts, down: SinkDown | None) -> None:
        reasons = Counter(verdict.reason for verdict in verdicts if isinstance(verdict, Retry))
        if down is not None:
            reasons[down.reason] += sum(verdict is None for verdict in verdicts)
        for reason, count in reasons.items():
            self.metrics.sink_retries.labels(self.name, reason).inc(count)

    def _settle(
        self, database: Database, rows: Sequence[OutboxRow], verdicts: Verdicts, took_s: float
    ) -> list[OutboxRow]:
        """Write down the verdicts; returns the rows that got none."""
        settled: list[outbox.Delivered] = []
        postponed: list[Postponed] = []
        burials: list[Burial] = []
        judged = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if verdict is not None]
        if not judged:
            return list(rows)
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
        self._count(judged, took_s, now, stale=len(judged) - held)
        return [row for row, verdict in zip(rows, verdicts, strict=True) if verdict is None]

    def _count(self, judged: Sequence[tuple[OutboxRow, Verdict]], took_s: float, now: int, *, stale: int) -> None:
        if stale:
            self.metrics.stage_errors.labels(self.stage, "stale-receipt").inc(stale)
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

    def _note_down(self, error: SinkDown, waiting: int) -> float:
        """Say that the sink is down; returns for how many seconds to leave it alone."""
        wait_s = _PATIENCE.delay_s(self.outage.failures, self.rng)
        self.metrics.stage_errors.labels(self.stage, error.reason).inc()
        self.log.error(
            error.reason,
            "sink is down",
            sink=self.name,
            reason=error.reason,
            detail=error.detail,
            advice=error.advice,
            waiting=waiting,
            retry_in_s=round(wait_s, 1),
        )
        return wait_s

    def _wait(self, seconds: float) -> None:
        until = self.clock.monotonic() + seconds
        while (left := until - self.clock.monotonic()) > 0 and not self.stop.wait(min(left, 1.0)):
            self.beat()


def _tally(judged: Sequence[tuple[OutboxRow, Verdict]], held: int) -> Tally:
    """What is done with for good, of which so many rows were still ours; the others are their new holder's to count."""
    tally = Tally(taken=held)
    for _, verdict in judged:
        if isinstance(verdict, Refused) and tally.discarded.total() < held:
            tally.drop(verdict.reason)
    tally.handed_on = held - tally.discarded.total()
    return tally


def _next_batch(rows: list[OutboxRow]) -> list[OutboxRow]:
    """Those that are beyond suspicion, who come first; then suspects, as many as may go together."""
    free = next((index for index, row in enumerate(rows) if _is_suspect(row)), len(rows))
    if free:
        return rows[: min(free, TOGETHER[0])]
    batch: list[OutboxRow] = []
    for row in rows:
        if len(batch) >= TOGETHER[_suspicion(row)]:
            break
        batch.append(row)
    return batch


def _is_suspect(row: OutboxRow) -> bool:
    return row.receipt.claims - row.failures > 1


def _suspicion(row: OutboxRow) -> int:
    """How often the row was claimed and neither settled nor put off, as an index of `TOGETHER`."""
    return max(0, min(row.receipt.claims - row.failures, len(TOGETHER)) - 1)


def _reason_to_bury(row: OutboxRow) -> str | None:
    if not row.payload:
        return "payload missing"
    return "too many claims" if row.receipt.claims > MAX_CLAIMS else None
