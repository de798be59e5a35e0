"""Live subscriptions that do not bring what they should, as tail sweeps show."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.crawl.sync.live.check import GRACE_S, PROVE_AFTER_S
from pipeline.crawl.sync.live.trust import MAX_IDS, MISSES, SUSPECT_S, LiveTrust
from pipeline.crawl.sync.schedule import POLL_EVERY_S, TAIL_EVERY_S
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, Eose, EventMessage, Notice, RelayMessage
from pipeline.relay.limits import RelayLimits
from pipeline.relay.subscription import FIRST_ANSWER_S
from tests.simulation.simulation import START, Mood, Simulation
from tests.support.plans import event, key

ALICE, BOB = key(1), key(2)


def crawl(mood: Mood | None = None) -> Simulation:
    """A crawl of a relay that is connected."""
    sim = Simulation(random.Random(3))
    if mood is not None:
        sim.relay.mood = mood
    sim.want(authors=[ALICE], registered=[BOB])
    sim.connect()
    return sim


def stream(sim: Simulation, since: int, until: int, every: int = 20, *, is_live: bool = True) -> list[Event]:
    """Events that the relay takes in, each at its date."""
    events = [event(START + at, ALICE, number=at) for at in range(since, until, every)]
    for at, each in zip(range(since, until, every), events, strict=True):

        def arrive(each: Event = each) -> None:
            if is_live:
                sim.relay.publish(each, sim.wall)
            else:
                sim.relay.store.events.append(each)
                sim.relay.stored_at[each.id] = sim.wall

        sim.at(at, arrive)
    return events


def limits(sim: Simulation) -> RelayLimits:
    assert sim.session is not None
    return sim.session.limits


def zero(how: str) -> Mood:
    """What a relay says to `limit: 0` instead of subscribing."""

    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        if all(each.limit != 0 for each in filters):
            return None
        return {
            "eose": [Eose(subscription)],
            "nothing": [],
            "closed": [Closed(subscription, "invalid: bad filter", "invalid")],
            "notice": [Notice("invalid: bad filter")],
        }[how]  # type: ignore[return-value]

    return mood


@pytest.mark.parametrize(("how", "within"), [("eose", 60), ("nothing", 60), ("closed", 5), ("notice", 10)])
def test_relay_that_ignores_limit_zero_is_asked_with_limit_one(how: str, within: int) -> None:
    sim = crawl(zero(how))
    stream(sim, 10, within)
    late = stream(sim, within, within + 600)
    for number, each in enumerate(late):
        sim.run_until(within + 20 * number + 2)
        assert each.id in sim.delivered, f"{number}"
    assert limits(sim).refuses_zero == (how != "nothing"), "silence teaches nothing"
    assert (limits(sim).live_missed_at, limits(sim).max_subscriptions) == (0, RelayLimits().max_subscriptions)


@pytest.mark.parametrize("how", ["eose", "nothing", "closed", "notice"])
def test_first_event_after_minutes_of_quiet_comes_live_without_limit_zero(how: str) -> None:
    sim = crawl(zero(how))
    stream(sim, 5, 50)
    (late,) = stream(sim, 400, 401)
    sim.run_until(402)
    assert late.id in sim.delivered
    assert limits(sim).max_subscriptions == RelayLimits().max_subscriptions


def test_what_unanswered_limit_zero_missed_is_swept_in_half_a_minute() -> None:
    """Though other requests are answered, and none is due for minutes."""
    sim = crawl(zero("nothing"))
    few = [*stream(sim, 5, 8, 1), *stream(sim, 25, 28, 1)]
    sim.run_until(FIRST_ANSWER_S + 2)
    assert {each.id for each in few} <= sim.delivered
    (late,) = stream(sim, 33, 34)
    sim.run_until(35)
    assert late.id in sim.delivered
    assert not limits(sim).refuses_zero, "silence teaches nothing"


def test_relay_that_sends_nothing_live_is_polled_and_that_is_told() -> None:
    sim = crawl()
    sim.max_idle_turns = 10_000
    stream(sim, 10, 1_000, is_live=False)
    sim.run_until(1_000)
    assert limits(sim).live_missed_at > START
    for at in range(1_000, 3_000, 200):
        (late,) = stream(sim, at, at + 1, is_live=False)
        sim.run_until(at + 65)
        assert late.id in sim.delivered
    sim.restart()
    sim.connect()
    assert limits(sim).live_missed_at > START, "a later process goes by it"
    assert limits(sim).relaxed(sim.wall).live_missed_at == 0


def test_relay_that_serves_the_first_filter_alone_gets_one_filter_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = crawl()
    sim.max_idle_turns = 10_000

    def publish(event: Event, now: int) -> None:
        sim.relay.store.events.append(event)
        sim.relay.stored_at[event.id] = now
        for subscription, filters in sim.relay.open.items():
            if filters[0].matches(event):
                sim.relay.outbox.append(EventMessage(subscription, event))

    monkeypatch.setattr(sim.relay, "publish", publish)
    stream(sim, 10, 1_500)
    late = stream(sim, 1_500, 2_000)
    for number, each in enumerate(late):
        sim.run_until(1_500 + 20 * number + 2)
        assert each.id in sim.delivered
    live = [filters for subscription, filters in sim.relay.open.items() if subscription.startswith("L")]
    assert {len(filters) for filters in live} == {1}


def test_relay_that_ends_what_reached_its_limit_is_heard_live() -> None:
    """EOSE, and then nothing, where as many stored events came as `limit` says: as orly does, with `limit: 0` too."""
    sim = crawl()
    sim.max_idle_turns = 10_000

    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        pages = [sim.relay.store.page(each) if each.limit else [] for each in filters]
        if all(len(page) < (each.limit or 0) for page, each in zip(pages, filters, strict=True)):
            return None
        found = [EventMessage(subscription, each) for page in pages for each in page]
        return [*found, Eose(subscription)]

    sim.relay.mood = mood
    sim.disconnect()
    for number in range(3):
        sim.relay.publish(event(START - 100 - number, ALICE, number=number), sim.wall)
    sim.connect()
    stream(sim, 10, 1_500)
    late = stream(sim, 1_500, 2_000)
    for number, each in enumerate(late):
        sim.run_until(1_500 + 20 * number + 2)
        assert each.id in sim.delivered


def test_relay_that_sends_all_live_is_trusted() -> None:
    sim = crawl()
    sim.max_idle_turns = 10_000
    stream(sim, 10, 3_000)
    late = [event(START - 500 + n, ALICE, number=n) for n in range(50)]
    for number, each in enumerate(late):
        sim.at(100 + 10 * number, lambda each=each: sim.relay.publish(each, sim.wall))  # type: ignore[misc]
    sim.run_until(4_000)
    assert (limits(sim).refuses_zero, limits(sim).live_missed_at) == (False, 0)


def test_refused_live_queries_are_polled() -> None:
    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        is_live = subscription.startswith("L")
        return [Closed(subscription, "restricted: members only", "restricted")] if is_live else None

    sim = crawl(mood)
    sim.max_idle_turns = 10_000
    for at in range(1_000, 2_000, 200):
        (late,) = stream(sim, at, at + 1)
        sim.run_until(at + 65)
        assert late.id in sim.delivered


def tails(sim: Simulation) -> list[float]:
    """Note from now on when pages are asked for that reach back some minutes only."""
    times: list[float] = []
    hear = sim.relay.hear

    def heard(frame: str) -> None:
        before = len(sim.relay.requests)
        hear(frame)
        pages = (filters[0] for name, filters in sim.relay.requests[before:] if name.startswith("P"))
        if any(page.authors and (page.since or 0) > sim.wall - 2_000 for page in pages):
            times.append(sim.mono - 100.0)

    sim.relay.hear = heard  # type: ignore[method-assign]
    return times


def test_quiet_relay_is_swept_for_proof_three_times_a_process() -> None:
    sim = crawl()
    times = tails(sim)
    sim.run_until(1_500)
    regular = 1_500 / TAIL_EVERY_S
    assert regular + 1 <= len(times) <= regular + len(PROVE_AFTER_S)
    times.clear()
    sim.disconnect()
    sim.connect()
    sim.run_until(3_000)
    assert len(times) <= regular + 1


def test_query_that_brought_an_event_live_needs_no_other_proof() -> None:
    sim = crawl()
    times = tails(sim)
    stream(sim, 5, 20, 10)
    sim.run_until(1_500)
    first, second = times[:2]
    assert first <= PROVE_AFTER_S[0] + 5
    assert second - first >= TAIL_EVERY_S - 5


def test_query_that_is_subscribed_to_in_part_is_not_judged() -> None:
    """A strict relay has room for few of its authors; the others come by polls, which says nothing about live."""
    authors = [key(10 + number) for number in range(12)]
    sim = Simulation(random.Random(4), limits=RelayLimits(max_subscriptions=5, max_authors=1, max_filters=1))
    sim.max_idle_turns = 10_000
    sim.want(authors=authors, registered=[BOB])
    sim.connect()
    polled = [event(START + at, authors[at % len(authors)], number=at) for at in range(10, 1_500, 25)]
    for each in polled:
        sim.at(each.created_at - START, lambda each=each: sim.relay.publish(each, sim.wall))  # type: ignore[misc]
    sim.run_until(1_600)
    assert {each.id for each in polled} <= sim.delivered
    assert (limits(sim).refuses_zero, limits(sim).live_missed_at) == (False, 0)


@pytest.mark.parametrize("at", [2, 40, 100])
def test_deaf_relay_is_detected_soon_after_the_event_it_withholds(at: int) -> None:
    sim = crawl()
    kept = stream(sim, at, at + 20, 5, is_live=False)
    sim.run_until(at + 20 + PROVE_AFTER_S[2] + 5)
    assert {each.id for each in kept} <= sim.delivered
    sim.run_until(at + 20 + PROVE_AFTER_S[2] + GRACE_S + 5)
    assert limits(sim).refuses_zero, "it is asked with another limit"


def test_event_that_comes_live_after_the_page_is_not_missed() -> None:
    """Within the grace; one that waits in the relay's queue comes by both ways."""
    sim = crawl()
    held: list[EventMessage] = []
    publish = sim.relay.publish

    def late(event: Event, now: int) -> None:
        before = len(sim.relay.outbox)
        publish(event, now)
        held.extend(message for message in sim.relay.outbox[before:] if isinstance(message, EventMessage))
        del sim.relay.outbox[before:]

    def release() -> None:
        sim.relay.outbox += held
        held.clear()

    sim.relay.publish = late  # type: ignore[method-assign]
    stream(sim, 20, 28, 2)
    for at in range(30, 60, 3):
        sim.at(at, release)
    sim.run_until(400)
    assert not limits(sim).refuses_zero


