"""From the readers' hands into the inbox: what is unwanted, known or forged goes no further.

Each relay hands over batches, a few at a time, and is read no further while they wait: nothing is dropped for lack of
room. One thread takes up whatever has queued, verifies it and commits it together with the cursors that it completes.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.crawl.crawl_spans import record_crawled
from pipeline.crawl.novelty import Novelty
from pipeline.crawl.sync.costs import Verified
from pipeline.crawl.sync.sweep import OVERLAP_S
from pipeline.nostr.event import Event
from pipeline.process.clock import Clock, pause
from pipeline.process.event_rate import EventRate
from pipeline.process.stage_times import Waiting, WaitReason, uncounted
from pipeline.process.tracing import EventTracer
from pipeline.rules.acceptance import FORGED, EventLimits, rejection_reason
from pipeline.rules.relevance import Relevance, Rule, Wanted
from pipeline.store import (
    backfills,
    cursors,
    drops,
    events,
    gaps,
    inbox,
    relay_candidates,
    relay_forms,
    relay_samples,
    relay_status,
    sweeps,
)
from pipeline.store.backfills import BackfillProgress
from pipeline.store.counters import StageCounters, StageTally
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database, Tx
from pipeline.store.drops import Drop
from pipeline.store.gaps import GapChanges
from pipeline.store.inbox import Arrival
from pipeline.store.relay_forms import FormChanges
from pipeline.store.relay_status import RelayStatus
from pipeline.store.sweeps import SweepProgress

BATCH_EVENTS: Final = 64
# One transaction's worth: beyond this a row gets hardly cheaper, but others wait longer for the write lock.
TRANSACTION_EVENTS: Final = 200
# The same for large events: as the reader had them, so that no batch is much larger, and none of a few long frames.
BATCH_BYTES: Final = 256 << 10
TRANSACTION_BYTES: Final = 1 << 20
# From this rate (events/s) on, commits are this far apart while less than a reader's batch is at hand, since one costs
# as much as several events. At lower rates they may follow sooner, in proportion.
GATHER_S: Final = 0.01
GATHER_RATE: Final = 100.0
# Ids remembered in front of the database: some minutes of the whole network, 20 MB.
REMEMBERED_IDS: Final = 200_000
# How often it is written down what relays brought.
NOVEL_EVERY_S: Final = 20.0
# Forged events of one relay that are worth being written down at once.
MANY_FORGERIES: Final = 1_000
# What was only counted waits so long for something to be written.
COUNTS_EVERY_S: Final = 1.0
# What readers dropped by themselves is written down at least so often.
ASIDE_EVERY_S: Final = 1.0


class SeenIdCache:
    """Ids whose row is committed, the newest of them; read and cleared by every thread, added to by the intake."""

    __slots__ = ("_ids", "_most")

    def __init__(self, most: int = REMEMBERED_IDS) -> None:
        self._ids: dict[bytes, None] = {}
        self._most = most

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._ids

    def add_all(self, event_ids: Iterable[bytes]) -> None:
        """Remember ids, forgetting the oldest beyond the bound."""
        ids = self._ids
        ids.update(dict.fromkeys(event_ids))
        for _ in range(len(ids) - self._most):
            del ids[next(iter(ids))]

    def clear(self) -> None:
        """Forget all, in any thread; they are looked up in the database again."""
        self._ids = {}


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one relay in the order of arrival, the cursors that they complete, and what else to write with them."""

    relay: int
    received_at: int
    events: tuple[Event, ...] = ()
    cursors: tuple[Cursor, ...] = ()
    progress: tuple[SweepProgress, ...] = ()
    backfilled: tuple[BackfillProgress, ...] = ()
    gaps: GapChanges | None = None
    forms: FormChanges | None = None
    status: RelayStatus | None = None
    limits: str | None = None
    sample: tuple[bytes, ...] | None = None
    """Ids of events that the relay gave, in place of those before."""
    taken: Callable[[], None] | None = None
    """Called once the intake works on it, so that another may queue."""
    size: int = 0
    """The bytes of its events as they were sent."""
    verified: Callable[[Verified], None] | None = None
    """Called with what the verification of its events found, together with that of others of the relay."""

    @property
    def has_metadata(self) -> bool:
        """Whether there is anything to be written but for its events."""
        notes = (self.cursors, self.progress, self.backfilled, self.gaps, self.forms, self.status, self.limits)
        return self.sample is not None or any(map(bool, notes))


