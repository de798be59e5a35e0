"""The rate of events, as a moving average."""

import pytest

from pipeline.process.event_rate import EventRate


@pytest.mark.parametrize("per_s", [5, 50, 500])
def test_rate_that_lasts_is_found(per_s: int) -> None:
    rate = EventRate()
    for number in range(5 * per_s):
        rate.note(number / per_s, 1)
    assert rate.per_s(5.0) == pytest.approx(per_s, rel=0.3)


def test_batches_count_as_their_events() -> None:
    rate = EventRate()
    for number in range(100):
        rate.note(number * 0.1, 20)
    assert rate.per_s(9.95) == pytest.approx(200, rel=0.2)


def test_rate_is_forgotten_when_nothing_comes() -> None:
    rate = EventRate()
    rate.note(0.0, 1_000)
    assert rate.per_s(0.0) > 500
    assert rate.per_s(10.0) < 1


def test_no_events_have_no_rate() -> None:
    assert EventRate().per_s(10.0) == 0