def test_what_came_live_is_remembered_within_bounds() -> None:
    trust = LiveTrust()
    ids = [number.to_bytes(32) for number in range(MAX_IDS + 10)]
    for number, each in enumerate(ids):
        trust.on_live(each, number, number)
    assert not trust.remembers(9), "the ids of that time are forgotten"
    assert trust.remembers(10)
    assert trust.came(ids[-1])
    assert not trust.came(ids[0])


def test_one_missed_event_changes_nothing_more_change_one_thing_at_a_time() -> None:
    trust, now = LiveTrust(), 1_000_000
    assert not trust.is_suspect(now)
    for number in range(MISSES - 1):
        trust.on_missed(bytes([number]), now)
    trust.on_missed(bytes([0]), now)
    assert trust.judged(RelayLimits(), now) == RelayLimits()
    assert trust.is_suspect(now)
    trust.on_missed(b"another", now)
    assert trust.judged(RelayLimits(), now) == RelayLimits(refuses_zero=True)
    assert trust.judged(RelayLimits(refuses_zero=True), now) == RelayLimits(refuses_zero=True)
    assert not trust.is_suspect(now + SUSPECT_S)
    for number in range(MISSES):
        trust.on_missed(bytes([number]), now)
    distrusted = trust.judged(RelayLimits(refuses_zero=True), now)
    assert distrusted == RelayLimits(refuses_zero=True, live_missed_at=now)
    for number in range(MISSES):
        trust.on_missed(bytes([number]), now)
    assert trust.judged(distrusted, now) == replace(distrusted, ends_at_limit=True)
    assert replace(distrusted, ends_at_limit=True).relaxed(now) == RelayLimits()


