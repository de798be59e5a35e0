"""One problem or note for the operator, and the words that several share."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.settings.values import format_duration

MAX_NAMED: Final = 3
"""Names in one text; the others are counted."""


class Severity(StrEnum):
    """How much a diagnosis matters."""

    PROBLEM = "problem"
    """Something stands still, or events are dead letters."""
    NOTE = "note"
    """The service copes; what others do makes it incomplete or late."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One problem or note: where, what and since when, and what an operator can do (empty: nothing is needed).

    `event`: the id, in hexadecimal, of the event that it is about, where it is about one.
    """

    severity: Severity
    subject: str
    what: str
    advice: str = ""
    event: str = ""


def some_of(names: Sequence[str]) -> str:
    """Return the first `MAX_NAMED` names, and how many more there are."""
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def rough_duration(milliseconds: int) -> str:
    """Return a duration in the largest unit that fits, as 3h or 12s."""
    for unit in (86_400_000, 3_600_000, 60_000, 1_000):
        if milliseconds >= unit:
            return format_duration(milliseconds // unit * unit)
    return "0s"
