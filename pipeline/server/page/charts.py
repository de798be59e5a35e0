"""The last hour as lines: from samples to the paths of small vector images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pipeline.store.throughput import KEPT_MS, Sample

WIDTH: Final = 600
HEIGHT: Final = 120
# Two samples further apart than this have a time between them in which nothing was noted.
_MAX_GAP_MS: Final = 45_000
# The shortest that holds every sample is shown: a service that began a minute ago has no hour to show.
_SPANS: Final = ((300_000, "5 min ago"), (900_000, "15 min ago"), (KEPT_MS, "an hour ago"))
_STEPS: Final = (1.0, 2.0, 5.0)

Point = tuple[int, float | None]
"""A time (ms) and a value, `None` where there is none."""


@dataclass(frozen=True, slots=True)
class Line:
    """A series in a plot: its name, its newest value as text (empty: none), and its SVG path."""

    name: str
    latest: str
    path: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A small image of `WIDTH` by `HEIGHT`; `ticks` are what its upper edge, middle and lower edge stand for.

    `unit` is that of the ticks where they do not name it, `since` what its left edge stands for.
    """

    title: str
    unit: str
    ticks: tuple[str, str, str]
    since: str
    lines: tuple[Line, ...]


def plots(samples: Sequence[Sample], now: int) -> tuple[Plot, ...]:
    """Throughput, latency and pending events, up to `now` (ms), over an hour at most."""
    rates = {"arrived": _rates(samples, lambda each: each.arrived), "delivered": _rates(samples, _delivered)}
    delays: dict[str, list[Point]] = {
        "median": [(each.at, each.median) for each in samples],
        "99th percentile": [(each.at, each.slowest) for each in samples],
    }
    waiting: dict[str, list[Point]] = {"pending": [(each.at, float(each.waiting)) for each in samples]}
    return (
        _plot("Events per second", "events/s", rates, now, _number),
        _plot("From first seen to delivered", "time", delays, now, milliseconds),
        _plot("Pending events", "events", waiting, now, _number),
    )


def _delivered(sample: Sample) -> int:
    return sample.handed_on


def _rates(samples: Sequence[Sample], count: Callable[[Sample], int]) -> list[Point]:
    """Return the growth of a count per second; none over a gap, or where a dead row put back makes it fall."""
    points: list[Point] = []
    for before, after in pairwise(samples):
        took, grown = after.at - before.at, count(after) - count(before)
        points.append((after.at, grown * 1000 / took if 0 < took <= _MAX_GAP_MS and grown >= 0 else None))
    return points


def _plot(title: str, unit: str, series: dict[str, list[Point]], now: int, text: Callable[[float], str]) -> Plot:
    values = [value for points in series.values() for _, value in points if value is not None]
    top = _round_up(max(values, default=0.0))
    age = now - min((at for points in series.values() for at, _ in points), default=now)
    span, since = next((each for each in _SPANS if age <= each[0]), _SPANS[-1])
    lines = tuple(
        Line(name, _latest(points, text), " ".join(_path(points, now, top, span))) for name, points in series.items()
    )
    return Plot(title, unit, (text(top), text(top / 2), text(0.0)), since, lines)


def _latest(points: Sequence[Point], text: Callable[[float], str]) -> str:
    value = points[-1][1] if points else None
    return "" if value is None else text(value)


def _path(points: Iterable[Point], now: int, top: float, span: int) -> Iterable[str]:
    last_at: int | None = None
    for at, value in points:
        if value is None:
            last_at = None
            continue
        x = WIDTH * (1 - (now - at) / span)
        y = HEIGHT * (1 - value / top)
        joins = last_at is not None and at - last_at <= _MAX_GAP_MS
        yield f"{'L' if joins else 'M'}{x:.1f} {y:.1f}"
        last_at = at


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, 50 …"""
    scale = 1.0
    while True:
        for step in _STEPS:
            if value <= step * scale:
                return step * scale
        scale *= 10


def _number(value: float) -> str:
    return f"{value:,.1f}" if 0 < value < 10 and value != int(value) else f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """Return a duration in the unit that shows it best."""
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 60_000 else f"{value / 60_000:.0f} min"