def test_live_request_refused_without_its_name_is_divided() -> None:
    """relayer with a bound on filters of a request: one NOTICE for everything, and `limit: 0` is not accepted."""
    text = "REQ filters are not accepted"

    def mood(_: str, filters: list[Filter]) -> list[RelayMessage] | None:
        return [Notice(text)] if len(filters) > 3 or any(each.limit == 0 for each in filters) else None

    authors = [key(10 + number) for number in range(40)]
    sim = Simulation(random.Random(5), limits=RelayLimits(max_authors=5))
    sim.max_idle_turns = 10_000
    sim.relay.mood = mood
    sim.want(authors=authors, registered=[BOB])
    sim.connect()
    late = [event(START + at, authors[at % len(authors)], number=at) for at in range(120, 700, 7)]
    for each in late:
        sim.at(each.created_at - START, lambda each=each: sim.relay.publish(each, sim.wall))  # type: ignore[misc]
    for each in late:
        sim.run_until(each.created_at - START + 2)
        assert each.id in sim.delivered, f"{each.created_at - START}"


def silent_to(is_refused: Callable[[Filter], bool]) -> Mood:
    """A relay that says nothing to certain live requests, though it answers pages of the same form."""

    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        return [] if subscription.startswith("L") and any(map(is_refused, filters)) else None

    return mood


