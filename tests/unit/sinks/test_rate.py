"""No minute holds more than the bound."""

import random

from pipeline.sinks.rate import RateBound


def test_without_a_bound_nothing_waits() -> None:
    bound = RateBound(lambda: 0)
    for _ in range(1000):
        assert bound.wait_s(5.0) == 0.0
        bound.note(5.0)


def test_the_bound_holds_in_any_minute() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    bound, now, done = RateBound(lambda: 10), 0.0, []
    for _ in range(500):
        now += rng.expovariate(1.0)
        now += bound.wait_s(now)
        assert bound.wait_s(now) == 0.0
        bound.note(now)
        done.append(now)
    assert all(later - earlier >= 60.0 - 1e-6 for earlier, later in zip(done, done[10:], strict=False))


def test_nobody_waits_longer_than_needed() -> None:
    bound = RateBound(lambda: 2)
    bound.note(100.0)
    bound.note(110.0)
    assert bound.wait_s(120.0) == 40.0
    assert bound.wait_s(160.0) == 0.0


def test_the_bound_may_change() -> None:
    most = 3
    bound = RateBound(lambda: most)
    for now in (100.0, 110.0, 120.0):
        bound.note(now)
    assert bound.wait_s(121.0) == 39.0
    most = 1
    assert bound.wait_s(121.0) == 59.0
    most = 5
    assert bound.wait_s(121.0) == 0.0
    most = 0
    bound.note(130.0)
    assert bound.wait_s(130.0) == 0.0
    most = 1
    assert bound.wait_s(131.0) == 0.0
