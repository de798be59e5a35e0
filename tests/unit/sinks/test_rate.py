"""No minute holds more than the bound."""

import random

from pipeline.sinks.rate import SlidingWindowLimiter


def test_without_a_bound_there_is_room_for_all() -> None:
    bound = SlidingWindowLimiter(lambda: 0)
    for _ in range(1000):
        assert bound.room(5.0, 100) == 100
        bound.note(5.0)


def test_the_bound_holds_in_any_minute() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    bound, now, done = SlidingWindowLimiter(lambda: 10), 0.0, list[float]()
    for _ in range(5_000):
        now += rng.expovariate(2.0)
        for _ in range(bound.room(now, rng.randrange(5))):
            bound.note(now)
            done.append(now)
    assert all(later - earlier >= 60.0 - 1e-6 for earlier, later in zip(done, done[10:], strict=False))
    assert len(done) > 300, "and is made use of"


def test_nobody_waits_longer_than_needed() -> None:
    bound = SlidingWindowLimiter(lambda: 2)
    bound.note(100.0)
    bound.note(110.0)
    assert bound.room(159.0, 5) == 0
    assert bound.room(160.0, 5) == 1
    assert bound.room(170.0, 5) == 2
    assert bound.room(170.0, 1) == 1


def test_the_bound_may_change() -> None:
    most = 3
    bound = SlidingWindowLimiter(lambda: most)
    for now in (100.0, 110.0, 120.0):
        bound.note(now)
    assert bound.room(121.0, 9) == 0
    most = 1
    assert bound.room(179.0, 9) == 0
    most = 5
    assert bound.room(121.0, 9) == 4, "what is older was forgotten when time had moved on"
    most = 0
    bound.note(130.0)
    assert bound.room(130.0, 9) == 9
    most = 1
    assert bound.room(131.0, 9) == 1


def test_what_was_done_before_counts() -> None:
    bound = SlidingWindowLimiter(lambda: 3, done=[50.0, 90.0])
    assert bound.room(100.0, 5) == 1
    assert bound.room(110.0, 5) == 2


def test_each_of_few_is_written_before_it_is_done_and_many_together() -> None:
    written: list[int] = []
    few = SlidingWindowLimiter(lambda: 600, write=written.append)
    for _ in range(5):
        few.note(1.0)
    assert written == [1] * 5
    written.clear()
    many = SlidingWindowLimiter(lambda: 601, write=written.append)
    for number in range(1000):
        now = 1.0 + number / 1000
        if many.room(now, 1):
            many.note(now)
    many.flush(2.0)
    assert sum(written) == 601
    assert len(written) <= 6


def test_without_a_bound_nothing_is_written() -> None:
    written: list[int] = []
    bound = SlidingWindowLimiter(lambda: 0, write=written.append)
    bound.note(1.0)
    bound.flush(2.0)
    assert written == []
