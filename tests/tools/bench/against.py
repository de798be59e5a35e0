"""`bin/bench --against REVISION`: the same parts with the product of another revision, by turns, and their ratio.

The other product is taken from git; loads, sinks and measuring are those of this tree for both. A machine that is
quick now and slow later says nothing of either by one run. So both run in each round, in turned order, and the ratio
of a round is counted; the median of the rounds is the result, and the lowest and highest of them its spread.
"""

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.child import ROOT

PACKAGES = ("pipeline", "stages")
_COLUMNS = "{:46}{:>13}{:>13} {:14}{:>7}  {}"

# Of what a failed run says.
_MOST_TOLD = 2_000

Values = Mapping[tuple[str, str], float]
"""Figures of one run, by part and name."""


class NoSuchRevision(Exception):
    """Git does not have the revision, or this is not a checkout."""


class RunFailed(Exception):
    """A run ended without figures."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of this tree divided by that of the other revision."""

    part: str
    name: str
    unit: str
    now: float
    before: float
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)


def lay_out(revision: str, path: Path) -> None:
    """Put the packages of the product as of `revision` into `path`, with the tests of this tree beside them."""
    try:
        made = subprocess.run(["git", "archive", revision, *PACKAGES], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise NoSuchRevision("git is not installed") from error
    if made.returncode:
        raise NoSuchRevision(made.stderr.decode().strip())
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(path, filter="data")
    shutil.copytree(ROOT / "tests", path / "tests", ignore=shutil.ignore_patterns("__pycache__"))


def compare(parts: Sequence[str], other: Path, rounds: int, directory: Path, *, quick: bool) -> list[Ratio]:
    """Run `parts` in this tree and in `other`, by turns."""
    units: dict[tuple[str, str], str] = {}
    now: list[Values] = []
    before: list[Values] = []
    for number in range(rounds):
        turns = [(ROOT, now), (other, before)]
        for tree, runs in turns if number % 2 else reversed(turns):
            print(f"round {number + 1} of {rounds}: {'this tree' if tree is ROOT else 'the other'} …", flush=True)
            runs.append(_run(parts, tree, directory / "figures.json", units, quick=quick))
    return ratios(now, before, units)


def ratios(now: Sequence[Values], before: Sequence[Values], units: Mapping[tuple[str, str], str]) -> list[Ratio]:
    """Pair the runs by round; figures that a round lacks on one side, or that are 0 there, have no ratio in it."""
    found = []
    for (part, name), unit in units.items():
        pairs = [(a.get((part, name), 0.0), b.get((part, name), 0.0)) for a, b in zip(now, before, strict=True)]
        pairs = [(a, b) for a, b in pairs if a and b]
        if pairs:
            ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
            found.append(Ratio(part, name, unit, ours, theirs, tuple(a / b for a, b in pairs)))
    return found


def table(found: Sequence[Ratio], revision: str) -> str:
    """The ratios as lines of text."""
    lines: list[str] = []
    part = ""
    for each in found:
        if each.part != part:
            part = each.part
            lines += [
                f"\n== {part}, against {revision} ==",
                _COLUMNS.format("", "now", "before", "", "ratio", "spread"),
            ]
        spread = f"{min(each.rounds):.2f} to {max(each.rounds):.2f} in {len(each.rounds)} rounds"
        numbers = (_number(each.now), _number(each.before))
        lines.append(_COLUMNS.format(each.name, *numbers, each.unit, f"{each.median:.2f}", spread))
    return "\n".join(lines)


def _run(parts: Sequence[str], tree: Path, file: Path, units: dict[tuple[str, str], str], *, quick: bool) -> Values:
    command = [sys.executable, "-m", "tests.tools.bench", *parts, "--json", str(file), *(["--quick"] if quick else [])]
    done = subprocess.run(
        command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    if not file.exists():
        raise RunFailed(f"the run in {tree} ended with {done.returncode}:\n{done.stderr[-_MOST_TOLD:]}")
    reports = json.loads(file.read_text())["parts"]
    file.unlink()
    values: dict[tuple[str, str], float] = {}
    for report in reports:
        if report["invalid"]:
            print(f"   {report['part']} is invalid: {report['invalid']}", flush=True)
            continue
        for figure in report["figures"]:
            key = report["part"], figure["name"]
            values[key] = figure["value"]
            units.setdefault(key, figure["unit"])
    return values


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
