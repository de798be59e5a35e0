"""One relay's crawl in simulated time, through all that may happen to it."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.crawl.sync import late_queries
from pipeline.crawl.sync.asked_kinds import PROFILE_KINDS
from pipeline.crawl.sync.live.check import PROVE_AFTER_S
from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.relay_sync import MAX_CHECK_S
from pipeline.crawl.sync.schedule import POLL_EVERY_S, TAIL_EVERY_S
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GIFT_WRAP
from pipeline.nostr.message import Closed, RelayMessage
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from tests.simulation.simulation import (
    SETTINGS,
    START,
    Mood,
    Simulation,
    closing,
    cooperative,
    mute,
    noticing,
)
from tests.support.plans import event, key
from tests.support.seeds import seeds

ALICE, BOB, CAROL = key(1), key(2), key(3)
DAY = 86_400


def crawl(seed: int = 1, **options: object) -> Simulation:
    return Simulation(random.Random(seed), **options)  # type: ignore[arg-type]  # passed on as they are


def put(sim: Simulation, *events: Event, stored_at: int = 0) -> None:
    for each in events:
        sim.relay.publish(each, stored_at)


def pages(sim: Simulation) -> list[Filter]:
    return [filters[0] for name, filters in sim.relay.requests if name.startswith("P")]


def lives(sim: Simulation) -> list[list[Filter]]:
    return [filters for name, filters in sim.relay.requests if name.startswith("L")]


def cursor_keys(sim: Simulation) -> set[str]:
    return {key for key in sim.cursors if not key.startswith("resweep:")}


def test_live_subscriptions_come_first_then_an_initial_sweep_of_everything() -> None:
    sim = crawl()
    sim.want([ALICE, BOB], [CAROL])
    sim.connect()
    sim.run_until(PROVE_AFTER_S[0] - 5)
    first, (live,) = sim.relay.requests[0], lives(sim)
    assert first[0].startswith("L")
    assert {(each.kinds is None, each.authors is None, bool(each.tags)) for each in live} == {
        (False, True, False), (True, True, True), (True, False, False)
    }  # fmt: skip
    assert all(each.limit == 0 and each.since is each.until is None for each in live)
    assert cursor_keys(sim) == {"profiles/", "global/", "mentions/", "authors/"}
    assert all(
        START <= cursor.complete_until <= START + 1 and cursor.generation <= 1 for cursor in sim.cursors.values()
    )
    sinces = {_subject(each): each.since for each in reversed(pages(sim))}
    assert sinces[Subject.PROFILES] == 0
    assert sinces[Subject.GLOBAL] == START - SETTINGS.backfill
    assert sinces[Subject.AUTHORS] == sinces[Subject.MENTIONS] == START - SETTINGS.lookback
    assert all(each.until is not None and each.until >= START + 900 for each in pages(sim))


def _subject(page: Filter) -> Subject:
    if page.tags:
        return Subject.MENTIONS
    if page.authors is None:
        return Subject.GLOBAL
    return Subject.PROFILES if page.kinds == PROFILE_KINDS else Subject.AUTHORS


def test_what_a_relay_has_is_fetched_as_far_back_as_each_query_reaches() -> None:
    sim = crawl()
    within = [
        event(START - 900, BOB, 0), event(START - DAY + 10, ALICE), event(START - DAY + 10, BOB, 1, 0, [CAROL]),
        event(5, CAROL, 0), event(6, CAROL, 3), event(7, CAROL, 10_002),
    ]  # fmt: skip
    beyond = [event(START - 2 * DAY, ALICE), event(START - 2_000, BOB, 0), event(START - 100, BOB, 1)]
    put(sim, *within, *beyond)
    sim.want([ALICE], [CAROL])
    sim.connect()
    sim.run_until(60)
    assert sim.delivered == {each.id for each in within}


def test_events_come_in_at_once_while_connected_whatever_their_date() -> None:
    sim = crawl()
    sim.want([ALICE])
    sim.connect()
    sim.run_until(100)
    late = event(START - 30 * DAY, ALICE)
    sim.at(200, lambda: sim.relay.publish(late, sim.wall))
    sim.run_until(202)
    assert late.id in sim.delivered


def test_a_gap_is_closed_after_a_reconnect_from_the_cursor_on() -> None:
    sim = crawl()
    sim.want([ALICE])
    sim.connect()
    sim.run_until(100)
    sim.disconnect()
    missed = [event(START + at, ALICE) for at in (150, 5_000, 9_999)]
    for each in missed:
        sim.at(each.created_at - START, lambda each=each: sim.relay.publish(each, sim.wall))  # type: ignore[misc]
    sim.run_until(10_000)
    before = len(pages(sim))
    sim.connect()
    sim.run_until(10_060)
    assert {each.id for each in missed} <= sim.delivered
    tails = [each for each in pages(sim)[before:] if _subject(each) is Subject.AUTHORS]
    assert START - 900 <= (tails[0].since or 0) <= START + 100 - 900 + 1
    assert sim.cursors["authors/"].complete_until >= START + 10_000


def test_a_restart_goes_on_from_the_committed_cursors() -> None:
    sim = crawl()
    sim.want([ALICE], [CAROL])
    sim.connect()
    sim.run_until(400)
    sim.restart()
    sim.run_until(4_000)
    before = len(pages(sim))
    sim.connect()
    sim.run_until(4_060)
    sinces = [each.since or 0 for each in pages(sim)[before:] if each.kinds != frozenset({GIFT_WRAP})]
    assert sinces
    late = START + 400 - SETTINGS.resweep_window
    assert min(since for since in sinces if since > late) >= START - 900, "nothing is fetched from the beginning again"
    assert all(_subject(each) is not Subject.PROFILES for each in pages(sim)[before:])


def test_idle_tails_are_as_rare_as_they_may_be() -> None:
    """In an hour each live query is checked every five minutes by an empty page; mentions, whose empty pages may be
    hiding something, by two."""
    sim = crawl()
    sim.want([ALICE], [CAROL])
    sim.connect()
    sim.run_until(60)
    before, lives_before = len(pages(sim)), len(lives(sim))
    sim.run_until(3_660)
    counts = Counter(map(_subject, pages(sim)[before:]))
    due = 3_600 / TAIL_EVERY_S
    assert counts[Subject.PROFILES] == 0
    assert all(due - 1 <= counts[each] <= due + 1 for each in (Subject.GLOBAL, Subject.AUTHORS))
    assert due - 1 <= counts[Subject.MENTIONS] <= 2 * (due + 1)
    assert len(lives(sim)) == lives_before
    assert max(sim.idle_turns.values()) < 150


def test_a_new_member_is_looked_back_for_and_subscribed_to() -> None:
    sim = crawl()
    old = [event(START - DAY // 2, BOB), event(START + 500, BOB)]
    sim.want([ALICE])
    sim.connect()
    sim.at(500, lambda: put(sim, *old, stored_at=sim.wall))
    sim.run_until(1_000)
    assert not sim.delivered & {each.id for each in old}
    sim.want([BOB])
    sim.run_until(1_060)
    assert {each.id for each in old} <= sim.delivered
    lookbacks = [each for each in pages(sim) if each.authors == frozenset({BOB})]
    assert {each.since for each in lookbacks} == {START + 1_000 - SETTINGS.lookback}
    assert sim.cursors["authors/"].generation == 2
    assert any(BOB in (each.authors or ()) for each in lives(sim)[-1])
    before = len(pages(sim))
    sim.run_until(1_200)
    assert not [each for each in pages(sim)[before:] if each.authors == frozenset({BOB})], "once is enough"


def test_a_new_users_profile_is_fetched_without_a_limit_of_time() -> None:
    sim = crawl()
    profile = [event(9, CAROL, kind) for kind in sorted(PROFILE_KINDS)]
    sim.want([ALICE], [BOB])
    sim.connect()
    sim.run_until(500)
    put(sim, *profile)
    sim.want(registered=[CAROL])
    sim.run_until(560)
    assert {each.id for each in profile} <= sim.delivered
    asked = [each for each in pages(sim) if each.kinds == PROFILE_KINDS and each.authors == frozenset({CAROL})]
    assert asked
    assert asked[0].since == 0


def test_one_who_comes_back_is_looked_back_for_again() -> None:
    sim = crawl()
    sim.want([ALICE, BOB])
    sim.connect()
    sim.run_until(100)
    sim.want(gone=[BOB])
    missed = event(START + 200, BOB)
    sim.at(200, lambda: sim.relay.publish(missed, sim.wall))
    sim.run_until(300)
    assert missed.id not in sim.delivered
    sim.want([BOB])
    sim.run_until(360)
    assert missed.id in sim.delivered


def test_the_last_days_are_swept_again_at_their_time() -> None:
    """For what arrived late without a word, dated before the tails reach."""
    sim = crawl()
    sim.want([ALICE])
    sim.connect()
    sim.run_until(100)
    late = event(START - 2 * DAY, ALICE)
    sim.relay.store.events.append(late)
    sim.relay.stored_at[late.id] = sim.wall
    every = SETTINGS.resweep_every
    sim.run_until(every - 60)
    assert late.id not in sim.delivered
    sim.run_until(every + 120)
    assert late.id in sim.delivered
    sim.run_until(3 * every + 300)
    starts = [cursor.complete_until - START for cursor in sim.moved if cursor.query == "resweep:authors/"]
    assert len(starts) == 3
    assert all(abs(start - (number + 1) * every) < 120 for number, start in enumerate(starts))


def test_relay_first_crawled_by_a_clock_ahead_is_swept_for_late_arrivals() -> None:
    """What the clock noted then is not believed beyond now."""
    sim = crawl()
    sim.crawled_since = START + 300 * DAY
    sim.restart()
    sim.want([ALICE])
    sim.connect()
    sim.run_until(100)
    late = [event(START - days * DAY, ALICE) for days in (1, 2)]
    sim.disconnect()
    for each in late:
        sim.relay.publish(each, sim.wall)
    sim.connect()
    sim.run_until(2 * SETTINGS.resweep_every + 120)
    assert {each.id for each in late} <= sim.delivered


def test_doubt_sweeps_the_days_before_it_again_at_once_and_once() -> None:
    sim = crawl()
    sim.want([ALICE])
    sim.connect()
    sim.run_until(100)
    lost = event(START - 10 * DAY, ALICE)
    sim.disconnect()
    sim.relay.publish(lost, sim.wall)
    sim.doubt = (START - 8 * DAY, sim.wall)
    sim.restart()
    sim.connect()
    sim.run_until(200)
    assert lost.id in sim.delivered
    assert len([cursor for cursor in sim.moved if cursor.query == "resweep:authors/"]) == 1
    sim.restart()
    sim.connect()
    sim.run_until(3_600)
    assert len([cursor for cursor in sim.moved if cursor.query == "resweep:authors/"]) == 1


def test_no_resweep_when_it_is_off_and_no_haste_either() -> None:
    sim = crawl(settings=replace(SETTINGS, resweep_every=0))
    sim.want([ALICE])
    sim.connect()
    sim.run_until(2 * 3_600)
    assert not [each for each in sim.cursors if each.startswith("resweep:")]
    assert max(sim.idle_turns.values()) < 150


def test_a_chunk_that_is_split_or_merged_starts_nothing_from_the_beginning() -> None:
    sim = crawl()
    people = [random.Random(n).randbytes(32) for n in range(260)]
    sim.want(people[:250])
    sim.connect()
    sim.run_until(400)
    assert "authors/" in sim.cursors
    sim.want(people[250:])
    before = len(pages(sim))
    sim.run_until(1_000)
    assert {"authors/0", "authors/1"} <= set(sim.cursors)
    new = set(people[250:])
    reached = [each for each in pages(sim)[before:] if (each.since or 0) < START - 901]
    assert all(set(each.authors or ()) <= new for each in reached)
    sim.want(gone=people[240:])
    before = len(pages(sim))
    sim.run_until(2_000)
    assert min(each.since or 0 for each in pages(sim)[before:]) >= START - 901


def test_queries_without_room_for_a_live_subscription_are_polled() -> None:
    sim = crawl(limits=replace(RelayLimits(), max_subscriptions=1))
    sim.relay.max_subscriptions = 1
    sim.want([ALICE])
    sim.connect()
    sim.run_until(60)
    assert lives(sim) == []
    assert sim.crawl.unserved_queries == 2
    before = len(pages(sim))
    sim.at(90, lambda: sim.relay.publish(event(START + 90, ALICE), sim.wall))
    sim.run_until(60 + 10 * POLL_EVERY_S)
    assert sim.everything() <= sim.delivered
    sweeps = [each for each in pages(sim)[before:] if each.limit != 1]
    assert 9 <= Counter(map(_subject, sweeps))[Subject.GLOBAL] <= 11


@pytest.mark.parametrize("most", [2, 3, 4])
def test_relay_that_refuses_the_last_request_keeps_its_live_subscription(most: int) -> None:
    sim = crawl()
    sim.relay.max_subscriptions = most
    sim.want([random.Random(n).randbytes(32) for n in range(600)], [ALICE])
    sim.connect()
    sim.run_until(100)
    assert sim.session is not None
    assert (sim.session.limits.max_subscriptions, sim.crawl.unserved_queries) == (most if most < 4 else 18, 0)
    sim.at(120, lambda: sim.relay.publish(event(START + 120, ALICE), sim.wall))
    sim.run_until(121)
    assert len(sim.delivered) == 1


@pytest.mark.parametrize("most", [2, 3, 5])
def test_low_subscription_limit_is_learned_and_everything_still_comes(most: int) -> None:
    sim = crawl()
    people = [random.Random(n).randbytes(32) for n in range(3_000)]
    put(sim, *(event(START - 60 * n, each) for n, each in enumerate(people[:300])))
    sim.relay.max_subscriptions = most
    sim.want(people, people[:300])
    sim.connect()
    sim.run_until(1_200)
    assert sim.everything() <= sim.delivered
    refused = sum(sim.refusals.values())
    sim.run_until(4_800)
    assert sum(sim.refusals.values()) == refused, "what was learned is kept to"


@pytest.mark.parametrize(
    ("mood", "most_requests"),
    [
        (closing("error: database is down"), 150),
        # What has no live subscription is polled each minute.
        (closing("error: database is down", pages=False), 300),
        (closing("error: database is down", live=False), 150),
        (closing("auth-required: members only"), 80),
        (closing("restricted: not you"), 80),
        (closing("blocked: can't handle empty filters"), 80),
        (closing("rate-limited: slow down, please"), 60),
        (closing("rate-limited: slow down, please", pages=False), 250),
        (closing("ERROR: bad req: total filter items too large"), 150),
        (closing("ERROR: bad req: unknown element"), 80),
        (noticing("ERROR: too many concurrent REQs"), 150),
        (noticing("could not parse command"), 150),
        (noticing("rate limited"), 60),
        (mute, 200),
    ],
    ids=lambda value: "" if isinstance(value, int) else None,
)
def test_refusing_relay_is_asked_ever_less_and_serves_once_it_relents(mood: Mood, most_requests: int) -> None:
    """In the second hour of refusals; nothing is completed by any of them."""
    sim = crawl()
    put(sim, *(event(START - 600 * n, ALICE, 1, n) for n in range(50)))
    sim.want([ALICE], [CAROL])
    sim.relay.mood = mood
    # While the host wants patience it is looked at every second.
    sim.max_idle_turns = 4_000
    sim.connect()
    sim.run_until(3_600)
    before = len(sim.relay.requests)
    sim.run_until(7_200)
    assert len(sim.relay.requests) - before <= most_requests
    assert sim.refusals
    if mood(*_a_page()) is not None:
        assert sim.cursors == {}
    sim.relay.mood = cooperative
    sim.run_until(9_000)
    assert sim.everything() <= sim.delivered
    assert cursor_keys(sim) == {"profiles/", "global/", "mentions/", "authors/"}
    assert sim.session is not None
    assert sim.session.live_subscriptions >= 1 or sim.crawl.unserved_queries


def _a_page() -> tuple[str, list[Filter]]:
    return "P1", [Filter(limit=500)]


def test_a_relay_that_is_too_small_for_a_chunk_gets_smaller_ones() -> None:
    sim = crawl()
    people = [random.Random(n).randbytes(32) for n in range(240)]
    put(sim, *(event(START - 60 * n, each) for n, each in enumerate(people)))

    def small(subscription: str, filters: list[Filter]) -> "list[object] | None":
        if max(len(each.authors or ()) for each in filters) > 40:
            return closing("ERROR: bad req: total filter items too large")(subscription, filters)  # type: ignore[return-value]
        return None

    sim.relay.mood = small  # type: ignore[assignment]
    sim.want(people)
    sim.connect()
    sim.run_until(900)
    assert sim.everything() <= sim.delivered
    assert "authors/" in sim.cursors


def test_how_far_behind_it_is() -> None:
    sim = crawl()
    sim.want([ALICE])
    assert sim.crawl.seconds_behind(START + 500) == 500
    sim.connect()
    sim.run_until(100)
    assert sim.crawl.seconds_behind(START + 1_000) <= 1_000
    assert sim.crawl.seconds_behind(START - 100) == 0


def test_live_relay_is_not_behind_while_its_events_arrive() -> None:
    """Though its cursor moves every five minutes; without events it is as old as its cursor."""
    sim = crawl()
    sim.want([ALICE])
    sim.connect()
    sim.run_until(30)
    cursor = max(each.complete_until for each in sim.moved)
    assert sim.crawl.seconds_behind(sim.wall + 200, sim.wall + 199) == 1
    assert sim.crawl.seconds_behind(sim.wall + 200, sim.wall + 900) == 0, "no event proves more than now"
    assert (
        sim.crawl.seconds_behind(sim.wall + 200, 0)
        == sim.wall + 200 - min(each.complete_until for each in sim.moved)
        >= sim.wall + 200 - cursor
    )
    sim.disconnect()
    sim.connect()
    assert sim.crawl.seconds_behind(sim.wall + 200, sim.wall + 199) > 150, "its gap is not closed yet"


def test_a_sweep_of_what_is_no_longer_wanted_is_not_asked_for_for_ever() -> None:
    sim = crawl()
    sim.want([ALICE, BOB], [CAROL])
    sim.relay.mood = closing("auth-required: members only")
    sim.connect()
    sim.run_until(2_000)
    sim.want(gone=[ALICE, BOB, CAROL])
    sim.run_until(3_000)
    before = len(pages(sim))
    sim.run_until(3 * 3_600)
    assert {_subject(each) for each in pages(sim)[before:]} == {Subject.GLOBAL}


@pytest.mark.parametrize("error", [-DAY, -3_600, 3_600, 30 * DAY])
def test_a_clock_that_is_set_stops_nothing(error: int) -> None:
    """Cursors may then lie in the future, and members be wanted from then on only."""
    sim = crawl()
    sim.clock_error = error
    sim.want([ALICE], [CAROL])
    sim.connect()
    sim.run_until(1_000)
    sim.clock_error = 0
    sim.want([BOB])
    sim.restart()
    sim.connect()
    sim.run_until(2_000)
    made = [event(START + 2_100, each) for each in (ALICE, BOB)]
    sim.at(2_100, lambda: put(sim, *made, stored_at=sim.wall))
    sim.run_until(3_000)
    assert {each.id for each in made} <= sim.delivered
    assert sim.cursors["authors/"].complete_until >= sim.wall - 2 * TAIL_EVERY_S


@pytest.mark.parametrize("error", [2_000, 4 * 3_600, 30 * DAY])
@pytest.mark.parametrize("restarts", [False, True])
def test_what_comes_while_a_cursor_lies_in_the_future_is_had_all_the_same(error: int, restarts: bool) -> None:
    """A clock that was ahead has moved cursors beyond what they cover; no gap may hide behind them."""
    sim = crawl()
    sim.want([ALICE])
    sim.clock_error = error
    sim.connect()
    sim.run_until(400)
    assert sim.cursors["authors/"].complete_until > START + error - 1
    sim.clock_error = 0
    sim.run_until(500)
    sim.restart() if restarts else sim.disconnect()
    missed = [event(START + at, ALICE) for at in range(600, 9_000, 1_400)]
    for each in missed:
        sim.at(each.created_at - START, lambda each=each: sim.relay.publish(each, sim.wall))  # type: ignore[misc]
    sim.run_until(9_000)
    sim.connect()
    sim.run_until(9_100)
    assert {each.id for each in missed} <= sim.delivered
    assert sim.wall - 200 <= sim.cursors["authors/"].complete_until <= sim.wall


@pytest.mark.parametrize("corrected_at", [1_000, 1_070, 1_140, 1_210])
def test_events_refused_as_future_are_fetched_once_the_clock_is_right(corrected_at: int) -> None:
    """It was new, and so above every cursor; the next sweep by the timetable may be minutes away."""
    sim = crawl()
    sim.clock_error = -4 * 3_600
    sim.want([ALICE])
    sim.connect()
    sim.run_until(corrected_at)
    sim.clock_error = 0
    corrected = sim.wall
    sim.run_until(corrected_at + MAX_CHECK_S + 5)
    assert sim.cursors["authors/"].complete_until >= corrected


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("wrong_at", [0.05, 0.2, 0.4, 0.6])
def test_what_is_fetched_while_the_clock_is_behind_is_fetched_again(wrong_at: float, restarts: bool) -> None:
    """It was refused as of the future, by a look-back that ended well; the tail beside it took longer than that."""
    sim = crawl()
    sim.limits = replace(sim.limits, page_limit=20)
    sim.restart()
    old = [event(START - at, each) for at in range(1_200, 7_000, 20) for each in (ALICE, BOB)]
    put(sim, *old, stored_at=START - 1)
    sim.want([ALICE])
    sim.connect()
    sim.run_until(1_000)
    sim.disconnect()
    sim.want([BOB])
    sim.relay.mood = _busy_with_news
    sim.connect()
    sim.run_until(1_000 + wrong_at)
    sim.clock_error = -5 * 3_600
    sim.run_until(1_010)
    sim.clock_error = 0
    sim.relay.mood = cooperative
    if restarts:
        sim.restart()
        sim.connect()
    sim.run_until(3_000)
    assert {each.id for each in old} <= sim.delivered


def _busy_with_news(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
    is_news = filters[0].limit != 0 and (filters[0].since or 0) > START - 2_000
    return [Closed(subscription, "error: busy", "error")] if is_news else None


class Story:
    """A random life of the relay, the connection and the plan, and at last some hours of peace."""

    MOODS = (
        closing("error: database is down"), closing("rate-limited: slow down, please"),
        closing("error: x", pages=False), noticing("rate limited"), noticing("ERROR: too many concurrent REQs"), mute,
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.sim = Simulation(self.rng)
        self.sim.max_idle_turns = 4_000
        self.sim.has_tiers = self.rng.random() < 0.5
        # Apart, so that the rest of the story is the same with and without.
        self.turns = random.Random(f"turns {seed}")
        self.sim.holds_last_tier = self.turns.random() < 0.7
        self.people = [self.rng.randbytes(32) for _ in range(self.rng.choice((5, 300)))]
        self.wanted: set[bytes] = set()
        self.number = 0
        # Even a quarter of it is more than anybody ever publishes in one second, so that there is no gap to be counted.
        self.sim.relay.store.cap = self.rng.choice((100, 200, 500))
        self.sim.relay.store.quarter_above_cap = self.rng.random() < 0.2
        self.sim.relay.store.exclusive_until = self.rng.random() < 0.3
        self.sim.relay.max_subscriptions = self.rng.choice((2, 4, 20, 200))

    def event(self, at: int) -> Event:
        self.number += 1
        mentions = self.rng.sample(self.people, self.rng.choice((0, 0, 1)))
        return event(at, self.rng.choice(self.people), self.rng.choice((0, 1, 1, 1, 3, 7)), self.number, mentions)

    def publish(self) -> None:
        for _ in range(self.rng.choice((1, 1, 1, 40))):
            lag = self.rng.choice((0, 0, 0, 5, 800, 100_000))
            self.sim.relay.publish(self.event(self.sim.wall - lag), self.sim.wall)

    def change(self) -> None:
        count = self.rng.choice((1, 2, len(self.people) // 2))
        chosen = set(self.rng.sample(self.people, max(count, 1)))
        if self.wanted and self.rng.random() < 0.4:
            self.sim.want(gone=chosen & self.wanted)
            self.wanted -= chosen
        else:
            new = chosen - self.wanted
            users = set(list(new)[:2])
            self.sim.want(new - users, users)
            self.wanted |= new

    def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.1:
            writes, reads = self.rng.random() < 0.7, self.rng.random() < 0.3
            self.sim.name(*self.rng.sample(self.people, len(self.people) // 5), writes=writes, reads=reads)
        elif chance < 0.55:
            self.publish()
        elif chance < 0.68:
            self.change()
        elif chance < 0.7:
            self.sim.promote()
        elif chance < 0.8:
            self.sim.relay.mood = self.rng.choice((*self.MOODS, cooperative, cooperative, cooperative))
        elif chance < 0.85:
            self.sim.restart()
        elif self.sim.session is None:
            self.sim.connect()
        else:
            self.sim.disconnect()

    def run(self) -> None:
        put(self.sim, *(self.event(START - self.rng.randrange(3 * DAY)) for _ in range(300)))
        self.change()
        self.sim.connect()
        now = 0.0
        for _ in range(80):
            now += self.rng.choice((0.2, 3, 30, 400, 2_000))
            self.sim.run_until(now)
            self.step()
            if self.turns.random() < 0.2:
                self.sim.catch_up()
        self.sim.relay.mood = cooperative
        self.sim.catch_up()
        self.sim.disconnect()
        self.sim.connect()
        self.sim.run_until(now + 2 * 3_600)


@pytest.mark.parametrize("seed", seeds(12))
def test_whatever_happens_everything_within_reach_is_had_in_the_end(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no cursor was ever ahead of it, which the simulation holds each time that one moves.

    However many late queries are looked at together.
    """
    print(f"seed {seed}")
    monkeypatch.setattr(late_queries, "AT_ONCE", (late_queries.AT_ONCE, 1)[seed % 2])
    story = Story(seed)
    story.run()
    sim = story.sim
    assert not sim.everything() - sim.delivered
    assert len(sim.moved) > 10
    assert sim.refusals[RelayRefusal.TIMEOUT] < 500
