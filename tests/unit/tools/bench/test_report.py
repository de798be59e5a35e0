"""What a part that could not measure shows, and leaves out."""

from tests.tools.bench.report import PartReport, held_against, per_second, shares, table, to_value

RATE = per_second("events", 9_000.0, 30_000.0)
VALID = PartReport("service", (RATE,))
DRY = PartReport("service", (RATE,), invalid="the relays ran out of events")


def test_invalid_part_says_so_above_its_figures() -> None:
    assert "INVALID: the relays ran out of events" in table(DRY).splitlines()[2]
    assert "INVALID" not in table(VALID)
    assert [each["invalid"] for each in to_value([DRY, VALID])] == ["the relays ran out of events", ""]


def test_invalid_part_stays_invalid_and_is_compared_with_nothing() -> None:
    assert held_against(DRY, 30_000.0, 20_000.0).invalid == DRY.invalid
    assert shares([DRY]) == {}
    assert shares([VALID]) == {"service": {"events": 0.3}}
