"""Patience with a host: doubled, bounded, jittered, and forgotten after quiet minutes."""

import random

import pytest

from pipeline.relay.host_backoff import ENOUGH_ANSWERS, FIRST_BACKOFF_S, MAX_BACKOFF_S, QUIET_S, HostBackoff
from tests.support.seeds import seeds


class Fixed(random.Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def wait_of(host: HostBackoff, now: float) -> float:
    return host.remaining_ms(now) / 1000


def test_a_new_host_may_be_asked() -> None:
    host = HostBackoff(Fixed())
    for now in (0.0, 12.5, 10.0**9):
        assert host.can_send(now)
        assert host.remaining_ms(now) == 0


@pytest.mark.parametrize("start", [0.0, 5.0, 10.0**6])
def test_waits_double_up_to_ten_minutes(start: float) -> None:
    host, now, waits = HostBackoff(Fixed()), start, []
    for _ in range(14):
        host.on_rate_limited(now)
        waits.append(wait_of(host, now))
        assert not host.can_send(now)
        now += waits[-1]
        assert host.can_send(now)
    assert waits[:4] == [FIRST_BACKOFF_S, 2, 4, 8]
    assert waits[-1] == MAX_BACKOFF_S
    assert waits == sorted(waits)


def test_refusals_of_what_was_asked_before_the_wait_count_once() -> None:
    """A relay refuses several requests at once, and each connection to the host hears of it."""
    host = HostBackoff(Fixed())
    for _ in range(5):
        host.on_rate_limited(100.0)
        host.on_rate_limited(100.9)
    assert wait_of(host, 100.0) == FIRST_BACKOFF_S


def test_quiet_minutes_are_rewarded_and_a_shorter_peace_is_not() -> None:
    host = HostBackoff(Fixed())
    for now in (0.0, 1.0, 3.0):
        host.on_rate_limited(now)
    assert wait_of(host, 3.0) == 4
    host.on_rate_limited(7.0 + QUIET_S)
    assert wait_of(host, 7.0 + QUIET_S) == 8
    later = 15.0 + QUIET_S * 2 + 1
    host.on_rate_limited(later)
    assert wait_of(host, later) == FIRST_BACKOFF_S


@pytest.mark.parametrize("per_second", [0.5, 1.0, 10.0])
def test_of_a_host_that_rations_requests_most_of_the_ration_is_had(per_second: float) -> None:
    """So many a second, saved up for a minute: doubling at each refusal would soon leave it alone for ten minutes."""
    host, now, ration, answers, refusals = HostBackoff(Fixed()), 0.0, 60 * per_second, 0, 0
    while now < 6 * 3600:
        if host.can_send(now) and ration >= 1:
            ration -= 1
            answers += 1
            host.on_success()
        elif host.can_send(now):
            refusals += 1
            host.on_rate_limited(now)
        ration = min(60 * per_second, ration + 0.05 * per_second)
        now += 0.05
    assert answers > 0.4 * per_second * now
    assert refusals < now / 4


def test_host_that_gives_little_between_refusals_is_paused_ever_longer() -> None:
    host, now = HostBackoff(Fixed()), 0.0
    for _ in range(12):
        host.on_rate_limited(now)
        now += wait_of(host, now)
        for _ in range(ENOUGH_ANSWERS - 1):
            host.on_success()
    host.on_rate_limited(now)
    assert wait_of(host, now) == MAX_BACKOFF_S


@pytest.mark.parametrize("seed", seeds(2))
def test_jitter_spreads_the_waits_by_a_quarter_at_most(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    waits = []
    for _ in range(200):
        host = HostBackoff(rng)
        host.on_rate_limited(50.0)
        waits.append(wait_of(host, 50.0))
    assert 0.75 <= min(waits) < 0.85
    assert 1.15 < max(waits) <= 1.25
