"""What a part that could not measure shows, and leaves out."""

import pytest

from tests.tools.bench.report import (
    Figure,
    Limit,
    PartReport,
    cost,
    held_against,
    per_second,
    plain_share,
    shares,
    table,
    to_value,
)

RATE = per_second("events", 9_000.0, 30_000.0)
VALID = PartReport("service", (RATE,))
DRY = PartReport("service", (RATE,), invalid="the relays ran out of events")


def test_invalid_part_says_so_above_its_figures() -> None:
    assert "INVALID: the relays ran out of events" in table(DRY).splitlines()[2]
    assert "INVALID" not in table(VALID)
    assert [each["invalid"] for each in to_value([DRY, VALID])] == ["the relays ran out of events", ""]


def test_invalid_part_stays_invalid_and_is_compared_with_nothing() -> None:
    assert held_against(DRY, 30_000.0, 20_000.0, 10_000.0).invalid == DRY.invalid
    assert shares([DRY]) == {}
    assert shares([VALID]) == {"service": {"events": 0.3}}


def test_second_yardstick_takes_the_place_of_the_first() -> None:
    """Rates are shares of Y, costs of its inverse."""
    report = PartReport("service", (RATE, cost("CPU", 100e-6, 30_000.0), Figure("rows", 5.0, "rows", Limit("most", 9))))
    held = held_against(report, 30_000.0, 15_000.0, 45_000.0)
    rate, cpu, rows = held.figures
    assert plain_share(held, rate) == pytest.approx(9_000 / 45_000)
    assert plain_share(held, cpu) == pytest.approx(100e-6 * 45_000)
    assert plain_share(held, rows) is None
    assert plain_share(report, rate) is None
    assert [each["plain_share"] for each in to_value([report])[0]["figures"]] == [None] * 3
