"""A relay that is asked for everything: nothing wanted is lost, whenever the way of asking changes."""

import random
from collections.abc import Callable, Iterable

import pytest

from pipeline.crawl.sync.asked_kinds import LISTED_KINDS
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.planner import MAX_MEMBERS, Planner
from pipeline.crawl.sync.query import FIREHOSE_QUERY, Subject
from pipeline.crawl.sync.relay_lists import NOBODY
from pipeline.crawl.sync.strategy import RETRY_WHOLE_S, FetchStrategy, NewAuthorLookback
from pipeline.crawl.sync.timing import LASTING_RETRY_S
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Eose, RelayMessage
from pipeline.relay.limits import RelayLimits
from pipeline.settings.choices import CrawlMode
from pipeline.store.wanted_authors import Change
from tests.simulation.simulation import SETTINGS, START, Mood, Simulation, closing, cooperative
from tests.support.plans import changes, event, key, plan_for
from tests.support.seeds import seeds

ALICE, BOB, CAROL = key(1), key(2), key(3)
HOUR, DAY = 3_600, 86_400
# Room for two chunks beside the pages: more than a handful of them do not fit.
NARROW = RelayLimits(max_subscriptions=3, max_filters=1)


def crowd(rng: random.Random, count: int) -> list[bytes]:
    return [rng.randbytes(32) for _ in range(count)]


def crawl(seed: int = 1, **options: object) -> Simulation:
    return Simulation(random.Random(seed), **options)  # type: ignore[arg-type]  # passed on as they are


def put(sim: Simulation, *events: Event, stored_at: int = 0) -> None:
    for each in events:
        sim.relay.publish(each, stored_at)


def is_broad(wanted: Filter) -> bool:
    return wanted.authors is None and wanted.kinds is None and not wanted.tags


def pages(sim: Simulation) -> list[Filter]:
    return [filters[0] for name, filters in sim.relay.requests if name.startswith("P")]


def live_filters(sim: Simulation) -> list[Filter]:
    return [each for name, filters in sim.relay.open.items() if name.startswith("L") for each in filters]


def way(sim: Simulation) -> str:
    return sim.crawl.strategy.name


def refusing_broad(how: Mood) -> Mood:
    """`how` for whoever asks for everything."""
    return lambda subscription, filters: how(subscription, filters) if any(map(is_broad, filters)) else None


# Some relays match nothing live by a filter without any condition.
WHOLE = Filter(since=1, limit=0)


def empty(subscription: str, _: list[Filter]) -> list[RelayMessage]:
    """Nothing, as if there were nothing."""
    return [Eose(subscription)]


def test_everything_is_asked_for_once_live_and_stored() -> None:
    sim = crawl()
    sim.ask(CrawlMode.WHOLE)
    within = [event(START - DAY + 60, ALICE), event(START - 60, BOB, 1, 0, [CAROL]), event(START - 60, BOB, 0)]
    put(sim, *within, event(START - 60, BOB, 1), event(START - 2 * DAY, ALICE))
    sim.want([ALICE], [CAROL])
    sim.connect()
    sim.run_until(30)
    assert live_filters(sim) == [WHOLE]
    asked = [each for each in pages(sim) if each.authors is None]
    assert asked
    assert all(is_broad(each) or each.kinds == LISTED_KINDS for each in asked), "or a check of what was empty"
    assert min(each.since or START for each in asked) == START - SETTINGS.lookback
    assert sim.delivered == {each.id for each in within}
    assert START <= sim.cursors[FIREHOSE_QUERY.key].complete_until <= START + 2
    late = event(START - 9 * DAY, ALICE)
    sim.at(40, lambda: sim.relay.publish(late, sim.wall))
    sim.run_until(42)
    assert late.id in sim.delivered


