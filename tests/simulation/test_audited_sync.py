"""A crawl of relays that leave events out: the audit of forms comes first, and what was asked wrongly is had again."""

import random
from dataclasses import dataclass, replace

import orjson
import pytest

from pipeline.crawl.sync.forms.audit import MAX_REQUESTS
from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.schedule import POLL_EVERY_S
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, Eose, EventMessage, RelayMessage
from pipeline.relay.limits import RelayLimits
from tests.simulation.simulation import START, Simulation, TalkingRelay
from tests.support.plans import event, key
from tests.support.stored_events import FirstValueEvents, KindFirstEvents, ShortListEvents, StoredEvents

USERS = [key(n) for n in range(1, 121)]
FOLLOWEES = [key(1000 + n) for n in range(150)]
STRANGERS = [key(2000 + n) for n in range(40)]
STORES = [KindFirstEvents, ShortListEvents, FirstValueEvents]


def mentions(seed: int, count: int = 340, days: float = 0.9) -> list[Event]:
    """Events by strangers that mention users, of low and of high kinds."""
    rng = random.Random(seed)
    kinds = (1, 1, 7, 9735, 30023, 30000)
    return [
        event(
            START - int(rng.random() * days * 86_400), rng.choice(STRANGERS), rng.choice(kinds), n, [rng.choice(USERS)]
        )
        for n in range(count)
    ]


def simulation(store: type[StoredEvents], seed: int) -> Simulation:
    sim = Simulation(random.Random(seed), audits=True)
    sim.relay.store = store(random.Random(seed))
    for each in mentions(seed):
        sim.relay.publish(each, START - 10)
    sim.want(FOLLOWEES, USERS)
    # What is asked for member by member pauses between two pages.
    sim.max_idle_turns = 4_000
    return sim


