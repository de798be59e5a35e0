"""Variables that look like settings and are not."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.settings.schema import SETTINGS

_PREFIX: Final = "EVENTS_"
_NAMES: Final = frozenset(setting.name for setting in SETTINGS)
# Letters wrong, missing or too many, up to which a name is taken for a slip.
_MAX_SLIPS: Final = 2
# What Kubernetes puts into every container of a namespace that has a service named `events`.
_INJECTED: Final = re.compile(r"EVENTS_(PORT|SERVICE)(_.*)?")


@dataclass(frozen=True, slots=True)
class UnknownSetting:
    """A variable that is not a setting; `meant`: the setting that it looks like, if any."""

    name: str
    meant: str | None

    def __str__(self) -> str:
        return f"{self.name} is not a setting" + (f"; did you mean {self.meant}?" if self.meant else "")


def unknown_settings(names: Iterable[str]) -> list[UnknownSetting]:
    """Return the `names` that begin like a setting and are not one, in order."""
    return [
        UnknownSetting(name, _meant(name))
        for name in sorted(names)
        if name.startswith(_PREFIX) and name not in _NAMES and not _INJECTED.fullmatch(name)
    ]


def _meant(name: str) -> str | None:
    closest = min(sorted(_NAMES), key=lambda each: _distance(name, each))
    return closest if _distance(name, closest) <= _MAX_SLIPS else None


def _distance(one: str, other: str) -> int:
    """Return how many letters must be changed, added or removed to turn one into the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != wanted))
    return row[-1]
