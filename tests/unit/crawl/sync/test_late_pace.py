"""The pace of a crowd's past, by how busy the thread is."""

import pytest

from pipeline.crawl.sync.late_pace import BUSY, CALM, LEAST_S, LOOK_EVERY_S, MOST_S, LatePace

ROUND_S = LOOK_EVERY_S / 5


def work(pace: LatePace, share: float, since: float, seconds: float) -> float:
    """Let the thread be busy for a share of some seconds; returns when they are over."""
    rounds = round(seconds / ROUND_S)
    for number in range(1, rounds + 1):
        pace.note(share * ROUND_S, since + number * ROUND_S)
    return since + rounds * ROUND_S


def test_calm_thread_asks_as_fast_as_may_be() -> None:
    pace = LatePace()
    work(pace, CALM / 2, 1_000.0, 60)
    assert pace.every_s == LEAST_S


def test_busy_thread_slows_down_to_a_bound_and_comes_back() -> None:
    pace = LatePace()
    now = work(pace, 0.9, 1_000.0, 5)
    slowed = pace.every_s
    assert slowed > 3 * LEAST_S
    now = work(pace, 1.0, now, 60)
    assert pace.every_s == MOST_S
    now = work(pace, CALM / 2, now, 5)
    assert pace.every_s < MOST_S / 5
    work(pace, 0.0, now, 60)
    assert pace.every_s == LEAST_S


@pytest.mark.parametrize("share", [CALM + 0.01, BUSY - 0.01])
def test_between_the_two_shares_the_pace_stays(share: float) -> None:
    pace = LatePace()
    now = work(pace, 1.0, 1_000.0, 3)
    work(pace, share, now, LOOK_EVERY_S)
    before = pace.every_s
    work(pace, share, now + LOOK_EVERY_S, 20)
    assert pace.every_s == before > LEAST_S