def controls(sim: Simulation) -> list[Filter]:
    """The filters that ask for controls: over three seconds, or by one id; and the searches for them."""
    filters = [asked for _, (asked, *_) in sim.relay.requests]
    spans = [each for each in filters if each.since is not None and each.until == each.since + 2]
    return [*spans, *(each for each in filters if each.since is None and each.limit not in (0, None))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("store", STORES)
def test_mentions_are_had_whole_from_a_store_that_leaves_some_out(store: type[StoredEvents], seed: int) -> None:
    sim = simulation(store, seed)
    sim.connect()
    sim.run_until(900)
    assert sim.everything() <= sim.delivered
    assert len(controls(sim)) <= MAX_REQUESTS


def test_audit_precedes_the_pages_for_mentions() -> None:
    sim = simulation(StoredEvents, 1)
    sim.connect()
    sim.run_until(60)
    pages = [asked for _, (asked, *_) in sim.relay.requests if asked.tags and asked.limit and asked.since]
    is_control = [asked.since is not None and asked.until == asked.since + 2 for asked in pages]
    assert is_control[:2] == [True, True], "low kinds, high kinds"
    assert not all(is_control)
    assert sim.everything() <= sim.delivered


def test_store_that_changes_is_found_out_a_day_later_and_mentions_are_owed() -> None:
    """Between the two audits mentions come that the store does not give, while nobody listens."""
    sim = simulation(StoredEvents, 2)
    sim.connect()
    sim.run_until(900)
    assert sim.everything() <= sim.delivered
    sim.forms = {name: replace(each, checked_at=each.checked_at - 85_000) for name, each in sim.forms.items()}
    sim.restart()
    old = sim.relay.store
    sim.relay.store = KindFirstEvents(old.rng, old.events)
    late = [
        replace(each, created_at=sim.wall, id=random.Random(each.id).randbytes(32)) for each in mentions(3, 60, days=0)
    ]
    for each in late:
        sim.relay.publish(each, sim.wall)
    sim.beyond = {each.id for each in late}
    sim.connect()
    sim.run_until(1_200)
    assert not sim.beyond <= sim.delivered, "some are hidden before the store is found out"
    sim.run_until(5_000)
    assert sim.owed == [Subject.MENTIONS]
    assert sim.beyond <= sim.delivered


def test_restart_asks_in_the_form_that_was_found_right() -> None:
    sim = simulation(KindFirstEvents, 4)
    sim.connect()
    sim.run_until(900)
    sim.restart()
    asked_before = len(sim.relay.requests)
    sim.connect()
    sim.run_until(1_000)
    later = [asked for _, filters in sim.relay.requests[asked_before:] for asked in filters if asked.limit]
    assert any(asked.tags for asked in later)
    assert all(asked.kinds is not None for asked in later if asked.tags)


def test_kinds_of_no_list_are_had_from_a_store_that_must_be_asked_by_kinds() -> None:
    sim = simulation(KindFirstEvents, 6)
    for number, kind in enumerate((27, 31_337, 40_000, 65_535) * 3):
        sim.relay.publish(event(START - 5_000 * number - 9, STRANGERS[0], kind, number, [USERS[number]]), START - 10)
    # They come behind all else; until then they are told as a gap.
    sim.beyond = {each.id for each in sim.relay.store.events if each.kind in (27, 31_337, 40_000, 65_535)}
    sim.connect()
    sim.run_until(900)
    assert sim.everything() <= sim.delivered
    assert "holes" not in reasons(sim)


@dataclass
class NoTagEvents(StoredEvents):
    """A store that finds nothing by tags."""

    def page(self, wanted: Filter) -> list[Event]:
        return [] if wanted.tags else StoredEvents.page(self, wanted)


def test_relay_that_finds_nothing_by_tags_is_asked_for_everything() -> None:
    sim = simulation(NoTagEvents, 7)
    sim.connect()
    sim.run_until(900)
    assert sim.crawl.strategy.is_firehose
    assert sim.everything() <= sim.delivered


def test_live_subscriptions_name_no_kinds_though_stored_mentions_must() -> None:
    sim = simulation(KindFirstEvents, 5)
    sim.connect()
    sim.run_until(900)
    live = [each for filters in sim.relay.open.values() for each in filters if each.limit == 0 and each.tags]
    assert live
    assert all(each.kinds is None for each in live)


MESSAGES = frozenset({4, 1059})


def with_messages(seed: int) -> Simulation:
    """Mentions of users, one in four of which is a message."""
    sim = simulation(StoredEvents, seed)
    rng = random.Random(seed)
    for number in range(100):
        kind = rng.choice((4, 1059))
        sim.relay.publish(event(START - 60 - 300 * number, rng.choice(STRANGERS), kind, number, USERS[:1]), START - 10)
    sim.beyond = {each.id for each in sim.relay.store.events if each.kind in MESSAGES}
    return sim


def reasons(sim: Simulation) -> set[str]:
    return {str(gap.reason) for gap in sim.crawl.gaps}


def test_messages_withheld_in_silence_are_found_out_and_reported_once() -> None:
    """Asked for alone they are refused; from then on they are not asked for by name."""
    sim = with_messages(1)
    sim.relay.store.hidden_kinds = MESSAGES

    def alone(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        if all(each.kinds and each.kinds <= MESSAGES for each in filters):
            return [Closed(subscription, "ERROR: auth-required: requested filter requires authentication", "")]
        return None

    sim.relay.mood = alone
    sim.connect()
    sim.run_until(3_000)
    asked = [each for _, filters in sim.relay.requests for each in filters if each.kinds and each.kinds <= MESSAGES]
    assert [each.kinds for each in asked] == [frozenset({4}), frozenset({1059})]
    assert sim.everything() - sim.beyond <= sim.delivered
    assert "withheld" in reasons(sim)


def test_relay_that_shows_messages_has_no_gap_for_them() -> None:
    sim = with_messages(2)
    sim.connect()
    sim.run_until(900)
    assert sim.everything() <= sim.delivered
    assert "withheld" not in reasons(sim)


@dataclass
class GuardedRelay(TalkingRelay):
    """Closes whatever selects a message, after all else that it selects; live subscriptions as well.

    `gives_nothing`: instead of all else.
    """

    gives_nothing: bool = False

    def hear(self, frame: str) -> None:
        TalkingRelay.hear(self, frame)
        kind, subscription, *_ = orjson.loads(frame)
        messages = [each for each in self.store.events if each.kind in MESSAGES]
        filters = self.open.get(subscription, [])
        if kind == "REQ" and any(replace(each, limit=None).matches(one) for each in filters for one in messages):
            del self.open[subscription]
            reason = "auth-required: At least one matching event requires AUTH"
            self.outbox[-1] = Closed(subscription, reason, "auth-required")
            if self.gives_nothing:
                self.outbox = [
                    each
                    for each in self.outbox
                    if not (isinstance(each, EventMessage) and each.subscription == subscription)
                ]


UNLISTED = (27, 31_337, 40_000, 65_535)


def guarded(*, gives_nothing: bool = False) -> Simulation:
    """A crawl, after a quarter of an hour, of such a relay with messages and with what is of no listed kind."""
    sim = with_messages(3)
    for number, kind in enumerate(UNLISTED * 4):
        at, user = START - 5_000 * number - 9, USERS[number % 5]
        sim.relay.publish(event(at, STRANGERS[0], kind, number, [user]), START - 10)
        sim.relay.publish(event(at, FOLLOWEES[number % 7], kind, number), START - 10)
    sim.relay.store.hidden_kinds = MESSAGES
    relay = GuardedRelay(sim.relay.store, stored_at=sim.relay.stored_at, gives_nothing=gives_nothing)
    sim.relay = relay
    sim.beyond |= {each.id for each in relay.store.events if gives_nothing and each.kind in UNLISTED}
    sim.connect()
    sim.run_until(900)
    return sim


def test_what_selects_messages_is_asked_for_by_other_kinds_live() -> None:
    sim = guarded()
    assert sim.everything() - sim.beyond <= sim.delivered
    live = [each for filters in sim.relay.open.values() for each in filters if each.limit == 0]
    assert any(each.tags for each in live)
    assert all(each.kinds and MESSAGES.isdisjoint(each.kinds) for each in live if each.tags)
    assert reasons(sim) == {"withheld"}


def test_kinds_that_live_requests_may_not_name_are_looked_for_each_minute() -> None:
    sim = guarded()
    fresh = event(sim.wall, STRANGERS[0], 31_337, 1, [USERS[1]])
    sim.relay.publish(fresh, sim.wall)
    sim.run_until(sim.mono - 100.0 + POLL_EVERY_S + 20)
    assert fresh.id in sim.delivered
    assert sim.session is not None
    assert not sim.session.limits.live_missed_at, "it was not to come live"


def test_kinds_of_no_list_are_a_gap_where_nothing_comes_beside_messages() -> None:
    sim = guarded(gives_nothing=True)
    assert sim.everything() - sim.beyond <= sim.delivered
    assert {"withheld", "unlisted-kinds"} <= reasons(sim)


def test_page_that_breaks_off_each_time_is_asked_for_in_smaller_ones() -> None:
    sim = simulation(StoredEvents, 4)

    class Breaking(TalkingRelay):
        def hear(self, frame: str) -> None:
            before = len(self.outbox)
            TalkingRelay.hear(self, frame)
            sent = self.outbox[before:]
            if len(sent) > 25:
                closed = Closed(orjson.loads(frame)[1], "error: get event error: Scan timeout", "error")
                self.outbox[before:] = [*sent[:25], closed]

    sim.relay = Breaking(sim.relay.store, stored_at=sim.relay.stored_at)
    sim.connect()
    sim.run_until(900)
    assert sim.everything() <= sim.delivered


def test_relay_that_answers_named_kinds_alone_is_subscribed_to_by_kinds() -> None:
    """nostr-rs-relay's `limit_scrapers`: a REQ with a filter that is too broad is answered, and is no subscription."""

    def answers_narrow(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        is_narrow = all(
            each.ids is not None or (each.kinds is not None and (each.authors is not None or each.tags))
            for each in filters
        )
        return None if is_narrow else [Eose(subscription)]

    sim = simulation(StoredEvents, 1)
    for number, author in enumerate(FOLLOWEES[:5]):
        sim.relay.publish(event(START - 500 * number - 60, author, 1, number), START - 10)
    sim.relay.mood = answers_narrow
    sim.connect()
    sim.run_until(60)
    assert sim.session is not None
    assert sim.session.limits.needs_kinds
    fresh = [event(sim.wall, FOLLOWEES[0], 7), event(sim.wall, STRANGERS[0], 1, mentions=USERS[:1])]
    for each in fresh:
        sim.relay.publish(each, sim.wall)
    sim.run_until(62)
    assert {each.id for each in fresh} <= sim.delivered


@dataclass
class FirstValueRelay(TalkingRelay):
    """A relay that looks at the first value of a tag condition only, also for what comes live."""

    def publish(self, event: Event, now: int) -> None:
        before = self.open
        self.open = {name: [_first(each) for each in filters] for name, filters in before.items()}
        super().publish(event, now)
        self.open = before


def _first(asked: Filter) -> Filter:
    return replace(asked, tags=tuple((name, frozenset({min(values)})) for name, values in asked.tags))


def live_mentions(sim: Simulation, users: list[bytes]) -> set[bytes]:
    late = [event(sim.wall, STRANGERS[0], 1, 9_000 + number, [user]) for number, user in enumerate(users)]
    for each in late:
        sim.relay.publish(each, sim.wall)
    return {each.id for each in late}


@pytest.mark.parametrize("subscriptions", [18, 3])
def test_first_value_relay_sends_mentions_live_while_places_are_free(subscriptions: int) -> None:
    """Each user has a filter of their own then; else they are polled."""
    sim = Simulation(random.Random(1), audits=True, limits=RelayLimits(max_subscriptions=subscriptions))
    sim.relay = FirstValueRelay(FirstValueEvents(random.Random(1)))
    sim.max_idle_turns = 4_000
    users = USERS[:30]
    for each in mentions(1):
        sim.relay.publish(each, START - 10)
    sim.want(FOLLOWEES, users)
    sim.connect()
    sim.run_until(600)
    late = live_mentions(sim, users)
    sim.run_until(602)
    if subscriptions == 18:
        assert late <= sim.delivered
    sim.run_until(690)
    assert late <= sim.delivered
