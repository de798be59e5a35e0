"""`stage saver`: decides what is relevant and hands it on, in one transaction with its removal from the inbox."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.config import SinkKind
from pipeline.crawl.relevance import Relevance
from pipeline.crawl.retraction import retraction
from pipeline.errors import EventServiceError
from pipeline.nostr.event import Event, event_from_stored
from pipeline.nostr.extract import Source, relay_candidates
from pipeline.nostr.extract import contacts as contacts_of
from pipeline.nostr.kinds import CONTACTS
from pipeline.nostr.tags import coordinate
from pipeline.process.backoff import Backoff
from pipeline.process.logs import RateLimited
from pipeline.process.stage import StageContext
from pipeline.sinks.forwarding import reason_to_ignore
from pipeline.store import contacts, drops, events, inbox, outbox, relays, retractions, wanted
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.database import Database, DatabaseFailed, Tx
from pipeline.store.drops import Drop
from pipeline.store.events import Accepted
from pipeline.store.inbox import InboxRow
from pipeline.store.lease import Burial, Postponed
from pipeline.store.outbox import SinkName
from pipeline.store.retractions import Identity
from pipeline.store.schema import open_database
from pipeline.store.tallies import StageCounts, Tally
from pipeline.store.waiting import POLL_S, CommitWatch

BATCH_ROWS: Final = 200
# Contact lists are the large ones: this much of them is some 7,000 edges, and about 100 ms of the write lock.
BATCH_BYTES: Final = 512 << 10
# After fewer rows than this the saver lets more come for a moment: a transaction costs as much as some ten of them.
GATHER_ROWS: Final = 50
GATHER_S: Final = 0.02
LEASE_MS: Final = 30_000
# A row that fails alone this often, or that the process dies of when it is alone, is buried.
MAX_FAILURES: Final = 5
# What a database that fails for most of a day comes to; a row that comes to more has something that nobody thought of.
MAX_CLAIMS: Final = 1_000
# Claimed more than once: somebody died with it, or gave it back; it is saved alone, so that it can harm nobody else.
_SUSPECT_CLAIMS: Final = 2
_RETRY: Final = Backoff(base_s=2.0, factor=4.0, cap_s=3600.0)
_IDLE_POLLS: Final = round(1.0 / POLL_S)
_STAGE: Final = "saver"


def run(ctx: StageContext) -> None:
    """Save until stopped."""
    with open_database(ctx.config.database_path, ctx.clock) as database:
        _Saver(ctx, database).run()


class _StaleReceipt(EventServiceError):
    """A row of the batch was claimed by somebody else meanwhile, who took this process for dead."""


class _Item(NamedTuple):
    row: InboxRow
    event: Event


class _Decided(NamedTuple):
    event: Event
    accepted: Accepted
    reason_not_to_send: str | None
    """To the target relay."""


@dataclass(slots=True)
class _Outcome:
    """What a batch did, counted once it is committed."""

    events: Tally = field(default_factory=Tally)
    dropped: list[Drop] = field(default_factory=list)

    def drop(self, event_id: bytes, relay: int, reason: str) -> None:
        self.events.drop(reason)
        self.dropped.append(Drop(event_id, reason, relay))


class _Saver:
    def __init__(self, ctx: StageContext, database: Database) -> None:
        config = ctx.config
        self._ctx = ctx
        self._database = database
        self._authors = Authors()
        self._relevance = Relevance()
        self._committed_generation = 0
        self._named = _RecentlyNamed()
        # Which events cannot be saved is up to those who make them.
        self._log = RateLimited(ctx.log, ctx.clock)
        self._to_pubsub = config.sink.kind is not SinkKind.NONE
        self._target = config.target_relay
        self._counts = StageCounts(ctx.slot, ctx.metrics)
        self._handled = ctx.metrics.handler("saveReceivedEvent")
        self._failed = ctx.metrics.handler("saveReceivedEvent", success=False)

    def run(self) -> None:
        watch = CommitWatch(self._database)
        self._counts.resume(self._database)
        with self._database.write() as tx:
            # Who had this slot before is gone, and what it had in hand need not wait for the end of its lease.
            inbox.queue.free(tx, self._ctx.slot.name, self._ctx.clock.now_ms())
        while not self._ctx.stop.is_set():
            self._ctx.heartbeat.beat()
            rows = self._claim()
            if not rows:
                watch.wait(self._ctx.stop, _IDLE_POLLS)
                continue
            suspects = [row for row in rows if row.receipt.claims >= _SUSPECT_CLAIMS]
            for batch in _transactions([row for row in rows if row.receipt.claims < _SUSPECT_CLAIMS]):
                self._save_or_split(batch)
            # Who was to blame before comes last, so that nobody else waits behind what kills the process.
            for row in sorted(suspects, key=lambda row: (row.failures, row.receipt.seq)):
                self._save_suspect(row)
            if len(rows) < GATHER_ROWS:
                self._ctx.stop.wait(GATHER_S)

    def _claim(self) -> list[InboxRow]:
        clock = self._ctx.clock
        with self._database.read() as tx:
            if not inbox.any_ready(tx, clock.now_ms()):
                return []
        with self._database.write() as tx:
            rows = inbox.claim(tx, now=clock.now_ms(), lease=LEASE_MS, limit=BATCH_ROWS, holder=self._ctx.slot.name)
            burials = [Burial(row.receipt, reason) for row in rows if (reason := _reason_to_bury(row)) is not None]
            inbox.queue.bury(tx, burials, clock.now_ms())
            buried = self._tally_buried(tx, len(burials))
        self._counts.show(buried)
        for row in rows:
            if (reason := _reason_to_bury(row)) is not None:
                self._note_burial(row, reason)
        return [row for row in rows if _reason_to_bury(row) is None]

    def _save_suspect(self, row: InboxRow) -> None:
        """Save a row alone that somebody may have died of; it is blamed beforehand, in case that it happens again."""
        self._ctx.heartbeat.beat()
        with self._database.write() as tx:
            inbox.queue.nack(tx, [Postponed(row.receipt, self._ctx.clock.now_ms() + LEASE_MS)])
        try:
            self._save_or_split([row], blamed=True)
        except DatabaseFailed:
            with contextlib.suppress(DatabaseFailed), self._database.write() as tx:
                inbox.queue.forgive(tx, [row.receipt])
            raise

    def _save_or_split(self, rows: Sequence[InboxRow], *, blamed: bool = False) -> None:
        """Save `rows`; where that fails, halve them until the guilty one stands alone."""
        if not rows:
            return
        began = self._ctx.clock.monotonic()
        try:
            self._save(rows)
        except DatabaseFailed:
            raise
        except Exception as error:
            self._forget_what_was_undone()
            if len(rows) == 1 and isinstance(error, _StaleReceipt):
                # Whoever has it by now saves it and counts it.
                self._ctx.metrics.stage_errors.labels(_STAGE, "stale-receipt").inc()
            elif len(rows) > 1:
                middle = len(rows) // 2
                self._save_or_split(rows[:middle])
                self._save_or_split(rows[middle:])
            else:
                self._failed.record(self._ctx.clock.monotonic() - began)
                self._put_aside(rows[0], error, blamed=blamed)
        else:
            self._handled.record(self._ctx.clock.monotonic() - began, len(rows))

    def _save(self, rows: Sequence[InboxRow]) -> None:
        items = [_Item(row, event_from_stored(row.raw)) for row in rows]
        tally = _Outcome()
        self._catch_up()
        with self._database.write() as tx:
            now = self._ctx.clock.now_ms()
            self._follow(tx)
            self._replace_contacts(tx, items, now)
            self._retract(tx, items, now)
            self._follow(tx)
            self._hand_on(tx, items, tally, now)
            if inbox.queue.ack(tx, (row.receipt for row in rows)) < len(rows):
                raise _StaleReceipt
            tally.events.taken += len(rows)
            self._counts.write(tx, tally.events)
        self._committed_generation = self._relevance.generation
        self._count(tally)

    def _catch_up(self) -> None:
        """Follow what others have committed, which may be a million authors, before anybody waits for the lock."""
        with self._database.read() as tx:
            self._follow(tx)
        self._committed_generation = self._relevance.generation

    def _follow(self, tx: Tx) -> None:
        """Let relevance be what the database says at this point of the transaction."""
        if wanted.latest_generation(tx) != self._relevance.generation:
            self._relevance.apply(wanted.stream_since(tx, self._relevance.generation))

    def _replace_contacts(self, tx: Tx, items: Sequence[_Item], now: int) -> None:
        for event in (item.event for item in items if item.event.kind == CONTACTS):
            follower = self._authors.intern(tx, event.pubkey)
            if not retractions.retracted(tx, [_identity(event, follower)]):
                followees = frozenset(self._authors.intern_all(tx, contacts_of(event)))
                contacts.replace(tx, ContactList(follower, event.id, event.created_at, followees), now)

    def _retract(self, tx: Tx, items: Sequence[_Item], now: int) -> None:
        for item in items:
            taken_back = retraction(item.event)
            if taken_back is not None:
                author = self._authors.intern(tx, item.event.pubkey)
                contacts.retract(tx, author, taken_back.event_ids, taken_back.contacts_until, now)
                retractions.delete(tx, taken_back.event_ids, author, now)
                retractions.delete_versions(tx, taken_back.coordinates, author, item.event.created_at, now)
                if taken_back.vanished_until is not None:
                    # The request itself is as old as what it takes back, and is handed on.
                    retractions.vanish(tx, author, taken_back.vanished_until - 1, now)

    def _hand_on(self, tx: Tx, items: Sequence[_Item], tally: _Outcome, now: int) -> None:
        relevant = []
        for item in items:
            if self._relevance.rule(item.event) is None:
                tally.drop(item.event.id, item.row.relay, "irrelevant")
            else:
                relevant.append(item)
        decided = [self._decide(tx, item, now // 1000) for item in relevant]
        retracted = retractions.retracted(tx, (_identity(each.event, each.accepted.author) for each in decided))
        kept = [each for each in decided if each.accepted.event_id not in retracted]
        for gone in (each.accepted for each in decided if each.accepted.event_id in retracted):
            tally.drop(gone.event_id, gone.relay, "retracted")
        new = events.accept(tx, (each.accepted for each in kept), now)
        tally.events.drop("duplicate", len(kept) - len(new))
        fresh = [each for each in kept if each.accepted.event_id in new]
        events.store(tx, (each.accepted for each in fresh if each.accepted.sinks))
        if self._to_pubsub:
            outbox.append(tx, SinkName.PUBSUB, (each.accepted.event for each in fresh), now)
        to_relay = (each.accepted.event for each in fresh if each.reason_not_to_send is None)
        outbox.append(tx, SinkName.RELAY, to_relay, now)
        for each in fresh:
            self._name_relays(tx, each, now)
        if self._target is not None:
            reasons = (each.reason_not_to_send for each in fresh)
            tally.events.withheld.update(reason for reason in reasons if reason is not None)
        drops.append(tx, tally.dropped, now)
        tally.events.handed_on += len(new)

    def _decide(self, tx: Tx, item: _Item, now_s: int) -> _Decided:
        row, event = item
        reason = "off" if self._target is None else reason_to_ignore(event, len(row.raw), now_s)
        author = self._authors.intern(tx, event.pubkey)
        sinks = self._to_pubsub + (reason is None)
        accepted = Accepted(
            row.receipt.seq, event.id, event.created_at, event.kind, author, row.raw, row.relay, row.received_at, sinks
        )
        return _Decided(event, accepted, reason)

    def _name_relays(self, tx: Tx, decided: _Decided, now: int) -> None:
        event, author = decided.event, decided.accepted.author
        is_user = event.pubkey in self._relevance.registered
        for candidate in relay_candidates(event):
            if self._named.is_new(candidate.address.url, author, is_user=is_user):
                # A monitor's report (NIP-66) is about its own time, and no later than now.
                seen_up_at = min(event.created_at * 1000, now) if candidate.source is Source.MONITOR else 0
                relays.name(
                    tx, candidate.address.url, source=candidate.source, author=author, is_user=is_user, now=now,
                    seen_up_at=seen_up_at,
                )  # fmt: skip

    def _put_aside(self, row: InboxRow, error: Exception, *, blamed: bool) -> None:
        reason = f"{type(error).__name__}: {error}"[:200]
        now = self._ctx.clock.now_ms()
        failures = row.failures + 1
        with self._database.write() as tx:
            buried = Tally()
            if failures >= MAX_FAILURES:
                buried = self._tally_buried(tx, inbox.queue.bury(tx, [Burial(row.receipt, reason)], now))
            else:
                wait_s = _RETRY.delay_s(failures, random.Random())
                put_off = inbox.queue.snooze if blamed else inbox.queue.nack
                put_off(tx, [Postponed(row.receipt, now + round(wait_s * 1000))])
        self._counts.show(buried)
        kind = type(error).__name__
        self._ctx.metrics.stage_errors.labels(_STAGE, kind).inc()
        self._log.error(kind, "event not saved", event=row.event_id.hex(), reason=reason, failures=failures)
        if failures >= MAX_FAILURES:
            self._note_burial(row, reason)

    def _tally_buried(self, tx: Tx, count: int) -> Tally:
        tally = Tally(taken=count)
        tally.drop("buried", count)
        self._counts.write(tx, tally)
        return tally

    def _note_burial(self, row: InboxRow, reason: str) -> None:
        self._log.error("buried", "event buried", event=row.event_id.hex(), reason=reason)

    def _forget_what_was_undone(self) -> None:
        """A rolled-back transaction takes back what it taught us."""
        self._authors.forget()
        self._named.forget()
        if self._relevance.generation != self._committed_generation:
            self._relevance = Relevance()

    def _count(self, tally: _Outcome) -> None:
        metrics = self._ctx.metrics
        self._counts.show(tally.events)
        if self._target is not None:
            metrics.events_sent_to_relay.labels(self._target.url, "ignore", "success").inc(
                tally.events.withheld.total()
            )


def _identity(event: Event, author: int) -> Identity:
    return Identity(event.id, author, event.created_at, coordinate(event))


def _reason_to_bury(row: InboxRow) -> str | None:
    if row.failures >= MAX_FAILURES:
        return "the process died of it"
    return "too many claims" if row.receipt.claims > MAX_CLAIMS else None


def _transactions(rows: Sequence[InboxRow]) -> Iterator[list[InboxRow]]:
    """Cut `rows` so that none of the transactions holds the write lock for long."""
    batch: list[InboxRow] = []
    size = 0
    for row in rows:
        if batch and size + len(row.raw) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.raw)
    if batch:
        yield batch


class _RecentlyNamed:
    """Spares the database what the same author has said of the same relay a moment ago."""

    _MOST: Final = 50_000

    def __init__(self) -> None:
        self._said: set[tuple[str, int, bool]] = set()

    def is_new(self, address: str, author: int, *, is_user: bool) -> bool:
        said = (address, author, is_user)
        if said in self._said:
            return False
        if len(self._said) >= self._MOST:
            self._said.clear()
        self._said.add(said)
        return True

    def forget(self) -> None:
        self._said.clear()
