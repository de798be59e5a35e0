"""`stage saver`: decides what is relevant and enqueues it, in one transaction with its removal from the inbox."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.errors import EventServiceError, Outdated
from pipeline.nostr.event import event_from_stored
from pipeline.nostr.extract import MAX_CANDIDATES
from pipeline.nostr.kinds import CONTACTS, DELETION, VANISH
from pipeline.process.backoff import Backoff
from pipeline.process.clock import pause
from pipeline.process.event_rate import EventRate
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.stage import StageContext
from pipeline.process.stage_times import WaitReason
from pipeline.process.tracing import EventTracer
from pipeline.saver import outbox_limit
from pipeline.saver.event_processor import EventProcessor, Item, Outcome
from pipeline.saver.outbox_limit import OutboxBounds
from pipeline.saver.save_spans import record_saved
from pipeline.settings.choices import RetractedEvents
from pipeline.store import contact_slices, inbox, shares, sinks, unwanted_ids
from pipeline.store.commit_watch import CommitWatch
from pipeline.store.counters import StageCounters, StageTally, Totals
from pipeline.store.database import Database, Tx
from pipeline.store.database_errors import DatabaseFailed
from pipeline.store.inbox import InboxRow
from pipeline.store.lease import DeadLetter, Postponed
from pipeline.store.schema import open_database
from pipeline.store.sinks import EnrolledSinks, SinkName

BATCH_ROWS: Final = 200
# Contact lists are the large ones: this much of them is some 7,000 edges, and about 100 ms of the write lock.
BATCH_BYTES: Final = 512 << 10
# Rows of more bytes come after all others of a claim: their authors wait anyway, until the list is had as a whole.
LONG_BYTES: Final = 64 << 10
# Slices of long contact lists that may be left to be done; while there are more, no new rows are claimed.
MAX_SLICES: Final = 2_000
# Slices begin so many times as far apart as one takes.
SLICE_REST: Final = 4.0
# What storing one address of a relay weighs in such bytes.
ADDRESS_BYTES: Final = 1 << 10
# From this rate (events/s) on, crawlers read at common times: so long after one's commit, those of the others are there
# too and share the saver's transaction, which costs as much as some ten events.
SHARING_RATE: Final = 100.0
SHARING_S: Final = 0.003
# After a batch of so many, more are likely to be there already.
MANY_ROWS: Final = 50
LEASE_MS: Final = 30_000
# A row that fails alone this often, or that the process crashes on when it is alone, is a dead letter.
MAX_FAILURES: Final = 5
# A database that fails for most of a day costs a row as many claims; more have an unknown cause.
MAX_CLAIMS: Final = 1_000
# Claimed more than once: its worker crashed or released it. It is saved alone, so that it can harm no other row.
_SUSPECT_CLAIMS: Final = 2
_RETRY: Final = Backoff(base_s=2.0, factor=4.0, cap_s=3600.0)
# How long a commit, or a row whose retry is due, may go unnoticed where no bell rings.
_IDLE_S: Final = 1.0
_STAGE: Final = "saver"
# What ends the process, whatever the rows are.
_NO_FAULT_OF_A_ROW: Final = (DatabaseFailed, Outdated)
_CHANGING_CONTACTS: Final = frozenset({CONTACTS, DELETION, VANISH})


def run(ctx: StageContext) -> None:
    """Save until stopped."""
    with (
        ctx.tracing() as tracer,
        open_database(ctx.config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database,
    ):
        enrolled = sinks.enroll(database, ctx.config.sink_names, ctx.clock, ctx.log)
        _Saver(ctx, database, enrolled, tracer).run()


class _StaleReceipt(EventServiceError):
    """A row of the batch was claimed by another process since, after its lease ended."""


class _Saver:
    def __init__(
        self, ctx: StageContext, database: Database, enrolled: EnrolledSinks, tracer: EventTracer | None
    ) -> None:
        config = ctx.config
        self._ctx = ctx
        self._database = database
        self._tracer = tracer
        # When the rows at hand were claimed, or found (ms).
        self._claimed_at = 0
        self._target = config.target_relay
        self._enrolled = enrolled
        self._processor = EventProcessor(
            sinks=enrolled.outboxes,
            to_relay=self._target is not None,
            backlog=self._backlog,
            suppress_retracted=config.retracted is RetractedEvents.SUPPRESS,
            ids_kept_ms=max(config.seen_retention, config.seen_retention_max),
            public_url=config.public_url,
            followed_ago_ms=max(0, config.new_author_lookback_max - config.new_author_lookback),
        )
        # Which events cannot be saved is up to those who make them.
        self._log = RateLimitedLogger(ctx.log, ctx.clock)
        self._rate = EventRate()
        # When the next slice of a long contact list may be done (monotonic).
        self._slice_at = 0.0
        # Until when nothing is expected to be left of long contact lists (monotonic).
        self._done_until = 0.0
        # The last row that was there at the start; those up to it are claimed before they are saved.
        self._found_last = 0
        # Until when all rows are, since another process was met (monotonic).
        self._claim_until = 0.0
        self._counters = StageCounters(ctx.slot, ctx.metrics)
        self._times = ctx.times()
        self._handled = ctx.metrics.handler("saveReceivedEvent")
        self._failed = ctx.metrics.handler("saveReceivedEvent", success=False)

    def run(self) -> None:
        watch = CommitWatch(self._database, self._ctx.doorbell)
        self._counters.resume(self._database, self._ctx.is_abandoned)
        with self._database.write() as tx:
            shares.set_bound(tx, self._ctx.config.max_wanted_authors)
            # The process that had this slot before is gone; its rows need not wait for the end of their leases.
            inbox.queue.release_all(tx, self._ctx.slot.name, self._ctx.clock.now_ms())
            self._found_last = inbox.newest(tx)
        while not self._ctx.stop.is_set():
            self._ctx.heartbeat.beat()
            rows = self._next()
            self._rate.note(self._ctx.clock.monotonic(), len(rows))
            rows.sort(key=lambda row: len(row.raw) > LONG_BYTES)
            suspects = [row for row in rows if row.receipt.claims >= _SUSPECT_CLAIMS]
            for batch in transactions([row for row in rows if row.receipt.claims < _SUSPECT_CLAIMS]):
                self._save_or_split(batch)
            # Rows that failed before come last, so that no other waits behind one that kills the process.
            for row in sorted(suspects, key=lambda row: (row.failures, row.receipt.seq)):
                self._save_isolated(row)
            rest_s = self._work_off()
            # Fewer than that were all that was ready: what came since is a commit that the watch has not seen.
            if len(rows) < MANY_ROWS and self._wait(watch, rest_s):
                self._let_gather()

    def _backlog(self, sink: SinkName) -> OutboxBounds:
        settings = self._ctx.settings
        if sink == SinkName.RELAY:
            return OutboxBounds(settings.target_relay_backlog, settings.target_relay_backlog_bytes)
        return OutboxBounds(settings.sink_backlog, settings.sink_backlog_bytes)

    def _wait(self, watch: CommitWatch, seconds: float) -> bool:
        with self._times.waiting(WaitReason.WORK):
            return watch.wait(self._ctx.stop, seconds)

    def _let_gather(self) -> None:
        """Let the rows of other crawlers join those that have just come, if many come."""
        if self._rate.per_s(self._ctx.clock.monotonic()) >= SHARING_RATE:
            with self._times.waiting(WaitReason.TIMER):
                pause(SHARING_S)

    def _work_off(self) -> float:
        """Do a slice of what long contact lists left, more if there are too many; return when to look for the next (s).

        Between two slices the write lock is left to others for longer than one takes: they poll for it, and would
        seldom find it free.
        """
        began = self._ctx.clock.monotonic()
        look_at = max(self._slice_at, self._done_until)
        if began < look_at:
            return look_at - began
        with self._database.read() as tx:
            left = contact_slices.count(tx)
        for number in range(min(left, 1 + max(0, left - MAX_SLICES))):
            if number:
                self._ctx.heartbeat.beat()
            self._processor.catch_up(self._database)
            with self._database.write() as tx:
                self._processor.work_off(tx, self._ctx.clock.now_ms())
                changes_wanted = self._processor.changes_wanted(tx)
            if changes_wanted:
                self._ctx.bells.ring("crawler")
            self._processor.on_commit()
        if not left:
            self._done_until = began + _IDLE_S
            return _IDLE_S
        rest_s = SLICE_REST * (self._ctx.clock.monotonic() - began)
        self._slice_at = began + rest_s
        return rest_s

    def _next(self) -> list[InboxRow]:
        """Return ready rows, claimed if any of them may have killed a process or may be taken by another one."""
        clock = self._ctx.clock
        with self._database.read() as tx:
            self._claimed_at = now = clock.now_ms()
            rows = inbox.ready(tx, now=now, limit=BATCH_ROWS)
        if clock.monotonic() >= self._claim_until and all(self._is_new(row) for row in rows):
            return rows
        return self._claim()

    def _is_new(self, row: InboxRow) -> bool:
        """Return True if no process can have died of the row: it came since this one started and never failed."""
        return row.receipt.seq > self._found_last and not row.receipt.claims and not row.failures

    def _claim(self) -> list[InboxRow]:
        clock = self._ctx.clock
        with self._database.write() as tx:
            self._claimed_at = now = clock.now_ms()
            rows = inbox.claim(tx, now=now, lease=LEASE_MS, limit=BATCH_ROWS, holder=self._ctx.slot.name)
            letters = [DeadLetter(row.receipt, reason) for row in rows if (reason := _dead_reason(row)) is not None]
            inbox.queue.dead_letter(tx, letters, clock.now_ms())
            totals = self._count_dead(tx, len(letters))
        self._counters.show(totals)
        for row in rows:
            if (reason := _dead_reason(row)) is not None:
                self._log_dead_letter(row, reason)
        return [row for row in rows if _dead_reason(row) is None]

    def _save_isolated(self, row: InboxRow) -> None:
        """Save a row alone whose worker may have crashed on it: count its failure first, in case it crashes again."""
        self._ctx.heartbeat.beat()
        with self._database.write() as tx:
            inbox.queue.nack(tx, [Postponed(row.receipt, self._ctx.clock.now_ms() + LEASE_MS)])
        try:
            self._save_or_split([row], pre_charged=True)
        except _NO_FAULT_OF_A_ROW:
            with contextlib.suppress(DatabaseFailed), self._database.write() as tx:
                inbox.queue.undo_failure(tx, [row.receipt])
            raise

    def _save_or_split(self, rows: Sequence[InboxRow], *, pre_charged: bool = False) -> None:
        """Save `rows`; if that fails, halve them until the row at fault stands alone."""
        if not rows:
            return
        began = self._ctx.clock.monotonic()
        try:
            self._save(rows)
        except _NO_FAULT_OF_A_ROW:
            raise
        except Exception as error:
            self._processor.on_rollback()
            if isinstance(error, _StaleReceipt) and not rows[0].receipt.claims:
                # Another saver has some of the rows; the rest is claimed next.
                self._claim_until = self._ctx.clock.monotonic() + LEASE_MS / 1000
                self._ctx.metrics.stage_errors.labels(_STAGE, "stale-receipt").inc()
            elif len(rows) == 1 and isinstance(error, _StaleReceipt):
                # The process that claimed it since saves and counts it.
                self._ctx.metrics.stage_errors.labels(_STAGE, "stale-receipt").inc()
            elif len(rows) > 1:
                middle = len(rows) // 2
                self._save_or_split(rows[:middle])
                self._save_or_split(rows[middle:])
            else:
                self._failed.record(self._ctx.clock.monotonic() - began)
                self._retry_or_dead_letter(rows[0], error, pre_charged=pre_charged)
        else:
            self._handled.record(self._ctx.clock.monotonic() - began, len(rows))

    def _save(self, rows: Sequence[InboxRow]) -> None:
        items = [Item(row, event_from_stored(row.raw)) for row in rows]
        self._processor.catch_up(self._database, items)
        with self._database.write() as tx:
            self._enrolled.check(tx)
            outcome = self._processor.decide(tx, items, self._ctx.clock.now_ms())
            if outcome.unwanted and self._ctx.config.hub is not None:
                unwanted_ids.add(tx, outcome.unwanted)
            if inbox.queue.ack(tx, (row.receipt for row in rows)) < len(rows):
                raise _StaleReceipt
            outcome.events.taken += len(rows)
            totals = self._counters.write(tx, outcome.events)
            changes_wanted = self._processor.changes_wanted(tx)
        if any(item.event.kind in _CHANGING_CONTACTS for item in items):
            self._done_until = 0.0
        self._wake_others(outcome, changes_wanted=changes_wanted)
        self._processor.on_commit()
        if self._tracer is not None:
            record_saved(self._tracer, items, outcome, self._claimed_at, self._ctx.clock.now_ms())
        self._counters.show(totals)
        self._count(outcome)

    def _wake_others(self, outcome: Outcome, *, changes_wanted: bool) -> None:
        """Ring those that what was just committed is work for."""
        new = outcome.events.out
        is_for = {
            # Those of all sinks: the name of a stage rings all its processes.
            "forwarder": bool(self._enrolled.outboxes) and new,
            "sender": self._target is not None and new > _not_sent(outcome),
            "crawler": changes_wanted,
        }
        if stages := [stage for stage, is_work in is_for.items() if is_work]:
            self._ctx.bells.ring(*stages)

    def _retry_or_dead_letter(self, row: InboxRow, error: Exception, *, pre_charged: bool) -> None:
        reason = f"{type(error).__name__}: {error}"[:200]
        now = self._ctx.clock.now_ms()
        failures = row.failures + 1
        with self._database.write() as tx:
            totals: Totals = ()
            if failures >= MAX_FAILURES:
                totals = self._count_dead(tx, inbox.queue.dead_letter(tx, [DeadLetter(row.receipt, reason)], now))
            else:
                wait_s = _RETRY.delay_s(failures, random.Random())
                put_back = inbox.queue.postpone if pre_charged else inbox.queue.nack
                put_back(tx, [Postponed(row.receipt, now + round(wait_s * 1000))])
        self._counters.show(totals)
        kind = type(error).__name__
        self._ctx.metrics.stage_errors.labels(_STAGE, kind).inc()
        self._log.error(kind, "event not saved", event=row.event_id.hex(), reason=reason, failures=failures)
        if failures >= MAX_FAILURES:
            self._log_dead_letter(row, reason)

    def _count_dead(self, tx: Tx, count: int) -> Totals:
        tally = StageTally(taken=count)
        tally.drop("buried", count)
        return self._counters.write(tx, tally)

    def _log_dead_letter(self, row: InboxRow, reason: str) -> None:
        self._log.error("dead-letter", "event is a dead letter", event=row.event_id.hex(), reason=reason)

    def _count(self, outcome: Outcome) -> None:
        self._ctx.metrics.beyond_retention.inc(outcome.beyond_retention)
        if outcome.surplus_relays:
            self._ctx.metrics.stage_discarded.labels(_STAGE, "surplus-relays").inc(outcome.surplus_relays)
        if self._target is not None:
            ignored = _not_sent(outcome)
            self._ctx.metrics.events_sent_to_relay.labels(self._target.url, "ignore", "success").inc(ignored)
        for (sink, reason), count in outcome.events.skipped.items():
            if reason == outbox_limit.REASON:
                self._log.warning(f"{reason}-{sink}", "backlog full, events discarded", sink=sink, count=count)


def _not_sent(outcome: Outcome) -> int:
    """Return how many new events are not sent to the target relay because of their kind or form."""
    return sum(count for (_, reason), count in outcome.events.skipped.items() if reason != outbox_limit.REASON)


def _dead_reason(row: InboxRow) -> str | None:
    if row.failures >= MAX_FAILURES:
        return "the process died of it"
    return "too many claims" if row.receipt.claims > MAX_CLAIMS else None


def transactions(rows: Sequence[InboxRow]) -> Iterator[list[InboxRow]]:
    """Cut `rows` so that none of the transactions holds the write lock for long."""
    batch: list[InboxRow] = []
    size = 0
    for row in rows:
        # Each address may take half a dozen statements.
        weight = len(row.raw) + ADDRESS_BYTES * min(row.raw.count(b"://"), MAX_CANDIDATES)
        if batch and size + weight > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += weight
    if batch:
        yield batch
