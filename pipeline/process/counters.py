"""Single series out of the metrics files, for who needs a few of them and not a whole rendering.

The files hold one text per series; only those of the names asked for are taken apart, so that a thousand relays' series
cost a few milliseconds and not a tenth of a second.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

from pipeline.process.slots import metrics_directory


@dataclass(frozen=True, slots=True)
class Counted:
    """One series of one process; `at` is when a gauge of the kind `livemostrecent` was set (Unix seconds), else 0."""

    name: str
    labels: Mapping[str, str]
    value: float
    at: float = 0.0


def read_counters(runtime_directory: Path, names: Collection[str]) -> list[Counted]:
    """Counters with these names (with `_total`) of all processes that ever ran there, each process's for itself."""
    return _read(runtime_directory, "counter_*.db", names)


def read_newest(runtime_directory: Path, name: str, label: str) -> dict[str, float]:
    """By the values of `label`, what a gauge of the kind `livemostrecent` was last set to, by whichever process."""
    found = sorted(_read(runtime_directory, "gauge_livemostrecent_*.db", (name,)), key=lambda each: each.at)
    return {each.labels[label]: each.value for each in found}


def _read(runtime_directory: Path, pattern: str, names: Collection[str]) -> list[Counted]:
    marks = [f'"{name}"' for name in names]
    found = []
    for path in sorted(metrics_directory(runtime_directory).glob(pattern)):
        for key, value, at in _values(path):
            if any(mark in key for mark in marks):
                _, name, labels, _ = json.loads(key)
                found.append(Counted(name, labels, value, at))
    return found


def _values(path: Path) -> Iterator[tuple[str, float, float]]:
    try:
        if path.stat().st_size == 0:
            return  # made this instant
        read: Any = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return
    for key, value, at, _ in read:
        yield key, value, at
