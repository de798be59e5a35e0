"""From samples to lines."""

import re

import pytest

from pipeline.server.page.charts import HEIGHT, WIDTH, Plot, plots
from pipeline.store.throughput import KEPT_MS, Sample

NOW = 1_700_000_000_000


def sample(
    seconds_ago: int, arrived: int = 0, handed_on: int = 0, waiting: int = 0, median: int | None = None
) -> Sample:
    return Sample(NOW - seconds_ago * 1000, arrived, handed_on, waiting, median, median)


def points(plot: Plot, line: int = 0) -> list[tuple[str, float, float]]:
    found = re.findall(r"([ML])(-?[\d.]+) (-?[\d.]+)", plot.lines[line].path)
    return [(kind, float(x), float(y)) for kind, x, y in found]


def test_rates_are_per_second_and_reach_from_then_till_now() -> None:
    rates, _, _ = plots([sample(20, 100), sample(10, 150), sample(0, 250, handed_on=5)], NOW)
    assert rates.ticks == ("10", "5", "0")
    assert [line.latest for line in rates.lines] == ["10", "0.5"]
    assert points(rates) == [
        ("M", pytest.approx(WIDTH * (1 - 10_000 / 300_000), abs=0.1), HEIGHT / 2), ("L", WIDTH, 0.0),
    ]  # fmt: skip


def test_a_gap_is_no_line_and_a_count_that_falls_no_rate() -> None:
    rates, _, waiting = plots([sample(300, 10), sample(290, 20), sample(100, 30), sample(90, 25), sample(80, 35)], NOW)
    assert [kind for kind, _, _ in points(rates)] == ["M", "M"]
    assert [kind for kind, _, _ in points(waiting)] == ["M", "L", "M", "L", "L"]


def test_delays_are_told_in_words_and_left_out_where_nothing_was_delivered() -> None:
    _, delays, _ = plots([sample(30, median=900), sample(20), sample(10, median=90_000)], NOW)
    assert delays.ticks[0] == "2 min"
    assert delays.lines[0].latest == "2 min"
    assert len(points(delays)) == 2
    _, delays, _ = plots([sample(30, median=900), sample(20)], NOW)
    assert delays.lines[0].latest == ""


def test_nothing_noted_yet_is_an_empty_plot() -> None:
    assert [[line.path for line in plot.lines] for plot in plots([], NOW)] == [["", ""], ["", ""], [""]]


@pytest.mark.parametrize(("seconds", "since"), [(0, "5 min ago"), (301, "15 min ago"), (3000, "an hour ago")])
def test_the_plot_begins_where_there_is_something_to_show(seconds: int, since: str) -> None:
    _, _, waiting = plots([sample(seconds), sample(0)], NOW)
    assert waiting.since == since
    assert all(0 <= x <= WIDTH for _, x, _ in points(waiting))


def test_what_is_older_than_an_hour_is_still_drawn_in_its_place() -> None:
    _, _, waiting = plots([Sample(NOW - KEPT_MS - 1000, 0, 0, 1, None, None), sample(0)], NOW)
    assert waiting.since == "an hour ago"
