import random

import pytest

from pipeline.process.backoff import Backoff
from tests.support.seeds import told_seed


def test_relay_dials_wait_5_25_125_625_then_1800_seconds() -> None:
    backoff = Backoff(base_s=5, factor=5, cap_s=1800)
    rng = random.Random(1)
    assert [backoff.delay_s(failures, rng) for failures in range(7)] == [0, 5, 25, 125, 625, 1800, 1800]


def test_any_number_of_failures_gives_the_cap() -> None:
    assert Backoff(base_s=1, factor=10, cap_s=60).delay_s(10**9, random.Random(1)) == 60


@pytest.mark.parametrize("jitter", [0.25, 1.0])
def test_jitter_takes_away_at_most_its_share(jitter: float) -> None:
    rng = random.Random(told_seed())
    backoff = Backoff(base_s=2, factor=2, cap_s=100, jitter=jitter)
    delays = [backoff.delay_s(3, rng) for _ in range(2000)]
    assert min(delays) >= 8 * (1 - jitter)
    assert max(delays) <= 8
    assert max(delays) - min(delays) > 8 * jitter * 0.9
