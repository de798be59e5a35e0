"""Many who become wanted at once, at a relay that serves few requests: those before them have theirs as ever."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson
import pytest

from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.late_pace import LEAST_S, LOOK_EVERY_S, MOST_S, LatePace
from pipeline.crawl.sync.late_queries import AT_ONCE
from pipeline.crawl.sync.members import Members
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.schedule import Schedule
from pipeline.crawl.sync.timing import Horizon
from pipeline.nostr.message import Notice
from pipeline.relay.limits import RelayLimits
from pipeline.settings.choices import CrawlMode
from pipeline.store.cursors import Cursor
from pipeline.store.wanted_authors import TIERS
from tests.simulation.simulation import START, Simulation, TalkingRelay
from tests.support.plans import event

LAST = TIERS - 1
SUBSCRIPTIONS = 10


@dataclass
class RationingRelay(TalkingRelay):
    """Drops every message above a rate, CLOSE included, with a NOTICE that names none."""

    now: Callable[[], float] = lambda: 0.0
    per_s: float = 4.0
    burst: float = 240.0
    dropped: int = 0
    _tokens: float = 240.0
    _at: float = 0.0

    def hear(self, frame: str) -> None:
        now = self.now()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_s)
        self._at = now
        if self._tokens < 1:
            self.dropped += 1
            self.outbox.append(Notice("rate limited"))
            return
        self._tokens -= 1
        kind, subscription, *_ = orjson.loads(frame)
        if kind == "REQ" and subscription not in self.open and len(self.open) >= self.max_subscriptions:
            self.outbox.append(Notice(f"Subscription rejected: Too many subscriptions: {self.max_subscriptions}"))
            return
        super().hear(frame)


def crowd(count: int, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(32) for _ in range(count)]


def rationed(mode: CrawlMode) -> tuple[Simulation, RationingRelay]:
    sim = Simulation(random.Random(1), limits=replace(RelayLimits(), max_kinds=320))
    sim.max_idle_turns = 100_000
    relay = RationingRelay(sim.relay.store, max_subscriptions=SUBSCRIPTIONS, now=lambda: sim.mono)
    sim.relay = relay
    sim.ask(mode)
    return sim, relay


def lateness(sim: Simulation, authors: list[bytes], seconds: int, *, wait: float) -> list[bytes]:
    """Let one of `authors` write every second; returns the ids that had not come `wait` seconds later."""
    began, late, sent = sim.mono - 100, list[bytes](), list[tuple[float, bytes]]()
    for number in range(seconds):
        sim.run_until(began + number)
        written = event(sim.wall, authors[number % len(authors)], number=number)
        sim.relay.publish(written, sim.wall)
        sent.append((began + number, written.id))
        late += [each for at, each in sent if at + wait <= sim.mono - 100 < at + wait + 1 and each not in sim.delivered]
    return late


@pytest.mark.parametrize("mode", [CrawlMode.QUERY, CrawlMode.WHOLE])
def test_old_authors_stay_live_where_a_crowd_is_more_than_a_relay_serves(mode: CrawlMode) -> None:
    sim, relay = rationed(mode)
    relay.per_s, relay.burst = (4, 240) if mode is CrawlMode.QUERY else (1, 40)
    old = crowd(40, 1)
    sim.relay.publish(event(START - 5, old[0]), 0)
    sim.want(old[8:], old[:8], tier=0)
    sim.connect()
    sim.run_until(200)
    late: list[bytes] = []
    for number in range(12):
        sim.want(crowd(2_500, 10 + number), tier=LAST)
        late += lateness(sim, old, 10, wait=2)
    assert relay.dropped > 0
    assert late == []
    assert sim.session is not None
    assert sim.session.limits.max_subscriptions >= SUBSCRIPTIONS - 1


def test_user_who_registers_behind_a_crowd_is_live_soon() -> None:
    sim, _ = rationed(CrawlMode.QUERY)
    sim.want(crowd(30, 1), crowd(3, 2), tier=0)
    sim.connect()
    sim.run_until(200)
    for number in range(10):
        sim.want(crowd(2_500, 10 + number), tier=LAST)
        sim.run_until(sim.mono - 100 + 4)
    user = crowd(1, 3)
    sim.want((), user, tier=LAST)
    sim.run_until(sim.mono - 100 + 20)
    assert lateness(sim, user, 20, wait=2) == []


def held() -> tuple[Simulation, list[bytes], list[bytes]]:
    """A relay that is asked for the last tier as it was with the first of two crowds; both."""
    sim = Simulation(random.Random(1), limits=replace(RelayLimits(), max_kinds=320))
    sim.max_idle_turns = 100_000
    sim.holds_last_tier = True
    first, second = crowd(300, 1), crowd(300, 2)
    sim.want(crowd(3, 3), tier=0)
    sim.want(first, tier=LAST)
    sim.catch_up()
    return sim, first, second


def write(sim: Simulation, authors: list[bytes], seconds: float) -> None:
    """Let some of them write within so many seconds."""
    began = sim.mono - 100
    for number in range(10):
        sim.run_until(began + seconds * number / 10)
        sim.relay.publish(event(sim.wall, authors[number * 7], number=number), sim.wall)
    sim.run_until(began + seconds)


def test_what_a_crowd_wrote_before_it_was_asked_for_is_had() -> None:
    sim, first, second = held()
    sim.connect()
    sim.run_until(400)
    sim.want(second, tier=LAST)
    write(sim, second, 700)
    assert not {each.id for each in sim.relay.store.events} <= sim.delivered
    assert lateness(sim, first, 10, wait=2) == []
    sim.catch_up()
    sim.run_until(sim.mono - 100 + 600)
    assert {each.id for each in sim.relay.store.events} == sim.delivered
    assert lateness(sim, second, 10, wait=2) == []


def test_relay_that_was_asked_whole_is_asked_by_query_for_the_newest_crowd() -> None:
    """The cursor for everything covers it: whoever is left out then is never looked back for."""
    sim, _, second = held()
    sim.relay.publish(event(START - 5, second[0]), 0)
    sim.ask(CrawlMode.WHOLE)
    sim.connect()
    sim.run_until(400)
    sim.want(second, tier=LAST)
    write(sim, second, 400)
    sim.ask(CrawlMode.QUERY)
    sim.run_until(sim.mono - 100 + 100)
    # The next plan comes with the former state once more.
    sim.want(crowd(1, 4), tier=0)
    write(sim, second, 700)
    sim.catch_up()
    sim.run_until(sim.mono - 100 + 600)
    assert {each.id for each in sim.relay.store.events} == sim.delivered


def test_early_authors_missed_events_come_before_a_crowds_past() -> None:
    sim, relay = rationed(CrawlMode.QUERY)
    relay.per_s, relay.burst = 1 / 3, 60
    old = crowd(40, 1)
    sim.want(old, tier=0)
    sim.connect()
    sim.run_until(200)
    sim.want(crowd(30_000, 9), tier=LAST)
    sim.run_until(210)
    sim.disconnect()
    sim.run_until(400)
    missed = [event(sim.wall - 30, each) for each in old]
    for each in missed:
        sim.relay.publish(each, sim.wall - 30)
    sim.connect()
    sim.run_until(500)
    assert {each.id for each in missed} <= sim.delivered


def test_look_back_under_way_is_not_reckoned_again_at_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    reckoned: list[int] = []
    original = Horizon.lookback_since

    def counting(self: Horizon, subject: Subject, members: Members, wall: int) -> int:
        reckoned.append(len(members))
        return original(self, subject, members, wall)

    sim, relay = rationed(CrawlMode.WHOLE)
    sim.relay.publish(event(START - 5, crowd(1, 1)[0]), 0)
    sim.want(crowd(40, 1), tier=0)
    sim.connect()
    sim.run_until(60)
    relay.per_s, relay.burst = 1, 40
    monkeypatch.setattr(Horizon, "lookback_since", counting)
    sim.want(crowd(10_000, 2), tier=LAST)
    sim.run_until(120)
    assert 10_000 <= sum(reckoned) < 30_000


@pytest.mark.parametrize("mode", [CrawlMode.QUERY, CrawlMode.WHOLE])
def test_crowds_past_is_asked_for_in_turns_and_all_of_it(mode: CrawlMode) -> None:
    """Each request names 250 keys; one relay after the other would be asked for thousands of them within moments."""
    sim = Simulation(random.Random(1), limits=replace(RelayLimits(), max_kinds=320))
    sim.max_idle_turns = 100_000
    sim.ask(mode)
    sim.want(crowd(30, 1), crowd(3, 2), tier=0)
    sim.relay.publish(event(START - 5, crowd(30, 1)[0]), 0)
    sim.connect()
    sim.run_until(200)
    people = crowd(5_000, 10)
    before = len(sim.relay.requests)
    sim.want(people, tier=LAST)

    def looked_back() -> set[frozenset[bytes]]:
        asked = {each.authors for _, (each, *_) in sim.relay.requests[before:] if each.limit and each.authors}
        return {each for each in asked if each and not each.isdisjoint(people)}

    sim.run_until(201)
    assert 0 < len(looked_back()) <= 1 / LEAST_S + 1
    sim.run_until(230)
    assert set().union(*looked_back()) >= set(people)


def test_answer_costs_few_looks_however_many_chunks_a_crowd_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, by_turn = [0], list[int]()
    find, begin = CursorTable.cursor_for, Schedule.begin_due

    def counting_find(self: CursorTable, query: Query) -> Cursor | None:
        looks[0] += 1
        return find(self, query)

    def counting_begin(self: Schedule, plan: Plan, mono: float, wall: int) -> None:
        looks[0] = 0
        begin(self, plan, mono, wall)
        by_turn.append(looks[0])

    sim = Simulation(random.Random(1), limits=replace(RelayLimits(), max_kinds=320))
    sim.max_idle_turns = 100_000
    sim.ask(CrawlMode.QUERY)
    sim.want(crowd(30, 1), crowd(3, 2), tier=0)
    sim.connect()
    sim.run_until(60)
    sim.want(crowd(90_000, 10), tier=LAST)
    assert len(sim.plan.queries) > 3 * AT_ONCE
    monkeypatch.setattr(CursorTable, "cursor_for", counting_find)
    monkeypatch.setattr(Schedule, "begin_due", counting_begin)
    sim.run_until(70)
    # Each is looked at by what begins it, and by what tells when it comes due.
    assert AT_ONCE < max(by_turn) < 3 * AT_ONCE


def test_crowds_past_is_asked_for_more_slowly_while_much_is_to_be_done() -> None:
    sim = Simulation(random.Random(1), limits=replace(RelayLimits(), max_kinds=320))
    sim.max_idle_turns = 100_000
    sim.ask(CrawlMode.WHOLE)
    sim.want(crowd(30, 1), crowd(3, 2), tier=0)
    sim.relay.publish(event(START - 5, crowd(30, 1)[0]), 0)
    sim.connect()
    sim.run_until(200)
    pace = LatePace()
    for turn in range(100):
        pace.note(LOOK_EVERY_S, 1_000 + turn * LOOK_EVERY_S)
    assert pace.every_s == MOST_S
    sim.crawl.share_pace(pace)
    people = crowd(5_000, 10)
    before = len(sim.relay.requests)
    sim.want(people, tier=LAST)
    sim.run_until(200 + 3 * MOST_S)
    asked = {each.authors for _, (each, *_) in sim.relay.requests[before:] if each.limit and each.authors}
    assert 2 <= sum(not each.isdisjoint(people) for each in asked) <= 4
