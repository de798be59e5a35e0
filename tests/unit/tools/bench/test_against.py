"""Ratios of two revisions that ran by turns."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tools.bench import against
from tests.tools.bench.against import Ratio, Values, compare, ratios, table

RATE, COST = ("service", "events"), ("service", "CPU")
UNITS = {RATE: "/s", COST: "us CPU"}


def test_ratio_is_that_of_each_round_and_its_median() -> None:
    """A machine that is half as quick in one round for both changes nothing."""
    now = [{RATE: 120.0}, {RATE: 55.0}, {RATE: 130.0}]
    before = [{RATE: 100.0}, {RATE: 50.0}, {RATE: 100.0}]
    (found,) = ratios(now, before, UNITS)
    assert found.rounds == (1.2, 1.1, 1.3)
    assert (found.median, found.now, found.before) == (1.2, 120.0, 100.0)


def test_figures_that_one_side_lacks_have_no_ratio_in_that_round() -> None:
    now: list[Values] = [{RATE: 2.0, COST: 5.0}, {RATE: 2.0}]
    before: list[Values] = [{RATE: 1.0}, {RATE: 0.0, COST: 5.0}]
    assert [(each.name, each.rounds) for each in ratios(now, before, UNITS)] == [("events", (2.0,))]


def test_table_shows_ratio_and_spread() -> None:
    text = table([Ratio("service", "events", "/s", 12_345.0, 10_000.0, (1.1, 1.3, 1.2))], "v1")
    assert "== service, against v1 ==" in text
    assert text.splitlines()[-1].split() == [
        *("events", "12,345", "10,000", "/s", "1.20", "1.10", "to", "1.30", "in", "3", "rounds")
    ]  # fmt: skip


def test_both_run_in_each_round_in_turned_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def run(parts: Sequence[str], tree: Path, file: Path, units: dict[tuple[str, str], str], *, quick: bool) -> Values:
        turns.append("other" if tree == tmp_path else "this")
        units.setdefault(RATE, "/s")
        return {RATE: 2.0 if tree == tmp_path else 3.0}

    monkeypatch.setattr(against, "_run", run)
    (found,) = compare(["service"], tmp_path, 3, tmp_path, quick=True)
    assert found.rounds == (1.5, 1.5, 1.5)
    assert turns == ["other", "this", "this", "other", "other", "this"]
