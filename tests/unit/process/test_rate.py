"""What may be done at once and over time."""

import random

from pipeline.process.rate import OverdraftBucket, Rate, TokenBucket
from tests.support.seeds import told_seed


def taken(bucket: TokenBucket, times: int, now: float) -> int:
    return sum(bucket.take(now) for _ in range(times))


def test_a_burst_then_the_rate() -> None:
    bucket = TokenBucket(Rate(burst=5, per_minute=60), now=0.0)
    assert taken(bucket, 10, 0.0) == 5
    assert taken(bucket, 10, 0.5) == 0
    assert taken(bucket, 10, 3.0) == 3
    assert taken(bucket, 10, 3600.0) == 5


def test_over_any_time_no_more_than_burst_and_rate() -> None:
    rng = random.Random(told_seed())
    rate = Rate(burst=rng.randrange(1, 50), per_minute=rng.randrange(1, 600))
    bucket = TokenBucket(rate, now=0.0)
    now, count = 0.0, 0
    for _ in range(2000):
        now += rng.expovariate(10.0)
        count += taken(bucket, rng.randrange(4), now)
        assert count <= rate.burst + now * rate.per_minute / 60 + 1e-6


def test_budget_may_be_overdrawn_and_fills_up_to_its_burst() -> None:
    budget = OverdraftBucket(Rate(burst=10, per_minute=60), now=0.0)
    assert budget.spend(15, 0.0) == -5
    assert budget.left(5.0) == 0
    assert budget.spend(-3, 5.0) == 3
    assert budget.left(3600.0) == 10
    assert budget.spend(-3, 3600.0) == 10


def test_budget_goes_by_a_new_rate_from_then_on() -> None:
    budget = OverdraftBucket(Rate(burst=10, per_minute=60), now=0.0)
    budget.spend(20, 0.0)
    budget.set_rate(Rate(burst=4, per_minute=600), 5.0)
    assert budget.left(5.5) == 0
    assert budget.left(60.0) == 4
