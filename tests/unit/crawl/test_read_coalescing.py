"""When busy relays are looked at again."""

import pytest

from pipeline.crawl.reactor import FEW_MESSAGES, GATHER_ASKING_S, MANY_MESSAGES, REST, STEPS_S, ReadCoalescer

SHORTEST, LONGEST = STEPS_S[0], STEPS_S[-1]
BEGIN = 1_000 * LONGEST
BUSY = [1] * (FEW_MESSAGES + 1)
SLOW_S = LONGEST
"""A look that takes so long."""


def looks(
    gathering: ReadCoalescer, now: float, messages: list[int], took_s: float = 0.0, *, is_asking: bool = False
) -> float:
    return gathering.next_read_at(now, messages, took_s, is_asking=is_asking)


def slowed(took_s: float = SLOW_S) -> ReadCoalescer:
    """One that knows that looks take so long."""
    gathering = ReadCoalescer()
    for _ in range(100):
        looks(gathering, 0.0, [0], took_s)
    return gathering


def test_what_comes_now_and_then_is_looked_at_at_once() -> None:
    gathering = slowed()
    for number in range(100):
        now = BEGIN + number * 1.2 * LONGEST / FEW_MESSAGES
        assert looks(gathering, now, [1]) == now


def test_what_busy_relays_send_is_looked_at_at_common_times() -> None:
    """However far apart two processes begin to look."""
    ends = {looks(ReadCoalescer(), BEGIN + share * SHORTEST, BUSY) for share in (0.1, 0.5, 0.9)}
    assert len(ends) == 1
    assert ends.pop() == pytest.approx(BEGIN + SHORTEST)


def test_once_busy_even_the_first_messages_wait_until_it_is_quiet_again() -> None:
    gathering = ReadCoalescer()
    looks(gathering, BEGIN, BUSY)
    assert looks(gathering, BEGIN + 1.1 * LONGEST, [1]) == pytest.approx(BEGIN + LONGEST + SHORTEST)
    assert looks(gathering, BEGIN + 2.1 * LONGEST, [1]) == BEGIN + 2.1 * LONGEST
    looks(gathering, BEGIN + 3.1 * LONGEST, BUSY)
    later = BEGIN + 10.1 * LONGEST
    assert looks(gathering, later, [1]) == later


def test_a_relay_that_has_more_is_not_kept_waiting() -> None:
    assert looks(slowed(), BEGIN, [*BUSY, MANY_MESSAGES], SLOW_S) == BEGIN


def test_the_longer_looks_take_the_longer_it_gathers() -> None:
    begin = BEGIN + 0.1 * SHORTEST
    for before, step_s in zip((0.0, *STEPS_S), STEPS_S, strict=False):
        assert looks(slowed(1.01 * before / REST), begin, BUSY, 1.01 * before / REST) == pytest.approx(BEGIN + step_s)
    assert looks(slowed(), begin, BUSY, SLOW_S) == pytest.approx(BEGIN + LONGEST), "and no longer"


def test_one_look_that_took_long_says_little() -> None:
    gathering = slowed(0.001)
    assert looks(gathering, BEGIN + 0.001, BUSY, SHORTEST) == pytest.approx(BEGIN + SHORTEST)


def test_it_recovers_when_looks_are_short_again() -> None:
    gathering = slowed()
    for _ in range(100):
        looks(gathering, 0.0, [0], 0.0)
    assert looks(gathering, BEGIN + 0.001, BUSY) == pytest.approx(BEGIN + SHORTEST)


def test_crawlers_with_less_to_read_look_when_the_busy_ones_do_too() -> None:
    """Each step is a multiple of the shorter ones."""
    now = BEGIN + LONGEST - 0.1 * SHORTEST
    ends = {round(looks(slowed(took_s), now, BUSY, took_s), 6) for took_s in (0.0, 0.6 * LONGEST / REST, SLOW_S)}
    assert ends == {round(BEGIN + LONGEST, 6)}


def test_an_answer_that_is_owed_is_looked_for_sooner() -> None:
    assert looks(slowed(), BEGIN, BUSY, SLOW_S, is_asking=True) == pytest.approx(BEGIN + GATHER_ASKING_S)
    near = BEGIN + LONGEST - GATHER_ASKING_S / 2
    assert looks(slowed(), near, BUSY, SLOW_S, is_asking=True) == pytest.approx(BEGIN + LONGEST)
