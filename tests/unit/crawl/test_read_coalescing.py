"""When busy relays are looked at again."""

import pytest

from pipeline.crawl.reactor import (
    FEW_MESSAGES,
    GATHER_ASKING_S,
    GATHER_S,
    MANY_MESSAGES,
    SOME_MESSAGES,
    ReadCoalescer,
)

BEGIN = 1_000 * GATHER_S
SOME = [1] * (FEW_MESSAGES + 1)
BUSY = [1] * (SOME_MESSAGES + 1)


def looks(gathering: ReadCoalescer, now: float, messages: list[int], *, is_asking: bool = False) -> float:
    return gathering.next_read_at(now, messages, is_asking=is_asking)


def test_what_comes_now_and_then_is_looked_at_at_once() -> None:
    gathering = ReadCoalescer()
    for number in range(100):
        now = BEGIN + number * 1.2 * GATHER_S / FEW_MESSAGES
        assert looks(gathering, now, [1]) == now


def test_what_busy_relays_send_is_looked_at_at_common_times() -> None:
    """However far apart two processes begin to look."""
    ends = {looks(ReadCoalescer(), BEGIN + share * GATHER_S, BUSY) for share in (0.1, 0.5, 0.9)}
    assert len(ends) == 1
    assert ends.pop() == pytest.approx(BEGIN + GATHER_S)


def test_once_busy_even_the_first_messages_wait_until_it_is_quiet_again() -> None:
    gathering = ReadCoalescer()
    looks(gathering, BEGIN, BUSY)
    assert looks(gathering, BEGIN + 1.1 * GATHER_S, [1]) == pytest.approx(BEGIN + 2 * GATHER_S)
    assert looks(gathering, BEGIN + 2.1 * GATHER_S, [1]) == BEGIN + 2.1 * GATHER_S
    looks(gathering, BEGIN + 3.1 * GATHER_S, BUSY)
    later = BEGIN + 10.1 * GATHER_S
    assert looks(gathering, later, [1]) == later


def test_a_relay_that_has_more_is_not_kept_waiting() -> None:
    assert looks(ReadCoalescer(), BEGIN, [*BUSY, MANY_MESSAGES]) == BEGIN


def test_the_more_comes_the_longer_it_gathers() -> None:
    begin = BEGIN + 0.1 * GATHER_S
    assert looks(ReadCoalescer(), begin, SOME) == pytest.approx(BEGIN + GATHER_S / 2)
    assert looks(ReadCoalescer(), begin, BUSY) == pytest.approx(BEGIN + GATHER_S)


def test_crawlers_with_less_to_read_look_when_the_busy_ones_do_too() -> None:
    ends = {round(looks(ReadCoalescer(), BEGIN + 0.6 * GATHER_S, each) / GATHER_S, 6) for each in (SOME, BUSY)}
    assert ends == {1_001}


def test_an_answer_that_is_owed_is_looked_for_sooner() -> None:
    assert looks(ReadCoalescer(), BEGIN, BUSY, is_asking=True) == pytest.approx(BEGIN + GATHER_ASKING_S)
    near = BEGIN + GATHER_S - GATHER_ASKING_S / 2
    assert looks(ReadCoalescer(), near, BUSY, is_asking=True) == pytest.approx(BEGIN + GATHER_S)