def test_new_author_is_looked_back_for_then_covered_by_firehose_cursor() -> None:
    sim = crawl()
    sim.ask(CrawlMode.WHOLE)
    put(sim, event(START - 60, ALICE), event(START - HOUR, BOB), event(START - HOUR, ALICE, 1, 0, [CAROL]))
    sim.want([ALICE])
    sim.connect()
    sim.run_until(400)
    before = len(pages(sim))
    sim.want([BOB], [CAROL])
    sim.run_until(460)
    assert sim.delivered == sim.everything()
    asked = [each for each in pages(sim)[before:] if each.kinds is None]
    assert {frozenset(each.authors or ()) for each in asked} >= {frozenset({BOB, CAROL})}
    assert not [each for each in asked if is_broad(each)]
    assert sim.cursors[FIREHOSE_QUERY.key].generation == 2
    assert live_filters(sim) == [WHOLE], "nothing is opened again for one more author"


def test_plan_too_large_for_a_relay_uses_the_firehose_else_filters() -> None:
    sim = crawl(limits=NARROW)
    many = crowd(sim.rng, 4_000)
    put(sim, event(START - 60, ALICE))
    sim.want([ALICE])
    sim.connect()
    sim.run_until(60)
    assert way(sim) == "query"
    sim.want(many)
    sim.run_until(120)
    assert way(sim) == "whole"
    assert live_filters(sim) == [WHOLE]
    sim.want(gone=many)
    sim.run_until(240)
    assert way(sim) == "query"
    assert all(not is_broad(each) for each in live_filters(sim))
    roomy = crawl()
    roomy.want(many)
    roomy.connect()
    roomy.run_until(60)
    assert way(roomy) == "query"


@pytest.mark.parametrize(
    ("mood", "within"),
    [
        (closing("blocked: can't handle empty filters"), 60),
        (closing("error: failed"), 120),
        (empty, 60),
        (lambda _, __: [], 1_000),
    ],
    ids=["closed", "errors", "silently empty", "mute"],
)
def test_relay_that_refuses_broad_filters_is_filtered_from_its_cursor(mood: Mood, within: int) -> None:
    sim = crawl(limits=NARROW)
    many = crowd(sim.rng, 4_000)
    sim.max_idle_turns = 4_000  # chunks take turns
    put(sim, *(event(START - 60 * n, many[n * 100]) for n in range(1, 30)))
    sim.want(many)
    sim.relay.mood = refusing_broad(mood)
    sim.connect()
    sim.run_until(within)
    assert way(sim) == "query"
    assert FIREHOSE_QUERY.key not in sim.cursors
    assert sim.limits.whole_refused_at or (sim.session is not None and sim.session.limits.whole_refused_at)
    sim.run_until(within + 300)
    assert sim.delivered == sim.everything()
    asked_broadly = sum(map(is_broad, pages(sim)))
    sim.run_until(within + 4_000)
    assert sum(map(is_broad, pages(sim))) == asked_broadly, "it is not asked whole again"


@pytest.mark.long
@pytest.mark.timeout(400)
def test_firehose_that_is_refused_later_loses_nothing_and_is_retried_daily() -> None:
    sim = crawl(limits=NARROW)
    many = crowd(sim.rng, 1_500)
    sim.max_idle_turns = 4_000
    put(sim, event(START - 60, many[0]))
    sim.want(many)
    sim.connect()
    for minute in range(0, 120, 3):
        author = many[minute * 12]
        sim.at(60 * minute, lambda author=author: sim.relay.publish(event(sim.wall, author), sim.wall))  # type: ignore[misc]
    sim.run_until(1_000)
    assert way(sim) == "whole"
    reached = sim.cursors[FIREHOSE_QUERY.key].complete_until

    def refuse() -> None:
        sim.relay.mood = refusing_broad(empty)
        sim.relay.open.clear()

    sim.at(1_001, refuse)
    sim.run_until(9_000)
    assert way(sim) == "query"
    assert sim.delivered == sim.everything()
    sinces = [each.since or 0 for each in pages(sim) if each.authors and len(each.authors) > 1]
    assert min(sinces) >= reached - 900 - SETTINGS.resweep_window, "nobody begins anew"
    sim.relay.mood = cooperative
    sim.run_until(9_000 + RETRY_WHOLE_S)
    assert way(sim) == "whole"