@dataclass(slots=True)
class _Work:
    batches: list[Batch] = field(default_factory=list)
    changes: list[Wanted] = field(default_factory=list)
    events: int = 0
    size: int = 0

    def add(self, batches: tuple[Batch, ...]) -> None:
        """Take up `batches`."""
        self.batches += batches
        self.events += sum(len(batch.events) for batch in batches)
        self.size += sum(batch.size for batch in batches)

    @property
    def is_enough(self) -> bool:
        """Return True if it is worth a transaction of its own."""
        return self.events >= TRANSACTION_EVENTS or self.size >= TRANSACTION_BYTES


class Ingester:
    """The one thread of a crawler process that verifies events and writes to the database."""

    def __init__(
        self,
        open_database: Callable[[], Database],
        limits: EventLimits,
        clock: Clock,
        counters: StageCounters,
        on_turn: Callable[[], None] = lambda: None,
        on_new: Callable[[], None] = lambda: None,
        waiting: Waiting = uncounted,
    ) -> None:
        """Called by the thread in `run`: `on_turn` about every second, whether there is work or not; `on_new` after
        each commit of new events. `waiting` counts its waits.
        """
        self.committed = SeenIdCache()
        self._open_database = open_database
        self._on_turn = on_turn
        self._on_new = on_new
        self._waiting = waiting
        self._limits = limits
        self._clock = clock
        self._counters = counters
        self._relevance = Relevance()
        self.has_room_for_strangers = True
        """Whether events of authors are saved who are neither users nor followed by one; set by another thread."""
        self.tracer: EventTracer | None = None
        """What takes the spans of sampled events; set before `run`."""
        # Of the transaction in the making.
        self._dropped: list[Drop] = []
        self._tally = StageTally()
        # What readers dropped since the last one.
        self._aside: Counter[str] = Counter()
        self._aside_lock = threading.Lock()
        self._queue: SimpleQueue[tuple[Batch, ...] | Wanted | None] = SimpleQueue()
        # Events that each relay was the first to bring, not yet written down.
        self._novelty = Novelty()
        # By relay, what its events cost, not yet written down.
        self._costs: dict[int, relay_status.RelayCost] = {}
        self._novel_at = clock.monotonic()
        self._begun_at = 0.0
        # When the events of the transaction in the making were verified (ms), if any are traced.
        self._verified_at = 0
        self._rate = EventRate()
        self._written_at = -COUNTS_EVERY_S

    def submit(self, *batches: Batch) -> None:
        """Hand over batches that belong into one transaction; `RelayBatcher` bounds how many have events."""
        self._queue.put(batches)

    def count_dropped(self, reason: str, count: int = 1) -> None:
        """Count events that a reader dropped before they came into a batch; written down within `ASIDE_EVERY_S`."""
        with self._aside_lock:
            self._aside[reason] += count

    def update_relevance(self, wanted: Wanted) -> None:
        """Let what is wanted be this, for all batches submitted later."""
        if wanted.has_ceased:
            # Before any relay is asked by it: readers drop what they find there without asking the intake.
            self.committed.clear()
        self._queue.put(wanted)

    def finish(self) -> None:
        """Let `run` return once everything submitted before is committed."""
        self._queue.put(None)

    def run(self) -> None:
        """Work until `finish`; an error of the database ends the process, and the supervisor begins it anew."""
        with self._open_database() as database:
            finished = False
            while not finished:
                self._on_turn()
                work, finished = self._gather()
                if work.batches or self._aside:
                    self._begun_at = self._clock.monotonic()
                    self._rate.note(self._begun_at, work.events)
                    self._commit(database, work.batches)
                for wanted in work.changes:
                    self._relevance.follow(wanted)
                    if wanted.has_ceased:
                        # Committed events of those no longer wanted may be dropped by the saver, and must then be
                        # able to come in again.
                        self.committed.clear()
            self._write(database, [], {}, {})

    def _gather(self) -> tuple[_Work, bool]:
        """Whatever has queued, up to a transaction's worth; changes of what is wanted end the gathering.

        What comes now and then is not held up; of many, those that come soon after a commit share the next one.
        """
        work = _Work()
        try:
            with self._waiting(WaitReason.WORK):
                item = self._queue.get(timeout=ASIDE_EVERY_S)
        except Empty:
            return work, False
        has_waited = False
        while True:
            if item is None:
                return work, True
            if isinstance(item, Wanted):
                work.changes.append(item)
                return work, False
            work.add(item)
            if work.is_enough:
                return work, False
            if self._queue.empty() and work.events < BATCH_EVENTS and not has_waited:
                has_waited = True
                self._let_gather()
            try:
                item = self._queue.get_nowait()
            except Empty:
                return work, False

    def _let_gather(self) -> None:
        """Wait as long after the last commit as the rate asks for."""
        now = self._clock.monotonic()
        with self._waiting(WaitReason.TIMER):
            pause(self._begun_at + GATHER_S * min(1.0, self._rate.per_s(now) / GATHER_RATE) - now)

    def _commit(self, database: Database, batches: list[Batch]) -> None:
        for batch in batches:
            if batch.taken is not None:
                batch.taken()
        candidates = [(event, batch) for batch in batches for event in self._wanted_events(batch)]
        known = _known(database, [event for event, _ in candidates])
        arrivals: dict[bytes, Arrival] = {}
        genuine: dict[bytes, Event] = {}
        found: defaultdict[int, Verified] = defaultdict(Verified)
        for event, batch in candidates:
            # Of several copies the first may have been a forgery, so that each is looked at until one was genuine.
            if event.id in known or event.id in arrivals:
                self._tally.drop("duplicate")
            elif (arrival := self._check(event, batch, found[batch.relay])) is not None:
                arrivals[event.id], genuine[event.id] = arrival, event
        if self.tracer is not None:
            self._verified_at = self._clock.now_ms()
        self._note_costs(batches, found)
        # What nobody wants, most of what a relay that is asked for everything sends, is not worth the write lock.
        is_due = self._clock.monotonic() - self._written_at >= COUNTS_EVERY_S
        if arrivals or self._dropped or is_due or any(batch.has_metadata for batch in batches):
            self._write(database, batches, arrivals, genuine)
        self.committed.add_all(known)
        self.committed.add_all(arrivals)

    def _write(
        self, database: Database, batches: list[Batch], arrivals: dict[bytes, Arrival], genuine: dict[bytes, Event]
    ) -> None:
        """One transaction for all of it, and for what was counted since the last; `genuine`: the events of arrivals."""
        with database.write() as tx:
            new = inbox.append(tx, arrivals.values()) if arrivals else set()
            self._put_metadata(tx, batches)
            for event_id in new:
                self._note_novel(arrivals[event_id].relay, genuine[event_id])
            self._put_novel(tx)
            drops.append(tx, self._dropped, self._clock.now_ms())
            totals = self._counters.write(tx, self._close_tally(len(new), len(arrivals) - len(new)))
        if self.tracer is not None:
            # Before the saver is rung, which may take the processor.
            appended = (arrivals[event_id] for event_id in new)
            record_crawled(self.tracer, appended, self._verified_at, self._clock.now_ms())
        if new:
            self._on_new()
        self._counters.show(totals)
        self._dropped.clear()
        self._written_at = self._clock.monotonic()

    def _put_metadata(self, tx: Tx, batches: list[Batch]) -> None:
        """Write down what relays are complete up to, with or after the events before it, and what was learned."""
        moved = (cursor for batch in batches for cursor in batch.cursors)
        cursors.advance(tx, moved, self._clock.now_ms() // 1000 + OVERLAP_S)
        sweeps.put(tx, (progress for batch in batches for progress in batch.progress))
        backfills.put_progress(tx, (progress for batch in batches for progress in batch.backfilled))
        gaps.put(tx, (batch.gaps for batch in batches if batch.gaps is not None))
        relay_status.put_statuses(tx, [batch.status for batch in batches if batch.status is not None])
        for batch in batches:
            if batch.forms:
                relay_forms.put(tx, batch.relay, batch.forms)
            if batch.limits is not None:
                relay_status.put_limits(tx, batch.relay, batch.limits)
            if batch.sample is not None:
                relay_samples.put(tx, batch.relay, batch.sample)

    def _close_tally(self, new: int, known: int) -> StageTally:
        """What the transaction decided, with what readers dropped meanwhile; the next one begins with nothing."""
        tally, self._tally = self._tally, StageTally()
        tally.out = new
        tally.drop("duplicate", known)
        with self._aside_lock:
            aside, self._aside = self._aside, Counter()
        tally.taken += aside.total()
        tally.dropped.update(aside)
        return tally

    def _put_novel(self, tx: Tx) -> None:
        """Write down now and then what relays were the first to bring and what they cost; a little may be lost."""
        is_due = self._clock.monotonic() - self._novel_at >= NOVEL_EVERY_S
        # At once where a relay may be cut off for them.
        is_due |= any(cost.forged >= MANY_FORGERIES for cost in self._costs.values())
        if is_due and (self._novelty or self._costs):
            brought = self._novelty.take()
            worth = {relay: each.worth for relay, each in brought.items()}
            productive = [relay for relay, each in brought.items() if each.is_productive]
            relay_candidates.add_first_seen(tx, worth, self._clock.now_ms(), productive=productive)
            relay_status.add_costs(tx, self._costs)
            self._costs.clear()
            self._novel_at = self._clock.monotonic()

    def _note_novel(self, relay: int, event: Event) -> None:
        if event.pubkey in self._relevance.authors:
            self._novelty.note_wanted(relay, event.pubkey, self._clock.monotonic())
        else:
            self._novelty.note_other(relay, is_mention=self._relevance.rule(event) is Rule.MENTION)

    def _wanted_events(self, batch: Batch) -> list[Event]:
        """The wanted events of `batch` that are not among the committed ids."""
        self._tally.taken += len(batch.events)
        wanted = [event for event in batch.events if self._relevance.rule(event) is not None]
        self._tally.drop("unwanted", len(batch.events) - len(wanted))
        if not self.has_room_for_strangers:
            relevant, wanted = wanted, [event for event in wanted if not self._relevance.is_of_stranger(event)]
            self._tally.drop("database-full", len(relevant) - len(wanted))
        candidates = [event for event in wanted if event.id not in self.committed]
        self._tally.drop("duplicate", len(wanted) - len(candidates))
        return candidates

    def _note_costs(self, batches: list[Batch], found: dict[int, Verified]) -> None:
        """Let the readers know at once what their relays cost, and remember it to be written down."""
        readers = {batch.relay: batch.verified for batch in batches if batch.verified is not None}
        for relay, verified in found.items():
            if (tell := readers.get(relay)) is not None:
                tell(verified)
            if verified.forged or verified.stranger_bytes:
                cost = self._costs.get(relay, relay_status.RelayCost())
                self._costs[relay] = cost.plus(verified.forged, verified.stranger_bytes)

    def _check(self, event: Event, batch: Batch, verified: Verified) -> Arrival | None:
        """The event as a row, `None` (and counted) if it must not be saved."""
        raw = event.to_json()
        reason = rejection_reason(event, len(raw), self._limits, batch.received_at // 1000)
        if reason is not None:
            verified.forged += reason.startswith(FORGED)
            self._tally.drop(reason)
            self._dropped.append(Drop(event.id, reason, batch.relay))
            return None
        verified.genuine += 1
        if self._relevance.is_of_stranger(event):
            verified.stranger_events += 1
            verified.stranger_bytes += len(raw)
        return Arrival(event.id, raw, batch.relay, batch.received_at, event.created_at)


def _known(database: Database, candidates: Sequence[Event]) -> set[bytes]:
    """Which of these events were accepted before: their ids."""
    if not candidates:
        return set()
    with database.read() as tx:
        return events.seen(tx, ((event.id, event.created_at) for event in candidates))
