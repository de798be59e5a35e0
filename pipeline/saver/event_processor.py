"""The transaction that saves events: contacts, retractions, relay lists, mentions, outbox rows and drops."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from pipeline.nostr.address import RelayAddress
from pipeline.nostr.event import Event
from pipeline.nostr.extract import READ_FROM, WRITTEN_TO, Candidate, MentionSource, relay_candidates
from pipeline.nostr.extract import contacts as contacts_of
from pipeline.nostr.kinds import CONTACTS, DELETION, RELAY_LIST, VANISH
from pipeline.nostr.registration import parse_departure
from pipeline.nostr.tags import expiration
from pipeline.rules.relevance import Match, Relevance
from pipeline.rules.retraction import retraction
from pipeline.rules.target_relay import skip_reason
from pipeline.saver import outbox_limit
from pipeline.saver.mention_cache import RecentMentions
from pipeline.saver.outbox_limit import OutboxBounds, OutboxLimit
from pipeline.store import (
    authors,
    contacts,
    drops,
    events,
    outbox,
    payloads,
    relay_lists,
    relay_mentions,
    relays,
    retractions,
    users,
    wanted_authors,
)
from pipeline.store.authors import Authors
from pipeline.store.contacts import Difference, KeyedList
from pipeline.store.counters import StageTally
from pipeline.store.database import Database, Tx
from pipeline.store.drops import Drop
from pipeline.store.events import Accepted
from pipeline.store.inbox import InboxRow
from pipeline.store.lease import QueueSize
from pipeline.store.relay_lists import RelayList
from pipeline.store.retractions import NOT_RETRACTABLE, Retracted
from pipeline.store.sinks import SinkName
from pipeline.store.unwanted_ids import UnwantedId

# NIP-65 asks for two to four of each; an author who lists dozens is not found sooner.
MAX_LISTED: Final = 10
# A longer list may begin with unknown relays; each lookup costs a query.
MAX_LOOKED_UP: Final = 40


class Item(NamedTuple):
    """A row of the inbox and the event in it."""

    row: InboxRow
    event: Event


@dataclass(slots=True)
class Outcome:
    """Outcome of some items, counted once it is committed."""

    events: StageTally = field(default_factory=StageTally)
    dropped: list[Drop] = field(default_factory=list)
    duplicates: set[bytes] = field(default_factory=set)
    """Ids of events that were saved before."""

    unwanted: list[UnwantedId] = field(default_factory=list)
    """Those that no rule matches."""

    beyond_retention: int = 0
    """New events so old that their ids would have been dropped if they had been seen at their time."""

    surplus_relays: int = 0
    """Addresses not stored, since their author mentions too many."""

    def drop(self, event_id: bytes, relay: int, reason: str) -> None:
        """Drop the event."""
        self.events.drop(reason)
        self.dropped.append(Drop(event_id, reason, relay))


class _Decided(NamedTuple):
    event: Event
    accepted: Accepted
    reason_not_to_send: str | None
    """To the target relay."""


class EventProcessor:
    """Processes events in transactions that its owner begins and ends. Owned by one thread.

    Its caches are valid only if the owner reports the end of each transaction, by `on_commit` or `on_rollback`.
    """

    def __init__(
        self, *, sinks: Sequence[SinkName], to_relay: bool, backlog: Callable[[SinkName], OutboxBounds],
        suppress_retracted: bool = False, followed_ago_ms: int = 0, ids_kept_ms: int = 0,
        public_url: RelayAddress | None = None,
    ) -> None:  # fmt: skip
        """`sinks`: those of `EVENTS_SINK`, which get all events, the first named first; `to_relay`: the target relay.

        `backlog`: how much may be pending for a sink that is not named first. `suppress_retracted`: drop events
        that are known to be retracted, which otherwise go to all but the target relay. `followed_ago_ms`: how long ago
        at most a contact list counts as having been written. `ids_kept_ms`: for how long ids are kept at most; 0: ever.
        `public_url`: the address by which users know this service; a request to vanish from it ends a registration.
        """
        self._sinks = tuple(sinks)
        self._to_relay = to_relay
        self._suppress_retracted = suppress_retracted
        self._followed_ago_ms = followed_ago_ms
        self._ids_kept_ms = ids_kept_ms
        self._public_url = public_url
        self._authors = Authors()
        self._relevance = Relevance()
        self._committed_generation = 0
        self._mentions = RecentMentions()
        self._limits = {sink: OutboxLimit(sink, partial(backlog, sink)) for sink in (*self._sinks[1:], SinkName.RELAY)}
        # By the id of a contact list, whom it names and what it changes, as it was before the write lock was held.
        self._lists: dict[bytes, tuple[Collection[bytes], Difference | None]] = {}
        # By the id of an event, which relays it names.
        self._candidates: dict[bytes, Sequence[Candidate]] = {}

    def catch_up(self, database: Database, items: Sequence[Item] = ()) -> None:
        """Read and parse what takes long before the write lock is held.

        That is a million authors, what lists of thousands change, and the addresses of relays.
        """
        with database.read() as tx:
            self._refresh_relevance(tx)
            self._lists = {item.event.id: _difference(tx, item.event) for item in items if item.event.kind == CONTACTS}
        self._candidates = {
            event.id: relay_candidates(event) for _, event in items if self._relevance.rule(event) is not None
        }
        self._committed_generation = self._relevance.generation

    def work_off(self, tx: Tx, now: int) -> bool:
        """Do a little of what long contact lists left to be done; return False if nothing is left."""
        return contacts.work_off(tx, self._authors, now)

    def decide(self, tx: Tx, items: Sequence[Item], now: int) -> Outcome:
        """Write everything that follows from `items`, except that they leave the inbox; `now` in ms."""
        outcome = Outcome()
        self._refresh_relevance(tx)
        self._replace_contacts(tx, items, now)
        self._retract(tx, items, now)
        self._refresh_relevance(tx)
        self._enqueue(tx, items, outcome, now)
        # Last, so that the events that end registrations are enqueued themselves.
        self._end_registrations(tx, items, now)
        return outcome

    def changes_wanted(self, tx: Tx) -> bool:
        """Return True if the set of wanted authors is another than before the last `decide`, in its transaction."""
        return wanted_authors.latest_generation(tx) != self._committed_generation

    def on_commit(self) -> None:
        """The transaction of the last `decide` was committed."""
        self._committed_generation = self._relevance.generation

    def on_rollback(self) -> None:
        """It was rolled back: drop what was cached in it."""
        self._authors.forget()
        self._mentions.forget()
        for limit in self._limits.values():
            limit.forget()
        if self._relevance.generation != self._committed_generation:
            self._relevance = Relevance()

    def _refresh_relevance(self, tx: Tx) -> None:
        """Bring relevance up to date with this point of the transaction."""
        if wanted_authors.latest_generation(tx) != self._relevance.generation:
            self._relevance.apply(wanted_authors.stream_since(tx, self._relevance.generation))

    def _replace_contacts(self, tx: Tx, items: Sequence[Item], now: int) -> None:
        for event in (item.event for item in items if item.event.kind == CONTACTS):
            follower = self._authors.intern(tx, event.pubkey)
            if not self._retracted(tx, [(event, follower)], now // 1000):
                keys, changes = self._lists.get(event.id) or (contacts_of(event), None)
                newest = KeyedList(follower, event.id, event.created_at, keys)
                ago = self._followed_ago_ms
                contacts.replace_in_slices(tx, self._authors, newest, now, most_ago=ago, changes=changes)

    def _retract(self, tx: Tx, items: Sequence[Item], now: int) -> None:
        for item in items:
            retracted_by = retraction(item.event)
            if retracted_by is not None:
                author = self._authors.intern(tx, item.event.pubkey)
                ids, until = retracted_by.event_ids, retracted_by.contacts_until
                contacts.retract(tx, self._authors, author, ids, until, now)
                relay_lists.retract(tx, author, retracted_by.event_ids, retracted_by.relay_list_until)
                retractions.delete(tx, retracted_by.event_ids, author, now)
                retractions.delete_versions(tx, retracted_by.coordinates, author, item.event.created_at, now)
                if retracted_by.vanished_until is not None:
                    retractions.vanish(tx, author, retracted_by.vanished_until, now)

    def _end_registrations(self, tx: Tx, items: Sequence[Item], now: int) -> None:
        for event in (item.event for item in items):
            if event.kind in (DELETION, VANISH) and event.pubkey in self._relevance.registered:
                departure = parse_departure(event, self._public_url)
                if departure is not None:
                    users.leave(tx, departure, now)

    def _enqueue(self, tx: Tx, items: Sequence[Item], outcome: Outcome, now: int) -> None:
        kept = self._keep(tx, self._relevant(items, outcome), outcome, now // 1000)
        new = events.accept(tx, (each.accepted for each in kept), now)
        outcome.events.drop("duplicate", len(kept) - len(new))
        outcome.duplicates.update(each.event.id for each in kept if each.event.id not in new)
        fresh = [each for each in kept if each.accepted.event_id in new]
        owed = {each.accepted.event: each.accepted for each in fresh if each.accepted.sinks}
        events.store(tx, owed.values())
        payloads.drop(tx, (item.row.event for item in items if item.row.event not in owed))
        self._append(tx, fresh, outcome, now)
        for each in fresh:
            if each.accepted.retracted is None:
                self._record_mentions(tx, each, outcome, now)
        drops.append(tx, outcome.dropped, now)
        outcome.events.out += len(new)
        outcome.beyond_retention += self._count_beyond_retention(fresh, now)

    def _relevant(self, items: Sequence[Item], outcome: Outcome) -> list[Item]:
        """Return those that a rule matches; the others are dropped."""
        relevant = []
        for item in items:
            if self._relevance.rule(item.event) is None:
                outcome.drop(item.event.id, item.row.relay, "irrelevant")
                outcome.unwanted.append(UnwantedId(item.event.id, item.event.created_at))
            else:
                relevant.append(item)
        return relevant

    def _append(self, tx: Tx, fresh: Sequence[_Decided], outcome: Outcome, now: int) -> None:
        """Enqueue for each sink; for those that are not named first, make room by dropping the oldest."""
        everything = [each.accepted for each in fresh]
        for sink in self._sinks:
            self._append_for(tx, sink, everything, outcome, now)
        if self._to_relay:
            to_relay = [each.accepted for each in fresh if each.reason_not_to_send is None]
            self._append_for(tx, SinkName.RELAY, to_relay, outcome, now)
            for each in fresh:
                if each.reason_not_to_send is not None:
                    outcome.events.skip(SinkName.RELAY, each.reason_not_to_send, 1)

    def _append_for(self, tx: Tx, sink: SinkName, events: Sequence[Accepted], outcome: Outcome, now: int) -> None:
        limit = self._limits.get(sink)
        if limit is not None:
            new = QueueSize(len(events), sum(len(accepted.payload) for accepted in events))
            outcome.events.skip(sink, outbox_limit.REASON, limit.make_room(tx, new, now))
        outbox.append(tx, sink, (accepted.event for accepted in events), now)

    def _count_beyond_retention(self, fresh: Sequence[_Decided], now: int) -> int:
        """Return how many are older than the ids that are kept, so that they may have been delivered before."""
        if not self._ids_kept_ms:
            return 0
        known_from = (now - self._ids_kept_ms) // 1000
        return sum(each.accepted.created_at < known_from for each in fresh)

    def _keep(self, tx: Tx, relevant: Sequence[Item], outcome: Outcome, now_s: int) -> list[_Decided]:
        """Decide for which sinks each of `relevant` is queued; drop what is suppressed."""
        authored = [(item.event, self._authors.intern(tx, item.event.pubkey)) for item in relevant]
        retracted = self._retracted(tx, authored, now_s)
        registered = self._relevance.registered
        followed = wanted_authors.followed_users(
            tx, {author for event, author in authored if event.pubkey in registered}
        )
        kept: list[_Decided] = []
        for item, (event, author) in zip(relevant, authored, strict=True):
            how = retracted.get(event.id)
            if how is not None and self._suppress_retracted:
                outcome.drop(event.id, item.row.relay, how.value)
            else:
                match = self._relevance.match(event, is_followed_user=author in followed)
                kept.append(self._decide(item, author, how, match, now_s))
        return kept

    def _retracted(self, tx: Tx, authored: Sequence[tuple[Event, int]], now_s: int) -> dict[bytes, Retracted]:
        """Return how events, each with the number of its author, are retracted by now; those that are not are absent.

        Requests to delete and to vanish never are.
        """
        retractable = [(event, author) for event, author in authored if event.kind not in NOT_RETRACTABLE]
        identities = [each for event, author in retractable for each in retractions.identities(tx, event, author)]
        found = retractions.retracted(tx, identities)
        for event, _ in retractable:
            expires = expiration(event)
            if expires is not None and expires <= now_s:
                found.setdefault(event.id, Retracted.EXPIRED)
        return found

    def _decide(
        self, item: Item, author: int, retracted: Retracted | None, match: Match, now_s: int
    ) -> _Decided:  # fmt: skip
        row, event = item
        reason = skip_reason(event, len(row.raw), now_s) if self._to_relay else "off"
        if reason is None and retracted is not None:
            reason = retracted.value
        sinks = len(self._sinks) + (reason is None)
        accepted = Accepted(
            row.event, event.id, event.created_at, event.kind, author, row.raw, row.relay, row.received_at, sinks,
            None if retracted is None else retracted.value, " ".join(match.rules),
            bytes.fromhex("".join(match.mentions)) if match.mentions else None,
        )  # fmt: skip
        return _Decided(event, accepted, reason)

    def _record_mentions(self, tx: Tx, decided: _Decided, outcome: Outcome, now: int) -> None:
        event, author = decided.event, decided.accepted.author
        is_user = event.pubkey in self._relevance.registered
        candidates = self._candidates.get(event.id)
        if candidates is None:
            # It became relevant by an event of the same transaction.
            candidates = relay_candidates(event)
        for candidate in candidates:
            spelling, source = candidate.address.spelling, candidate.source
            if source is not MentionSource.MONITOR and self._mentions.is_resting(author, now):
                outcome.surplus_relays += 1
                continue
            if self._mentions.is_new(spelling, author, is_user=is_user):
                # A monitor's report (NIP-66) is about its own time, and no later than now.
                seen_up_at = min(event.created_at * 1000, now) if source is MentionSource.MONITOR else 0
                naming = relay_mentions.record_mention(
                    tx, spelling, source=source, author=author, is_user=is_user, now=now, seen_up_at=seen_up_at
                )
                if naming is relay_mentions.MentionOutcome.REFUSED:
                    self._mentions.discard(spelling, author, is_user=is_user)
                    outcome.surplus_relays += 1
                    if source is not MentionSource.MONITOR:
                        self._mentions.rest(author, now)
        if event.kind == RELAY_LIST:
            relay_lists.replace(tx, _relay_list(tx, decided, candidates))


def _relay_list(tx: Tx, decided: _Decided, candidates: Sequence[Candidate]) -> RelayList:
    """Return the list as the store keeps it, by relays that it knows."""
    writes: dict[int, None] = {}
    reads: dict[int, None] = {}
    for candidate in candidates[:MAX_LOOKED_UP]:
        wanting = [
            listed
            for listed, sources in ((writes, WRITTEN_TO), (reads, READ_FROM))
            if candidate.source in sources and len(listed) < MAX_LISTED
        ]
        number = relays.number_of(tx, candidate.address.url) if wanting else None
        if number is not None:
            for listed in wanting:
                listed[number] = None
    event = decided.event
    return RelayList(decided.accepted.author, event.id, event.created_at, tuple(writes), tuple(reads))


def _difference(tx: Tx, event: Event) -> tuple[Collection[bytes], Difference | None]:
    """Return whom a contact list names, and what that changes if its author was met before."""
    keys, follower = contacts_of(event), authors.find(tx, event.pubkey)
    return keys, None if follower is None else contacts.difference(tx, follower, keys)
