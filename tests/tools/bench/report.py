"""What a part of the benchmark found, as a table for people and as JSON for comparison."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

_COLUMNS = "{:46}{:>13} {:14}{:>13}  {:>7}  {:>7}  {:>7}  {}"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure is held against, in the figure's unit, measured in the same run.

    It grows with the baseline rate (V) where `rate_power` is 1, and falls with it where that is -1.
    """

    name: str
    value: float
    rate_power: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value."""

    name: str
    value: float
    unit: str
    limit: Limit | None = None
    note: str = ""

    @property
    def share(self) -> float | None:
        """The value as a share of its limit."""
        return None if self.limit is None or not self.limit.value else self.value / self.limit.value


@dataclass(frozen=True, slots=True)
class PartReport:
    """The figures of one part; `notes` say under which conditions they were taken, `invalid` why they show nothing."""

    part: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    invalid: str = ""
    baseline_per_plain_row: float = 0.0
    """V divided by Y (`yardstick.py`), both during the part; 0 if they were not measured."""

    def value(self, name: str) -> float:
        """The value of the figure of this name."""
        return next(figure.value for figure in self.figures if figure.name == name)


def per_second(name: str, value: float, limit: float, note: str = "") -> Figure:
    """A rate, beside V."""
    return Figure(name, value, "/s", Limit("V", limit, 1), note)


def cost(name: str, seconds: float, limit: float, note: str = "") -> Figure:
    """Processor time of one item, beside that of one verification."""
    return Figure(name, seconds * 1e6, "us CPU", Limit("1/V", 1e6 / limit, -1), note)


def held_against(
    report: PartReport, baseline_rate: float, baseline_rate_during: float, plain_rate_during: float
) -> PartReport:
    """The report with the baseline rate during the part for its limits, which were made with `baseline_rate`.

    `plain_rate_during` is Y during the part, the second yardstick.
    """
    slowed = baseline_rate_during / baseline_rate
    note = (
        f"V was {baseline_rate_during:,.0f}/s during it, {slowed:.2f} of this run's best, {baseline_rate:,.0f}/s;"
        f" Y was {plain_rate_during:,.0f}/s"
    )
    figures = tuple(
        figure
        if figure.limit is None
        else replace(figure, limit=replace(figure.limit, value=figure.limit.value * slowed**figure.limit.rate_power))
        for figure in report.figures
    )
    ratio = baseline_rate_during / plain_rate_during
    return replace(report, figures=figures, notes=(*report.notes, note), baseline_per_plain_row=ratio)


def table(report: PartReport, released: Mapping[str, float] | None = None) -> str:
    """The report as lines of text; `released` are the shares that the last release had, by the figures' names."""
    verdict = [f"INVALID: {report.invalid}"] if report.invalid else []
    lines = [
        f"\n== {report.part} ==",
        *verdict,
        _COLUMNS.format("", "", "", "limit", "share", "of Y", "release", "").rstrip(),
    ]
    for figure in report.figures:
        limit = "" if figure.limit is None else f"{figure.limit.name}={_number(figure.limit.value)}"
        share = "" if figure.share is None else f"{figure.share:.2f}"
        plain = "" if (of_plain := plain_share(report, figure)) is None else f"{of_plain:.2f}"
        before = f"{released[figure.name]:.2f}" if released and figure.name in released else ""
        line = _COLUMNS.format(
            figure.name, _number(figure.value), figure.unit, limit, share, plain, before, figure.note
        )
        lines.append(line.rstrip())
    return "\n".join([*lines, *(f"   {note}" for note in report.notes)])


def plain_share(report: PartReport, figure: Figure) -> float | None:
    """The figure as a share of what Y makes of its limit, where V makes the limit and both were measured."""
    if figure.share is None or figure.limit is None or not figure.limit.rate_power or not report.baseline_per_plain_row:
        return None
    return float(figure.share * report.baseline_per_plain_row**figure.limit.rate_power)


def shares(reports: Iterable[PartReport]) -> dict[str, dict[str, float]]:
    """By part and figure, what may be compared between machines: figures of valid parts as shares of their limits."""
    return {
        report.part: {figure.name: round(figure.share, 3) for figure in report.figures if figure.share is not None}
        for report in reports
        if not report.invalid
    }


def to_value(reports: Iterable[PartReport]) -> list[dict[str, Any]]:
    """The reports as a JSON value."""
    return [
        {
            "part": report.part,
            "figures": [
                asdict(figure) | {"share": figure.share, "plain_share": plain_share(report, figure)}
                for figure in report.figures
            ],
            "notes": list(report.notes),
            "invalid": report.invalid,
        }
        for report in reports
    ]


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