def test_live_request_that_stays_unanswered_is_divided_to_fewer_members() -> None:
    authors = [key(10 + number) for number in range(40)]
    sim = Simulation(random.Random(6), limits=RelayLimits(refuses_zero=True))
    sim.max_idle_turns = 10_000
    sim.relay.mood = silent_to(lambda each: len(each.authors or ()) > 10)
    sim.want(authors=authors, registered=[BOB])
    sim.connect()
    late = [event(START + at, authors[at % len(authors)], number=at) for at in range(120, 700, 7)]
    for each in late:
        sim.at(each.created_at - START, lambda each=each: sim.relay.publish(each, sim.wall))  # type: ignore[misc]
    for each in late:
        sim.run_until(each.created_at - START + 2)
        assert each.id in sim.delivered, f"{each.created_at - START}"


def test_live_request_that_nobody_answers_costs_no_more_than_polls() -> None:
    sim = Simulation(random.Random(3), limits=RelayLimits(refuses_zero=True))
    sim.max_idle_turns = 10_000
    sim.relay.mood = silent_to(lambda each: each.authors is not None)
    sim.want(authors=[ALICE], registered=[BOB])
    sim.connect()
    sim.run_until(300)
    before = len(sim.relay.requests)
    late = stream(sim, 300, 1_500, 60)
    for each in late:
        sim.run_until(each.created_at - START + POLL_EVERY_S + 5)
        assert each.id in sim.delivered
    assert len(sim.relay.requests) - before < 100


def test_part_of_a_live_request_that_is_refused_takes_no_other_along() -> None:
    """strfry that demands an author or a tag of each filter."""
    text = "ERROR: bad req: filter validation failed: filter must have exactly one author, p tag, or e tag"

    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        is_broad = any(each.authors is None and not each.tags and each.ids is None for each in filters)
        return [Closed(subscription, text, "")] if is_broad else None

    sim = crawl(mood)
    late = stream(sim, 3, 600)
    for number, each in enumerate(late):
        sim.run_until(3 + 20 * number + 1)
        assert each.id in sim.delivered, f"{number}"
    refused = [filters for subscription, filters in sim.relay.requests if subscription.startswith("L")]
    assert len(refused) < 10
