"""One relay and its crawl in simulated time: no socket, no thread, no clock but two numbers.

`Simulation.run_until` does what a connection's thread does, turn by turn, and moves time to whatever is due next. It
holds by itself that no cursor passes what was not fetched, and that an idle crawl sleeps.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.item_sets import ItemSetProvider
from pipeline.crawl.sync.members import Member
from pipeline.crawl.sync.planner import Planner
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.relay_lists import RelayLists
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.crawl.sync.timing import CrawlSettings, Horizon
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter, parse_filter
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.message import Closed, Eose, EventMessage, NegError, NegMessage, Notice, RelayMessage
from pipeline.nostr.negentropy import ItemSet
from pipeline.nostr.notices import reason_prefix
from pipeline.nostr.tags import public_keys
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import MOST_KINDS, RelayLimits
from pipeline.relay.negentropy_session import NegFinished, NegMessageReceived
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.subscription import LiveEnded, PageEnded
from pipeline.settings.choices import CrawlMode
from pipeline.store.cursors import Cursor
from pipeline.store.relay_forms import FormChanges, FormCheck
from pipeline.store.relay_lists import Listed
from pipeline.store.sweeps import SweepProgress
from pipeline.store.wanted_authors import TIERS, Change
from tests.fakes import negentropy
from tests.support.plans import audited, changes
from tests.support.stored_events import StoredEvents

RELAY = 1
START = 1_700_000_000
# Events that a relay takes in later than this after their date are for live subscriptions and resweeps.
OVERLAP_S = 900
# Events may be dated so far ahead.
FUTURE_S = 900
# Turns without any message, sent or received, in one simulated hour: an idle crawl looks up once a minute at most, and
# some more while sweeps come due one by one.
MAX_IDLE_TURNS_PER_HOUR = 400
SETTINGS = CrawlSettings(backfill=960, lookback=86_400, resweep_window=259_200, resweep_every=21_600)

# What a relay answers a request with instead of serving it; `None` serves it.
Mood = Callable[[str, list[Filter]], "list[RelayMessage] | None"]


def cooperative(_: str, __: list[Filter]) -> list[RelayMessage] | None:
    """Serve everything."""
    return None


def closing(reason: str, *, pages: bool = True, live: bool = True) -> Mood:
    """CLOSED with this reason, for pages, live subscriptions or both."""

    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        is_live = filters[0].limit == 0
        return [Closed(subscription, reason, reason_prefix(reason))] if (live if is_live else pages) else None

    return mood


def noticing(text: str) -> Mood:
    """A NOTICE and nothing else."""
    return lambda _, __: [Notice(text)]


def mute(_: str, __: list[Filter]) -> list[RelayMessage] | None:
    """No answer at all."""
    return []


@dataclass
class TalkingRelay:
    """Stored events behind NIP-01 messages, with live subscriptions."""

    store: StoredEvents
    mood: Mood = cooperative
    max_subscriptions: int = 1_000
    stored_at: dict[bytes, int] = field(default_factory=dict)
    open: dict[str, list[Filter]] = field(default_factory=dict)
    outbox: list[RelayMessage] = field(default_factory=list)
    requests: list[tuple[str, list[Filter]]] = field(default_factory=list)
    # What it answers to messages of negentropy instead of comparing, how many events it compares at once, and how many
    # of the newest it compares without saying that there are more.
    neg_mood: Callable[[str, str], list[RelayMessage] | None] | None = None
    max_compared: int = 10**6
    compares_newest: int = 10**6
    compares: dict[str, ItemSet] = field(default_factory=dict)
    compared: list[tuple[Any, ...]] = field(default_factory=list)

    def hear(self, frame: str) -> None:
        """Take one message of the client."""
        kind, subscription, *values = orjson.loads(frame)
        if kind == "CLOSE":
            self.open.pop(subscription, None)
            return
        if kind.startswith("NEG-"):
            self.outbox += self._compare(kind, subscription, values)
            return
        assert kind == "REQ"
        filters = [parse_filter(value) for value in values]
        self.requests.append((subscription, filters))
        refusal = self.mood(subscription, filters)
        if refusal is None and subscription not in self.open and len(self.open) >= self.max_subscriptions:
            refusal = [Notice("ERROR: too many concurrent REQs")]
        if refusal is not None:
            self.open.pop(subscription, None)
            self.outbox += refusal
            return
        self.open[subscription] = filters
        for each in filters:
            if each.limit:
                self.outbox += [EventMessage(subscription, event) for event in self.store.page(each)]
        self.outbox.append(Eose(subscription))

    def _compare(self, kind: str, subscription: str, values: list[Any]) -> list[RelayMessage]:
        self.compared.append((kind, subscription, *values))
        if self.neg_mood is not None and (refusal := self.neg_mood(kind, subscription)) is not None:
            return refusal
        if kind == "NEG-OPEN":
            wanted = parse_filter(values[0])
            found = sorted((event.created_at, event.id) for event in self.store.events if wanted.matches(event))
            self.compares[subscription] = ItemSet(found[-self.compares_newest :])
        if kind == "NEG-CLOSE":
            # Unknown where a mood kept it from being opened.
            self.compares.pop(subscription, None)
            return []
        items = self.compares[subscription]
        if len(items) > self.max_compared:
            return [NegError(subscription, "blocked: too many query results", "blocked")]
        return [NegMessage(subscription, negentropy.answer(items, bytes.fromhex(values[-1])))]

    def publish(self, event: Event, now: int) -> None:
        """Take an event in, and hand it to whoever listens."""
        self.store.events.append(event)
        self.stored_at[event.id] = now
        for subscription, filters in self.open.items():
            if any(each.matches(event) for each in filters):
                self.outbox.append(EventMessage(subscription, event))

    def forget_connection(self) -> None:
        """The client is gone."""
        self.open.clear()
        self.compares.clear()
        self.outbox.clear()


class Simulation:
    """A crawl, its relay, what is wanted, and what came of it."""

    def __init__(
        self,
        rng: random.Random,
        *,
        settings: CrawlSettings = SETTINGS,
        limits: RelayLimits | None = None,
        audits: bool = False,
    ) -> None:
        self.rng = rng
        self.settings = settings
        self.mode = CrawlMode.AUTO
        # Whether forms are still to be audited; else all were found whole, with kinds in one list.
        self.audits = audits
        self.forms: dict[str, FormCheck] = {} if audits else {each.form: each for each in audited(START)}
        self.mono = 100.0
        self.clock_error = 0
        self.relay = TalkingRelay(StoredEvents(rng))
        self.planner = Planner()
        self.plan = self.planner.plan()
        self.holds_last_tier = False
        """Whether the relay is asked for the last tier as it was at the last `catch_up`."""
        self._caught_up = self.plan
        self.has_tiers = False
        """Whether authors are of random tiers; of the first else."""
        self.changes: dict[bytes, Change] = {}
        self.authors: set[bytes] = set()
        self.users: set[bytes] = set()
        self.max_idle_turns = MAX_IDLE_TURNS_PER_HOUR
        self.crawled_since = START
        self.doubt = (0, 0)
        self.limits = limits or (RelayLimits() if audits else RelayLimits(max_kinds=MOST_KINDS))
        self.started_with = self.limits
        self.cursors: dict[str, Cursor] = {}
        self.progress: dict[str, SweepProgress] = {}
        self.delivered: set[bytes] = set()
        # Ids of what the relay gives nobody.
        self.beyond: set[bytes] = set()
        self.refusals: Counter[RelayRefusal] = Counter()
        self.idle_turns: Counter[int] = Counter()
        self.session: Session | None = None
        self.host = HostBackoff(rng)
        self.item_sets: ItemSetProvider | None = None
        self.lists = RelayLists()
        self.moved: list[Cursor] = []
        self.owed: list[str] = []
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self.crawl = self._new_crawl()

    @property
    def wall(self) -> int:
        """Unix seconds."""
        return START + int(self.mono - 100.0) + self.clock_error

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so many seconds after the start."""
        heapq.heappush(self._actions, (100.0 + seconds, next(self._number), action))

    # What happens to the service.

    def connect(self) -> None:
        self.session = Session(self.crawl.limits, silences=self.crawl.silences)
        self.crawl.on_connected()

    def disconnect(self) -> None:
        if self.session is not None:
            self.limits = self.session.limits
        self.session = None
        self.relay.forget_connection()

    def restart(self) -> None:
        """A new process with what the old one has committed."""
        self.disconnect()
        self._caught_up = self.plan
        self.crawl = self._new_crawl()

    def _new_crawl(self) -> RelaySync:
        sync = RelaySync(
            cursors=CursorTable(RELAY, self.cursors.values(), self.progress.values()),
            limits=LearnedLimits(self.limits),
            horizon=Horizon(self.settings, self.crawled_since, *self.doubt), plan=self.plan, item_sets=self.item_sets,
        )  # fmt: skip
        sync.audit.knowledge.recall(self.forms.values())
        sync.strategy.mode = self.mode
        sync.named = self.lists.at(RELAY)
        return sync

    def name(self, *authors: bytes, writes: bool = False, reads: bool = False) -> None:
        """What the lists of `authors` say of this relay from now on."""
        at, elsewhere = (RELAY, RELAY + 1), (RELAY + 1,)
        said = (Listed(each, at if writes else elsewhere, at if reads else ()) for each in authors)
        if changed := self.lists.apply(said).get(RELAY):
            self.crawl.named = self.crawl.named.after(changed)
            self._ask_for_plan()

    def ask(self, mode: CrawlMode) -> None:
        """What the operator wants, of this process and later ones."""
        self.mode = self.crawl.strategy.mode = mode

    def want(
        self, authors: Iterable[bytes] = (), registered: Iterable[bytes] = (), *, gone: Iterable[bytes] = (),
        tier: int | None = None,
    ) -> None:  # fmt: skip
        """One change of what is wanted."""
        generation, now, leaving = self.planner.generation + 1, self.wall * 1000, set(gone)
        people, users = {*authors, *registered, *leaving}, {*registered, *leaving}
        began = [
            Change(each, each not in leaving, now, generation, self._tier() if tier is None else tier)
            for each in sorted(people)
        ]
        self.changes.update((each.public_key, each) for each in began)
        self.planner.apply(
            changes(generation, began, [Change(each, each not in leaving, now, generation) for each in sorted(users)])
        )
        self.authors = (self.authors | people) - leaving
        self.users = (self.users | users) - leaving
        self._follow_plan()

    def promote(self) -> None:
        """Move all authors of the last tier to an earlier one."""
        generation, late = self.planner.generation + 1, TIERS - 1
        moved = [
            replace(each, generation=generation, tier=self.rng.randrange(late))
            for each in self.changes.values()
            if each.wanted and each.tier == late
        ]
        self.changes.update((each.public_key, each) for each in moved)
        self.planner.apply(changes(generation, moved))
        self._follow_plan()

    def _tier(self) -> int:
        return self.rng.randrange(TIERS) if self.has_tiers else 0

    def _follow_plan(self) -> None:
        self.plan = self.planner.plan()
        if not self.holds_last_tier:
            self._caught_up = self.plan
        self._ask_for_plan()

    def catch_up(self) -> None:
        """Ask for the last tier as it is now."""
        self._caught_up = self.plan
        self._ask_for_plan()

    def _ask_for_plan(self) -> None:
        self.crawl.set_plan(self.plan.with_last_tier_of(self._caught_up))

    # Time.

    def run_until(self, seconds: float) -> None:
        """Let the simulated time pass until so many seconds after the start."""
        end = 100.0 + seconds
        while self.mono < end:
            while self._actions and self._actions[0][0] <= self.mono:
                heapq.heappop(self._actions)[2]()
            busy = self._turn()
            if not busy:
                self._sleep(end)

    def _sleep(self, end: float) -> None:
        times = [end, *(action[0] for action in self._actions[:1])]
        if self.session is not None:
            hour = int(self.mono) // 3600
            self.idle_turns[hour] += 1
            assert self.idle_turns[hour] < self.max_idle_turns, "an idle crawl does not sleep"
            assert self.crawl.next_time() > self.mono, "it wants to be woken at once"
            times.append(self.crawl.next_time())
            deadline = self.session.next_deadline()
            times += [] if deadline is None else [deadline]
        self.mono = max(self.mono + 0.001, min(times))

    def _turn(self) -> bool:
        """What a connection's thread does between two looks at its socket; returns whether anything was said."""
        session = self.session
        if session is None:
            return False
        for ended in list(session.on_timeout(self.mono)):
            self._on_outcome(session, ended)
        if session.wants_another_connection:
            self.crawl.on_lost(session)
            self.disconnect()
            self.connect()
            return True
        self.crawl.advance(session, self.mono, self.wall, may_ask=self.host.can_send(self.mono))
        for cursor in self.crawl.take_moved():
            self._commit(cursor)
        said = bool(session.outgoing)
        while session.outgoing:
            self.relay.hear(session.outgoing.popleft())
        messages, self.relay.outbox = self.relay.outbox[:700], self.relay.outbox[700:]
        self.mono += 0.05 if said or messages else 0.0
        for message in messages:
            if isinstance(message, EventMessage):
                self._on_event(session, message)
                continue
            for outcome in list(session.receive(message, self.mono)):
                self._on_outcome(session, outcome)
        return said or bool(messages)

    def _on_event(self, session: Session, message: EventMessage) -> None:
        event = message.event
        if session.note_event(message.subscription, event, self.mono):
            self.crawl.on_arrival(event.id, event.created_at, message.subscription, session, self.mono)
        is_of_now = event.created_at <= self.wall + FUTURE_S
        if self.crawl.takes(message, session) and self.is_wanted(message.event) and is_of_now:
            self.delivered.add(message.event.id)

    def _on_outcome(self, session: Session, outcome: object) -> None:
        if isinstance(outcome, PageEnded):
            cursor = self.crawl.on_page_ended(outcome, session, self.mono)
            if cursor is not None:
                self._commit(cursor)
            self._store(self.crawl.take_form_changes(session.limits))
            for progress in self.crawl.take_progress():
                if progress.is_over:
                    self.progress.pop(progress.sweep, None)
                else:
                    self.progress[progress.sweep] = progress
            self._on_refusal(outcome.refusal)
        elif isinstance(outcome, LiveEnded):
            self.crawl.on_live_ended(outcome, self.mono)
            self._on_refusal(outcome.refusal)
        elif isinstance(outcome, NegMessageReceived):
            self.crawl.on_neg_message(outcome, session, self.mono)
        elif isinstance(outcome, NegFinished):
            self.crawl.on_neg_finished(outcome, session)

    def _store(self, changes: FormChanges) -> None:
        self.forms |= {each.form: each for each in changes.checks}
        for subject in changes.owed:
            self.owed.append(subject)
            self.cursors = {key: each for key, each in self.cursors.items() if not key.startswith(f"{subject}/")}

    def _on_refusal(self, refusal: RelayRefusal | None) -> None:
        if refusal is not None:
            self.refusals[refusal] += 1
            if refusal is RelayRefusal.RATE_LIMITED:
                self.host.on_rate_limited(self.mono)

    # What must hold.

    def is_wanted(self, event: Event) -> bool:
        """Whether the intake would take it now."""
        return (
            event.kind in GLOBAL_KINDS or event.pubkey in self.authors or not self.users.isdisjoint(public_keys(event))
        )

    def _commit(self, cursor: Cursor) -> None:
        self.moved.append(cursor)
        known = self.cursors.get(cursor.query)
        if known is not None:
            until = cursor.complete_until
            if known.complete_until <= self.wall + OVERLAP_S:
                until = max(until, known.complete_until)
            cursor = Cursor(RELAY, cursor.query, until, max(cursor.generation, known.generation))
        self.cursors[cursor.query] = cursor
        if not cursor.query.startswith("resweep:"):
            missing = self.missing(cursor)
            assert not missing, f"{cursor} passes {missing}"

    def missing(self, cursor: Cursor) -> list[Event]:
        """Events that `cursor` says are had, and are not."""
        # What came in during the very second is for the overlap of the next sweep.
        lacking = [
            event
            for event in self.relay.store.events
            if event.id not in self.delivered
            and event.id not in self.beyond
            and self.relay.stored_at[event.id] < cursor.complete_until
        ]
        if not lacking:
            return []
        subject, _, prefix = cursor.query.partition("/")
        asked = [each for each in self.plan.queries if each.subject == subject and _related(each, prefix)]
        if subject == Subject.FIREHOSE:
            asked, prefix = list(self.plan.live), ""
        return [event for query in asked for event in self._due(query, lacking, prefix, cursor.generation)]

    def _due(self, query: Query, events: Iterable[Event], prefix: str = "", generation: int = 2**40) -> Iterator[Event]:
        """Events of `query` that should be had some time: not dated before its reach, nor taken in long after."""
        chunk = prefix.rpartition(".")[2]
        reaches = {
            each.public_key: self._reach(query, each)
            for each in query.members
            if each.generation <= generation and (not chunk or _bits(each.public_key).startswith(chunk))
        }
        kinds = query.kinds
        for event in events:
            if query.subject is Subject.GLOBAL:
                reach: int | None = self.crawled_since - self.settings.backfill
            elif query.subject is Subject.MENTIONS:
                reach = min((reaches[each] for each in public_keys(event) if each in reaches), default=None)
            else:
                reach = reaches.get(event.pubkey)
            late = self.relay.stored_at[event.id] - event.created_at > OVERLAP_S and not self._was_there(event)
            if reach is not None and event.created_at >= reach and not late and (kinds is None or event.kind in kinds):
                yield event

    def _reach(self, query: Query, member: Member) -> int:
        if query.subject is Subject.PROFILES:
            return 0
        return max(member.since, self.crawled_since) - self.settings.lookback

    def _was_there(self, event: Event) -> bool:
        """Whether the relay had it before it was ever crawled."""
        return self.relay.stored_at[event.id] <= self.crawled_since

    def everything(self) -> set[bytes]:
        """Ids of all events that should be had by now, given time."""
        return {event.id for query in self.plan.queries for event in self._due(query, self.relay.store.events)}


def _related(query: Query, prefix: str) -> bool:
    mark, _, bits = prefix.rpartition(".")
    is_of_tier = mark == (str(query.tier) if query.tier else "")
    return is_of_tier and (query.bits.startswith(bits) or bits.startswith(query.bits))


def _bits(public_key: bytes) -> str:
    return f"{int.from_bytes(public_key):0256b}"