def test_a_relay_that_has_too_much_is_asked_by_query_again() -> None:
    sim = crawl(limits=NARROW)
    sim.max_idle_turns = 4_000
    many, strangers = crowd(sim.rng, 2_500), crowd(sim.rng, 50)
    # Four a second, of which nothing is wanted: far more than the chunks' own requests would be.
    put(sim, event(START - 5, many[0]), *(event(START - n // 4, strangers[n % 50], 1, n) for n in range(20_000)))
    sim.want(many)
    sim.crawled_since = START
    sim.connect()
    sim.run_until(60)
    assert sim.crawl.strategy.rate is None or sim.crawl.strategy.rate < 4
    sim.crawl.strategy.record_rate(100_000, 4 * HOUR)
    sim.run_until(120)
    assert way(sim) == "query"
    sim.run_until(600)
    assert sim.delivered == sim.everything()


def test_a_second_that_kinds_do_not_divide_is_fetched_by_author() -> None:
    sim = crawl(limits=NARROW)
    sim.max_idle_turns = 4_000
    many = crowd(sim.rng, 3_000)
    sim.relay.store.cap = 50
    put(sim, *(event(START - 500, author) for author in many[:200]))
    sim.want(many)
    sim.connect()
    sim.run_until(600)
    assert sim.delivered == sim.everything()


def test_an_empty_relay_costs_few_requests() -> None:
    sim = crawl(limits=NARROW)
    sim.want(crowd(sim.rng, 4_000))
    sim.max_idle_turns = 4_000
    sim.connect()
    sim.run_until(HOUR)
    before = len(sim.relay.requests)
    sim.run_until(2 * HOUR)
    assert len(sim.relay.requests) - before < 400


@pytest.mark.parametrize("seed", seeds(4))
def test_nothing_is_lost_whatever_happens(seed: int) -> None:
    """Ways of asking, refusals, restarts and changes of who is wanted, at random; cursors are checked as they move."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    sim = crawl(seed, limits=rng.choice((NARROW, RelayLimits(max_subscriptions=6, max_filters=2))))
    sim.max_idle_turns = 20_000
    people = crowd(rng, 3_000)
    sim.relay.store.cap = rng.choice((50, 500))
    put(sim, *(event(START - rng.randrange(DAY), rng.choice(people[:500]), rng.choice((0, 1, 7))) for _ in range(300)))
    sim.want(people[: rng.choice((100, 2_600))], people[:3])
    sim.connect()
    actions: list[Callable[[], None]] = [
        lambda: sim.ask(rng.choice(tuple(CrawlMode))),
        lambda: sim.want(rng.sample(people, 300)),
        lambda: sim.want((), rng.sample(people, 2)),
        lambda: setattr(sim.relay, "mood", rng.choice((cooperative, cooperative, refusing_broad(empty)))),
        sim.disconnect,
        sim.restart,
    ]
    end = 3 * HOUR
    kinds = (1, 1, 7, 3)
    for at in range(0, end - HOUR, 40):
        author = rng.choice(people)
        sim.at(
            at + rng.random(),
            lambda author=author: sim.relay.publish(  # type: ignore[misc]
                event(sim.wall - rng.choice((0, 5, 600)), author, rng.choice(kinds), 0, rng.sample(people[:20], 1)),
                sim.wall,
            ),
        )
    for at in range(300, end - HOUR, 600):
        sim.at(at, rng.choice(actions))
        sim.at(at + rng.randrange(1, 200), lambda: None if sim.session else sim.connect())

    def settle() -> None:
        sim.relay.mood = cooperative
        sim.ask(rng.choice((CrawlMode.WHOLE, CrawlMode.AUTO)))

    sim.at(end - HOUR, settle)
    sim.at(end - HOUR + 1, lambda: None if sim.session else sim.connect())
    sim.run_until(end)
    assert sim.delivered >= sim.everything()


def test_newcomers_are_those_after_the_cursor_in_chunks_of_a_request_each() -> None:
    plan = plan_for([key(n) for n in range(MAX_MEMBERS + 10)], [key(1)], generation=7)
    newcomers = NewAuthorLookback.since(plan, 6, NOBODY)
    assert [piece.subject for piece in newcomers.chunks.values()].count(Subject.AUTHORS) == 2
    assert sum(len(piece.members) for piece in newcomers.chunks.values()) == MAX_MEMBERS + 11
    assert not NewAuthorLookback.since(plan, 7, NOBODY).chunks
    *first, last = list(newcomers.chunks)
    assert not any(newcomers.done(name) for name in first)
    assert newcomers.done(last)


def plan_of(authors: Iterable[tuple[bytes, int]]) -> Plan:
    """The plan when everybody became wanted by the change of that number."""
    planner, known = Planner(), list(authors)
    planner.apply(changes(max(number for _, number in known), [Change(each, True, 0, n) for each, n in known]))
    return planner.plan()


def test_later_new_authors_are_added_to_the_unfinished_lookback() -> None:
    first, both = [key(n) for n in range(5)], [key(n) for n in range(7)]
    newcomers = NewAuthorLookback.since(plan_for(first, generation=1), 0, NOBODY)
    (old,) = newcomers.chunks.values()
    grown = plan_of([*((each, 1) for each in first), *((each, 2) for each in both[5:])])
    newcomers.follow(grown, NOBODY)
    newcomers.follow(grown, NOBODY)
    assert next(iter(newcomers.chunks.values())) == old
    (_, fresh) = newcomers.chunks.values()
    assert {member.public_key for member in fresh.members} == set(both[5:])
    assert newcomers.generation == 2
    assert not newcomers.done(old.key)
    assert newcomers.done(fresh.key)


def test_small_lookback_chunks_are_merged_and_name_each_author_once() -> None:
    newcomers = NewAuthorLookback(0)
    names: set[str] = set()
    for number in range(1, 60):
        newcomers.follow(plan_of([(key(n), n) for n in range(1, number + 1)]), NOBODY)
        assert len(newcomers.chunks) <= 10
        names |= newcomers.chunks.keys()
        members = [member.public_key for piece in newcomers.chunks.values() for member in piece.members]
        assert sorted(members) == sorted(key(n) for n in range(1, number + 1))
    assert len(names) == 59, "no name is used again"


def test_newcomers_do_not_wait_for_those_before_them_who_are_refused() -> None:
    sim = crawl()
    sim.ask(CrawlMode.WHOLE)
    put(sim, event(START - 60, ALICE), event(START - HOUR, BOB), event(START - HOUR, CAROL))
    sim.want([ALICE])
    sim.connect()
    sim.run_until(60)
    refuse = closing("restricted: not them")
    sim.relay.mood = lambda subscription, filters: (
        refuse(subscription, filters) if any(BOB in (each.authors or ()) for each in filters) else None
    )
    sim.want([BOB])
    sim.run_until(120)
    sim.want([CAROL])
    sim.run_until(180)
    assert {each.pubkey for each in sim.relay.store.events if each.id in sim.delivered} == {ALICE, CAROL}
    assert sim.cursors[FIREHOSE_QUERY.key].generation < 2, "Bob is owed"
    sim.relay.mood = cooperative
    sim.run_until(180 + LASTING_RETRY_S + HOUR)
    assert sim.delivered == sim.everything()
    assert sim.cursors[FIREHOSE_QUERY.key].generation == 3


def test_relay_that_must_be_asked_whole_is_left_for_no_small_cost() -> None:
    """By query it leaves out what mentions users: its bytes are worth more than those of one that does not."""
    plan, asking = plan_for([ALICE], [BOB]), FetchStrategy(needs_firehose=True)
    assert asking.decide(plan, RelayLimits(), START)
    asking.record_rate(10 * HOUR, HOUR)
    assert not asking.decide(plan, RelayLimits(), START), "nothing changes"
    assert asking.is_firehose
    asking.record_rate(500 * HOUR, HOUR)
    assert asking.decide(plan, RelayLimits(), START)
    assert not asking.is_firehose
