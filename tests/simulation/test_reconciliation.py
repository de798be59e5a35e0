"""Sweeps made by comparing sets (NIP-77), in simulated time: little is asked for, and nothing is missed.

The simulation holds by itself that no cursor passes an event that should be had and is not.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import orjson
import pytest

from pipeline.crawl.sync import reconciliation_policy
from pipeline.crawl.sync.item_sets import ItemSetWindow, Unavailable
from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.reconciler import Reconciler
from pipeline.crawl.sync.stats import SyncStats
from pipeline.crawl.sync.sweep import Purpose, Sweep
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, NegError, NegMessage, Notice, RelayMessage
from pipeline.nostr.negentropy import ItemSet
from pipeline.nostr.notices import reason_prefix
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.session import Session
from tests.simulation.simulation import SETTINGS, START, Simulation, closing
from tests.support.plans import event, key
from tests.support.seeds import seeds

ALICE, BOB, CAROL = key(1), key(2), key(3)
DAY = 86_400
HELD_LATER_S = 900


class DeliveredEvents:
    """Holdings of a simulation: what was delivered by now, but for what is very new. `extra`: from other relays."""

    def __init__(self, sim: Simulation, extra: list[Event]) -> None:
        self.sim = sim
        self.extra = extra
        self.patience = 2
        self.held_from = 0
        """What is older than this (Unix seconds) is no longer known to be held."""

    def item_set_for(self, query: Query, since: int) -> ItemSetWindow | Unavailable:
        if query.subject not in (Subject.GLOBAL, Subject.AUTHORS):
            return Unavailable.UNKNOWN
        if self.patience:
            self.patience -= 1
            return Unavailable.LOADING
        wanted = query.filter()
        ours = [each for each in self.sim.relay.store.events if each.id in self.sim.delivered] + self.extra
        items = ItemSet(
            (each.created_at, each.id) for each in ours if wanted.matches(each) and each.created_at >= self.held_from
        )
        return ItemSetWindow(items, since, self.sim.wall - HELD_LATER_S)


def crawl(extra: list[Event] | None = None, *, seed: int = 1, limits: RelayLimits | None = None) -> Simulation:
    """A simulation that may compare."""
    sim = Simulation(random.Random(seed), limits=limits)
    sim.item_sets = DeliveredEvents(sim, extra or [])
    sim.restart()
    sim.want([ALICE, BOB], [CAROL])
    return sim


def history(count: int, *, seed: int = 1, span: int = 20 * 3600, newest: int = START - 100) -> list[Event]:
    rng = random.Random(seed)
    return [
        event(newest - rng.randrange(span), rng.choice([ALICE, BOB]), kind=rng.choice([1, 7]), number=n)
        for n in range(count)
    ]


def id_pages(sim: Simulation) -> list[Filter]:
    return [each for _, filters in sim.relay.requests for each in filters if each.ids is not None]


def come_in(sim: Simulation, late: Event) -> None:
    """An event comes to the relay, which tells nobody."""
    sim.relay.store.events.append(late)
    sim.relay.stored_at[late.id] = sim.wall


def run_through_a_resweep(sim: Simulation, late: list[Event]) -> None:
    """Connect, be complete, let `late` come in without a word, and let the resweep pass."""
    sim.connect()
    sim.run_until(600)
    sim.relay.requests.clear()
    for each in late:
        come_in(sim, each)
    sim.run_until(SETTINGS.resweep_every + 1800)


def have_all(sim: Simulation, *groups: list[Event]) -> bool:
    return all(each.id in sim.delivered for group in groups for each in group)


def stored(sim: Simulation, events: list[Event]) -> list[Event]:
    for each in events:
        sim.relay.publish(each, START - 10)
    return events


def test_a_resweep_asks_only_for_what_came_late() -> None:
    sim = crawl()
    known = stored(sim, history(2_000))
    late = history(30, seed=2)
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    asked = id_pages(sim)
    assert {event_id for page in asked for event_id in page.ids or ()} == {each.id for each in late}
    paged = [page for _, (page, *_) in sim.relay.requests if page.limit and page.ids is None and page.authors]
    # Only what is too new to be in the store as yet is paged.
    assert all(page.since is None or page.since > START - 2 * HELD_LATER_S for page in paged if not page.kinds)
    assert sim.crawl.stats.reconciliations == {"complete": 1}
    assert sim.crawl.stats.needed == 30
    assert sim.crawl.stats.compared_bytes > 0
    assert "resweep:authors/" in sim.cursors


def test_mentions_are_paged() -> None:
    """No tags are stored that would tell who is mentioned."""
    sim = crawl()
    late = [event(START - 5000 - n, key(50), number=n, mentions=[CAROL]) for n in range(5)]
    run_through_a_resweep(sim, late)
    assert have_all(sim, late)
    assert not any("#p" in values[0] for kind, _, *values in sim.relay.compared if kind == "NEG-OPEN")


def neg_error(subscription: str, reason: str) -> RelayMessage:
    return NegError(subscription, reason, reason_prefix(reason))


FAILURES: dict[str, Callable[[str], list[RelayMessage]]] = {
    "disabled": lambda _: [Notice("ERROR: bad msg: negentropy disabled")],
    "unknown": lambda _: [Notice("could not parse command")],
    "complaint": lambda _: [Notice("invalid message")],
    "silent": lambda _: [],
    "closed": lambda name: [Closed(name, "unsupported: NEG-OPEN", "unsupported")],
    "blocked": lambda name: [neg_error(name, "blocked: not for you")],
    "garbage": lambda name: [NegMessage(name, b"\x61\xff\xff")],
    "other-version": lambda name: [NegMessage(name, b"\x62")],
    "older-version": lambda name: [NegMessage(name, b"\x60")],
    "negentropy-error": lambda _: [Notice("ERROR: negentropy error: unexpected protocol version")],
    "protocol-error": lambda name: [neg_error(name, "PROTOCOL-ERROR")],
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_relay_that_does_not_compare_is_paged_and_let_be_for_long(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation_policy, "RETRY_S", 2 * SETTINGS.resweep_every)
    sim = crawl()
    known, late = stored(sim, history(150)), history(30, seed=2)
    sim.relay.neg_mood = lambda _, name: FAILURES[failure](name)
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    assert "resweep:authors/" in sim.cursors
    assert [kind for kind, *_ in sim.relay.compared if kind == "NEG-OPEN"] == ["NEG-OPEN"]
    assert sim.session is not None
    limits = sim.session.limits
    # Nothing else was learned of a complaint that was about this.
    assert replace(limits, max_kinds=10, bounds=()) == replace(
        sim.started_with, negentropy_failed_at=limits.negentropy_failed_at, max_kinds=10, bounds=()
    )
    assert limits.negentropy_failed_at > START
    sim.run_until(3.5 * SETTINGS.resweep_every)
    assert sum(kind == "NEG-OPEN" for kind, *_ in sim.relay.compared) == 2


def test_a_relay_that_always_agrees_is_not_believed() -> None:
    """It would hide everything."""
    sim = crawl()
    known, late = stored(sim, history(300)), history(30, seed=2)
    sim.relay.neg_mood = lambda kind, name: [] if kind == "NEG-CLOSE" else [NegMessage(name, b"\x61")]
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    assert sim.crawl.stats.reconciliations == {"unproven": 1}


def test_a_window_with_too_much_in_it_is_cut() -> None:
    sim = crawl()
    known, late = stored(sim, history(1_000)), history(30, seed=2)
    sim.relay.max_compared = 120
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    assert {event_id for page in id_pages(sim) for event_id in page.ids or ()} == {each.id for each in late}
    assert sum(kind == "NEG-OPEN" for kind, *_ in sim.relay.compared) > 8
    assert sim.crawl.stats.reconciliations == {"complete": 1}


@pytest.mark.parametrize(("newest", "is_held"), [(400, True), (400, False), (130, True)])
def test_relay_that_compares_only_the_newest_is_paged_below_them(newest: int, is_held: bool) -> None:
    """`is_held`: something is held of what it does not compare, which is then missed."""
    sim = crawl()
    known, late = stored(sim, history(1_000)), history(30, seed=2)
    sim.relay.compares_newest = newest
    oldest = sorted((*known, *late), key=lambda each: each.created_at)[-newest].created_at
    assert any(each.created_at < oldest for each in late)
    assert isinstance(sim.item_sets, DeliveredEvents)
    if not is_held:
        sim.item_sets.held_from = oldest
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    assert sim.crawl.stats.reconciliations == {"complete": 1}


def test_few_items_of_others_at_the_oldest_end_cost_two_pages() -> None:
    """The relay has none of them, and looks as one that compares only the newest."""
    elsewhere = history(40, seed=3, span=3_600, newest=START - 22 * 3600)
    sim = crawl(elsewhere)
    known, late = stored(sim, history(1_003)), history(30, seed=2)
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    paged = [
        page for _, (page, *_) in sim.relay.requests
        if page.ids is None and page.authors and page.limit and (page.since or 0) < START - 20 * 3600
    ]  # fmt: skip
    assert len(paged) <= 2


def test_a_second_that_cannot_be_cut_is_paged() -> None:
    sim = crawl()
    known = stored(sim, [event(START - 5000, ALICE, number=n) for n in range(100)])
    late = [event(START - 5000, BOB, number=n) for n in range(5)]
    sim.relay.max_compared = 20
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    assert sim.crawl.stats.reconciliations["too-many"] >= 1


def test_ids_a_relay_names_but_lacks_are_dropped_and_the_rest_fetched() -> None:
    """As when it was deleted between the two requests; a small cap hides nothing."""
    sim = crawl()
    known, late = stored(sim, history(200)), history(100, seed=2)
    gone = {each.id for each in late[::3]}
    sim.relay.store.cap = 20

    def serve(kind: str, _: str) -> list[RelayMessage] | None:
        if kind == "NEG-CLOSE":
            sim.relay.store.events = [each for each in sim.relay.store.events if each.id not in gone]
        return None

    sim.connect()
    sim.run_until(600)
    sim.relay.neg_mood = serve
    run_through_a_resweep(sim, late)
    assert {each.id for each in late} & sim.delivered == {each.id for each in late} - gone
    assert have_all(sim, known)
    assert "resweep:authors/" in sim.cursors


def test_ids_that_are_refused_are_had_by_pages() -> None:
    sim = crawl()
    known, late = stored(sim, history(200)), history(30, seed=2)
    refuse = closing("unsupported: no ids here")
    sim.relay.mood = lambda name, filters: refuse(name, filters) if filters[0].ids is not None else None
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    assert sim.crawl.stats.reconciliations["refused"] == 1


def test_a_comparison_that_the_relay_forgot_is_begun_again() -> None:
    sim = crawl()
    known, late = stored(sim, history(2_000)), history(300, seed=2)
    hits: list[str] = []

    def forget(kind: str, name: str) -> list[RelayMessage] | None:
        if kind == "NEG-MSG" and len(hits) < 2:
            hits.append(name)
            return [neg_error(name, "closed: unknown subscription handle")]
        return None

    sim.relay.neg_mood = forget
    run_through_a_resweep(sim, late)
    assert len(set(hits)) == 2
    assert have_all(sim, known, late)
    assert sim.crawl.stats.reconciliations == {"complete": 1}


def test_a_relay_that_forgets_every_comparison_is_paged_and_tried_again() -> None:
    sim = crawl()
    known, late = stored(sim, history(2_000)), history(300, seed=2)
    sim.relay.neg_mood = lambda kind, name: (
        [neg_error(name, "closed: unknown subscription handle")] if kind == "NEG-MSG" else None
    )
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    assert sim.crawl.stats.reconciliations == {"dropped": 1}
    assert sim.session is not None
    assert not sim.session.limits.negentropy_failed_at


def test_a_relay_that_takes_five_seconds_to_answer_is_waited_for() -> None:
    sim = crawl()
    known, late = stored(sim, history(2_000)), history(300, seed=2)
    delayed: list[str] = []

    def delay(kind: str, name: str) -> list[RelayMessage] | None:
        if kind != "NEG-OPEN" or name in delayed:
            return None
        delayed.append(name)
        frame = orjson.dumps(sim.relay.compared.pop()).decode()
        sim.at(sim.mono - 100.0 + 5, partial(sim.relay.hear, frame))
        return []

    sim.relay.neg_mood = delay
    run_through_a_resweep(sim, late)
    assert len(delayed) == 1
    assert have_all(sim, known, late)
    assert sim.crawl.stats.reconciliations == {"complete": 1}


def test_ids_go_in_several_filters_of_a_request_fewer_once_refused() -> None:
    sim = crawl()
    known, late = stored(sim, history(1_500)), history(1_400, seed=2)
    sim.relay.mood = lambda name, filters: (
        [Closed(name, "ERROR: bad req: too many filters", "")] if len(filters) > 3 and filters[0].ids else None
    )
    run_through_a_resweep(sim, late)
    assert have_all(sim, known, late)
    asked = [filters for _, filters in sim.relay.requests if filters[0].ids is not None]
    assert len(asked[0]) > 3 >= max(len(filters) for filters in asked[1:])
    assert len(asked) <= 6
    assert sim.crawl.stats.reconciliations == {"complete": 1}


@pytest.mark.parametrize("at", ["NEG-OPEN", "NEG-MSG", "NEG-CLOSE"])
def test_a_connection_lost_on_the_way_costs_nothing(at: str) -> None:
    """Before the first answer it is taken for the answer; later it is gone on with."""
    sim = crawl()
    known, late = stored(sim, history(2_000)), history(300, seed=2)
    hits: list[str] = []

    def drop(kind: str, _: str) -> list[RelayMessage] | None:
        if kind == at and not hits:
            hits.append(kind)
            sim.at(sim.mono - 100.0 + 0.01, sim.disconnect)
            sim.at(sim.mono - 100.0 + 30, sim.connect)
            return []
        return None

    sim.relay.neg_mood = drop
    run_through_a_resweep(sim, late)
    assert hits == [at]
    assert have_all(sim, known, late)


def test_after_a_long_absence_the_gap_is_compared() -> None:
    """Others gave most of it meanwhile."""
    sim = crawl()
    stored(sim, history(100))
    sim.connect()
    sim.run_until(600)
    sim.disconnect()
    sim.run_until(5 * 3600)
    missed = history(400, seed=3, span=4 * 3600, newest=sim.wall - 1000)
    sim.relay.store.events += missed
    sim.relay.stored_at.update((each.id, each.created_at) for each in missed)
    sim.delivered |= {each.id for each in missed[:380]}
    sim.relay.requests.clear()
    sim.connect()
    sim.run_until(5 * 3600 + 300)
    assert have_all(sim, missed)
    asked = {event_id for page in id_pages(sim) for event_id in page.ids or ()}
    before = {each.id for each in history(100)}
    assert asked - before == {each.id for each in missed[380:]}, "but for whether the store is the one that it was"


@pytest.mark.parametrize("seed", seeds(8))
def test_whatever_the_relay_does_the_last_days_are_complete_in_the_end(seed: int) -> None:
    rng = random.Random(seed)
    elsewhere = history(rng.randrange(200), seed=seed + 1)
    sim = crawl(elsewhere, seed=seed)
    sim.delivered |= {each.id for each in elsewhere}
    sim.relay.store.cap = rng.choice([7, 60, 500])
    sim.relay.max_compared = rng.choice([10, 100, 10**6])
    stored(sim, [*history(rng.randrange(300), seed=seed), *elsewhere[: rng.randrange(len(elsewhere) + 1)]])
    odd: list[list[RelayMessage] | None] = [[], [Notice("what?")], None, None, None, None, None, None]
    sim.relay.neg_mood = lambda kind, _: [] if kind == "NEG-CLOSE" and rng.random() < 0.3 else rng.choice(odd)
    sim.connect()
    for hours in range(1, 12):
        sim.at(hours * 3600 * rng.random(), sim.disconnect)
        sim.at(hours * 3600, sim.connect)
    late = []
    for n in range(100):
        comes = rng.randrange(3600, DAY // 2)
        late.append(event(START + comes - rng.randrange(1000, DAY), rng.choice([ALICE, BOB]), number=n))
        sim.at(comes, partial(come_in, sim, late[-1]))
    sim.max_idle_turns = 10**9
    sim.run_until(DAY)
    assert [each for each in late if each.id not in sim.delivered] == []


def test_a_sweep_whose_relay_failed_in_another_meanwhile_is_paged() -> None:
    """Its reconciliation waits for a turn that never comes: what its pages bring is not for that to take."""
    query = Query(Subject.AUTHORS, "")
    reconciler = Reconciler(query, ItemSet([]), 100, 200, frame=40_000, is_proven=False)
    window = Window(query, 100, 200)
    sweep = Sweep(query, Purpose.RESWEEP, window, 200, span=100, compares=True, reconciler=reconciler)
    session = Session(LearnedLimits(RelayLimits(negentropy_failed_at=300)))
    waiting = reconciliation_policy.ReconciliationPolicy(None, SyncStats(), lambda _, __: None)
    assert not waiting.open_next(sweep, session, 0.0)
    assert (sweep.reconciler, sweep.compares) == (None, False)
