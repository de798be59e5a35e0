"""Single counters out of the metrics files, for who needs a few of them and not a whole rendering.

The files hold one text per series; only those of the names asked for are taken apart, so that a thousand relays' series
cost a few milliseconds.
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
    """One counter of one process."""

    name: str
    labels: Mapping[str, str]
    value: float


def read_counters(runtime_directory: Path, names: Collection[str]) -> list[Counted]:
    """Counters with these names (with `_total`) of all processes that ever ran there, each process's for itself."""
    marks = [f'"{name}"' for name in names]
    found = []
    for path in sorted(metrics_directory(runtime_directory).glob("counter_*.db")):
        for key, value in _values(path):
            if any(mark in key for mark in marks):
                _, name, labels, _ = json.loads(key)
                found.append(Counted(name, labels, value))
    return found


def _values(path: Path) -> Iterator[tuple[str, float]]:
    try:
        if path.stat().st_size == 0:
            return  # made this instant
        read: Any = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return
    for key, value, *_ in read:
        yield key, value
