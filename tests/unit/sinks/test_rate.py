"""No minute holds more than the bound."""

import random

from pipeline.sinks.rate import RateBound


def test_without_a_bound_nothing_waits() -> None:
    bound = RateBound(0)
    for _ in range(1000):
        assert bound.wait_s(5.0) == 0.0
        bound.note(5.0)


def test_the_bound_holds_in_any_minute() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    bound, now, done = RateBound(10), 0.0, []
    for _ in range(500):
        now += rng.expovariate(1.0)
        now += bound.wait_s(now)
        assert bound.wait_s(now) == 0.0
        bound.note(now)
        done.append(now)
    assert all(later - earlier >= 60.0 - 1e-6 for earlier, later in zip(done, done[10:], strict=False))


def test_nobody_waits_longer_than_needed() -> None:
    bound = RateBound(2)
    bound.note(100.0)
    bound.note(110.0)
    assert bound.wait_s(120.0) == 40.0
    assert bound.wait_s(160.0) == 0.0
