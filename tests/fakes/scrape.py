"""Prometheus text format read by a few lines of our own, so that exact names and labels can be asserted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \d+)?$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a scrape."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """A whole answer of `/metrics`."""

    text: str

    def samples(self, name: str | None = None, **labels: str) -> list[Sample]:
        """The samples of this exact name (all names) that have at least these labels; raises `ValueError` on junk."""
        found = []
        for line in self.text.splitlines():
            if not line or line.startswith("#"):
                continue
            match = _SAMPLE.match(line)
            if match is None:
                raise ValueError(f"no sample: {line!r}")
            if name is not None and match[1] != name:
                continue
            sample = Sample(match[1], _labels(match[2] or ""), float(match[3]))
            if labels.items() <= sample.labels.items():
                found.append(sample)
        return found

    def value(self, name: str, **labels: str) -> float:
        """The sum over the samples of this name with at least these labels; 0 when there is none."""
        return sum(sample.value for sample in self.samples(name, **labels))

    def names(self) -> set[str]:
        """Every sample name."""
        return {sample.name for sample in self.samples()}

    def types(self) -> dict[str, str]:
        """What the TYPE lines say."""
        words = (line.split() for line in self.text.splitlines() if line.startswith("# TYPE "))
        return {name: kind for _, _, name, kind in words}


def _labels(text: str) -> dict[str, str]:
    return {name: re.sub(r"\\.", lambda m: _ESCAPES.get(m[0], m[0]), raw) for name, raw in _LABEL.findall(text)}
