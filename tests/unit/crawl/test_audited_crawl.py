"""A crawl of relays that leave events out: the audit of forms comes first, and what was asked wrongly is had again."""

import random
from dataclasses import replace

import pytest

from pipeline.crawl.form_audit import MAX_REQUESTS
from pipeline.crawl.plan import Subject
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from tests.unit.crawl.people import event, key
from tests.unit.crawl.relays import FirstValueEvents, KindFirstEvents, ShortListEvents, StoredEvents
from tests.unit.crawl.simulation import START, Simulation

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
    pages = [asked for _, (asked, *_) in sim.relay.requests if asked.tags and asked.limit]
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


def test_live_subscriptions_name_no_kinds_though_stored_mentions_must() -> None:
    sim = simulation(KindFirstEvents, 5)
    sim.connect()
    sim.run_until(900)
    live = [each for filters in sim.relay.open.values() for each in filters if each.limit == 0 and each.tags]
    assert live
    assert all(each.kinds is None for each in live)
