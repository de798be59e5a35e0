"""The pager against a relay that may do anything with a page: everything is had, or a gap covers what is not."""

import random
from itertools import pairwise

import pytest

from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.query import GLOBAL_QUERY, Query, Subject
from pipeline.nostr.event import Event
from tests.simulation.naive_relay import Border, Chosen, NaiveRelay, Sent, fetch
from tests.support.plans import event, key, query
from tests.support.seeds import seeds

SINCE, UNTIL = 10_000, 20_000
AUTHORS = [key(n) for n in range(12)]
USERS = [key(100 + n) for n in range(3)]
KINDS = (0, 1, 3, 7, 1_111, 10_002, 30_023)
QUERIES = {
    "global": GLOBAL_QUERY,
    "authors": query(Subject.AUTHORS, AUTHORS),
    "one author": query(Subject.AUTHORS, AUTHORS[:1]),
    "mentions": query(Subject.MENTIONS, USERS),
}


def world(rng: random.Random) -> list[Event]:
    """Events in the order of arrival: mostly that of their time, some late, some seconds dense, some outside."""
    spread = rng.choice((30, 1_000, UNTIL - SINCE))
    times = [rng.randrange(UNTIL - spread, UNTIL) for _ in range(rng.randrange(300))]
    for _ in range(rng.randrange(4)):
        times += [rng.randrange(UNTIL - spread, UNTIL)] * rng.randrange(2, 60)
    times += [rng.randrange(SINCE - 2_000, SINCE) for _ in range(rng.choice((0, 0, 40, 300)))]
    times += [rng.randrange(UNTIL + 1, UNTIL + 1_000) for _ in range(rng.choice((0, 0, 40, 300)))]
    arrival = rng.choice(
        (sorted, lambda times: sorted(times, reverse=True), lambda times: rng.sample(times, len(times)))
    )
    late = [at for at in times if rng.random() < 0.05]
    ordered = [*arrival([at for at in times if at not in late]), *late]
    authors = rng.choice((AUTHORS, AUTHORS[:2]))
    kinds = rng.choice((KINDS, KINDS[1:2]))
    return [
        event(at, rng.choice(authors), rng.choice(kinds), number, rng.sample(USERS, rng.randrange(3)))
        for number, at in enumerate(ordered)
    ]


def mostly_fell(events: list[Event]) -> bool:
    """Whether events arrived newest first but for a few; many of one second neither fall nor rise."""
    steps = [later.created_at - earlier.created_at for earlier, later in pairwise(events)]
    falls, rises = sum(step < 0 for step in steps), sum(step > 0 for step in steps)
    return falls > min(len(events) // 2, 2 * rises)


def random_relay(rng: random.Random) -> NaiveRelay:
    cap = rng.choice((7, 20, 50, 100, 500))
    is_capped_by_form = rng.random() < 0.3
    forms = [(kinds, tags) for kinds in (False, True) for tags in (False, True)]
    caps = {form: rng.choice((7, 20, 50, 100, 500)) if is_capped_by_form else cap for form in forms}
    borders = (Border.INCLUDED, Border.INCLUDED, Border.INCLUDED, Border.EXCLUDED, Border.EXCLUDED, Border.IGNORED)
    sent = rng.choice(list(Sent))
    since = rng.choice(borders)
    until = rng.choice(borders)
    if until is Border.IGNORED:
        # With a dense second at its very border this would show nothing.
        since = rng.choice((Border.INCLUDED, Border.IGNORED))
    if since is Border.IGNORED and sent is Sent.NEWEST_FIRST:
        # Sorted after it was chosen without regard to `since`: nothing tells it from an end.
        sent = Sent.AS_CHOSEN
    chosen, events = rng.choice(list(Chosen)), world(rng)
    if chosen is Chosen.INSERTED_FIRST and (sent is Sent.NEWEST_FIRST or mostly_fell(events)):
        # Pages that look as if they were the newest: what arrived nearly in that order shows it too seldom.
        rng.shuffle(events)
    return NaiveRelay(rng, events, caps, chosen, sent, since, until)


def missed(relay: NaiveRelay, asked: Query, window: Window, got: set[bytes]) -> list[Event]:
    """What the relay holds, was not had and is covered by no gap; not at a border that nothing has shown yet."""
    low, high = SINCE + (relay.since is Border.EXCLUDED), UNTIL - (relay.until is Border.EXCLUDED)
    span = asked.filter(since=low, until=high)
    return [
        each
        for each in relay.inserted
        if span.matches(each)
        and each.id not in got
        and not any(gap.low <= each.created_at <= gap.high for gap in window.missing)
    ]


@pytest.mark.parametrize("seed", seeds(25))
def test_every_event_is_had_or_a_gap_covers_it(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    for name, asked in QUERIES.items():
        relay = random_relay(rng)
        window = Window(asked, SINCE, UNTIL, limit=rng.choice((500, 500, 100, 30)), max_members=rng.choice((250, 5)))
        got = fetch(window, relay.page, 200 + 40 * len(relay.inserted))
        lost = missed(relay, asked, window, got)
        assert not lost, (name, len(lost), relay.chosen, relay.sent, relay.since, relay.until, relay.caps)


@pytest.mark.parametrize("lag_s", [20, 200, 4_000])
@pytest.mark.parametrize("late", [0.0005, 0.005, 0.05])
@pytest.mark.parametrize("seed", seeds(4))
def test_few_late_arrivals_hide_nothing_where_the_last_stored_are_sorted(seed: int, late: float, lag_s: int) -> None:
    """Pages look as if they were the newest, while what was dated back lies below all of them."""
    rng = random.Random(seed)
    times = sorted(rng.randrange(SINCE, UNTIL) for _ in range(1_500))
    dated = [max(SINCE, at - round(rng.expovariate(1 / lag_s))) if rng.random() < late else at for at in times]
    events = [event(at, rng.choice(AUTHORS), rng.choice((0, 3)), number, []) for number, at in enumerate(dated)]
    caps = {(kinds, tags): 100 for kinds in (False, True) for tags in (False, True)}
    relay = NaiveRelay(rng, events[::-1], caps, Chosen.INSERTED_FIRST, Sent.NEWEST_FIRST)
    window = Window(GLOBAL_QUERY, SINCE, UNTIL, limit=500)
    got = fetch(window, relay.page, 200)
    lost = missed(relay, GLOBAL_QUERY, window, got)
    assert not lost, f"{len(lost)} in {window.pages} pages"
