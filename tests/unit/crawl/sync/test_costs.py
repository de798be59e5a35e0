"""What one relay's events may cost: forged ones, and bytes of authors whom no user follows."""

import random

import pytest

from pipeline.crawl.sync.costs import (
    BURST_S,
    FORGERIES,
    GENUINE_PER_FORGERY,
    GRACE_S,
    MAX_PAUSE_S,
    PACED_S,
    RelayCosts,
    Verified,
)
from tests.support.seeds import seeds

RATE = 1_000


def costs(rate: int = RATE) -> RelayCosts:
    return RelayCosts(lambda: rate, 0.0)


def strangers(size: int, events: int = 1) -> Verified:
    return Verified(genuine=events, stranger_events=events, stranger_bytes=size)


def test_relay_forges_once_its_budget_is_spent_and_not_before() -> None:
    made = costs()
    assert not made.note(Verified(forged=FORGERIES.burst), 0.0)
    assert not made.is_forging(0.0)
    assert made.note(Verified(forged=1), 0.0)
    assert made.is_forging(0.0)
    assert not made.is_forging(60.0)


def test_archive_of_an_honest_relay_may_hold_forged_events() -> None:
    """A page of them at once, then one among as many genuine ones as earn it, for ever."""
    made = costs()
    made.note(Verified(forged=500), 0.0)
    for _ in range(10_000):
        made.note(Verified(genuine=10 * GENUINE_PER_FORGERY, forged=10), 0.0)
    assert not made.is_forging(0.0)


@pytest.mark.parametrize("seed", seeds(3))
def test_verifications_of_a_forger_are_bounded_by_burst_and_rate(seed: int) -> None:
    rng = random.Random(seed)
    made, now, forged = costs(), 0.0, 0
    while now < 86_400:
        now += rng.expovariate(0.01)
        while not made.is_forging(now):
            made.note(Verified(forged=64), now)
            forged += 64
    assert forged <= FORGERIES.burst + 64 + FORGERIES.per_minute * now / 60 + 64


def test_strangers_are_free_within_the_burst_and_paced_beyond_it() -> None:
    made = costs()
    assert not made.note(strangers(RATE * BURST_S), 0.0)
    assert made.paced_since(0.0) is None
    assert made.note(strangers(RATE * 10), 1.0)
    assert made.paced_since(1.0) == 1.0
    assert made.next_page_at(1.0) == 1.0 + 9.0
    assert made.pause_s(1.0) == 0


def test_relay_that_brings_still_more_is_not_read_until_it_is_paid_off() -> None:
    made = costs()
    made.note(strangers(RATE * BURST_S + 1), 0.0)
    assert not made.note(strangers(RATE * (GRACE_S - 1)), 0.0)
    assert made.note(strangers(RATE * 6), 0.0)
    assert made.pause_s(0.0) == pytest.approx(5, abs=0.01)
    made.note(strangers(RATE * 1_000), 0.0)
    assert made.pause_s(0.0) == MAX_PAUSE_S
    assert made.pause_s(2_000.0) == 0
    assert made.flooding_since(0.0) is None


def test_flood_is_what_nobody_asked_for_beside_what_is_paced() -> None:
    """Known events may come live as they like; and what pages bring was asked for."""
    made = costs()
    assert not made.note_unasked(RATE * BURST_S, 0.0)
    assert not made.note_unasked(RATE, 0.0)
    assert made.flooding_since(0.0) is None
    assert made.note(strangers(RATE * (BURST_S + 1)), 0.0)
    assert made.flooding_since(0.0) == 0.0
    late = costs()
    late.note(strangers(RATE * (BURST_S + 1)), 0.0)
    assert not late.note_unasked(RATE * BURST_S, 1.0)
    assert late.note_unasked(RATE * 5, 2.0)
    assert not late.note_unasked(RATE * 5, 3.0)
    assert late.flooding_since(4.0) == 2.0


def test_pacing_ends_once_the_burst_is_there_again() -> None:
    made = costs()
    made.note_unasked(RATE * (BURST_S + 1), 0.0)
    made.note(strangers(RATE * (BURST_S + 1)), 0.0)
    assert made.paced_since(PACED_S - 1) is not None
    made.note(strangers(RATE * 300), PACED_S - 1)
    assert made.paced_since(PACED_S + 100) is not None
    assert made.flooding_since(PACED_S + 100) is not None
    assert made.paced_since(2 * PACED_S) is None
    assert made.flooding_since(2 * PACED_S) is None


def test_bytes_of_a_relay_that_goes_on_are_bounded_by_burst_and_rate() -> None:
    made, now, size = costs(), 0.0, 0
    while now < 10_000:
        now += 0.1
        if not made.pause_s(now) and made.next_page_at(now) <= now:
            made.note(strangers(RATE * 3), now)
            size += RATE * 3
    assert RATE * 9_000 < size <= RATE * (BURST_S + now + 3)


def test_page_holds_as_many_events_of_the_usual_size_as_the_rate_allows() -> None:
    made = costs()
    assert made.events_within(10.0) is None
    made.note(strangers(RATE, events=10), 0.0)
    assert made.events_within(10.0) == 100


def test_without_a_rate_nothing_is_paced() -> None:
    made = costs(rate=0)
    assert not made.note(strangers(10**12), 0.0)
    assert made.paced_since(0.0) is None
    assert made.next_page_at(0.0) == 0.0
    assert made.events_within(10.0) is None


def test_rate_may_change_while_it_is_paced() -> None:
    rate = RATE
    made = RelayCosts(lambda: rate, 0.0)
    made.note(strangers(RATE * (BURST_S + 1)), 0.0)
    rate = 0
    made.note(strangers(1), 1.0)
    assert made.paced_since(1.0) is None
