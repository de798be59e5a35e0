"""What came of a trial, for a reader and as values."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

_MISSING_SHOWN = 3
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What a phase took: bytes on the wire as the service saw them, its messages by type, and CPU seconds.

    CPU is that of the whole trial: relays that are tried together share it.
    """

    sent: int
    received: int
    messages: Mapping[str, int]
    crawler_cpu_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Missing:
    """An event that was due and did not come.

    `is_told`: an open gap of the service at that relay spans its date, and no other client got it.
    """

    id: str
    kind: int
    created_at: int
    why: str
    is_told: bool


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase at one relay. `gaps` counts the open ones by reason; `note`: what else there is to say."""

    name: str
    due: int
    missing: Sequence[Missing]
    gaps: Mapping[str, int]
    seconds: float
    cost: Cost
    note: str = ""

    @property
    def got(self) -> int:
        """How many of those due came."""
        return self.due - len(self.missing)

    @property
    def untold(self) -> Sequence[Missing]:
        """What is missing outside of every gap that the service reports."""
        return [each for each in self.missing if not each.is_told]


@dataclass(slots=True)
class Result:
    """One relay through all phases.

    `refused`: how often it said what of events that it did not take. `hidden`: relevant events that it took and gives
    to nobody who asks by id. `crashes`: how often it ended by itself. `had_by_others`: ids that another client got.
    `failure`: why the trial was not played to its end.
    """

    name: str
    phases: list[Phase] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    hidden: int = 0
    crashes: int = 0
    had_by_others: set[str] = field(default_factory=set)
    failure: str = ""

    @property
    def is_good(self) -> bool:
        """Whether everything came, or the service says that it did not."""
        return not self.failure and not any(phase.untold for phase in self.phases)


def as_value(result: Result) -> dict[str, object]:
    """Everything but the ids that others got, for JSON."""
    return {name: value for name, value in asdict(result).items() if name != "had_by_others"}


def table(results: Sequence[Result]) -> str:
    """All phases for a reader."""
    width = max([len(result.name) for result in results], default=0)
    lines = [
        f"{'relay':<{width}} {'phase':<14} {'due':>6} {'got':>6} {'recall':>7} {'untold':>6} {'s':>6} "
        f"{'REQs':>5} {'NEG':>4} {'MB in':>6} {'MB out':>6} {'CPU s':>6} {'crawler':>7}  open gaps"
    ]
    for result in results:
        lines += [_line(result.name, width, phase) for phase in result.phases]
        if result.failure:
            lines.append(f"{result.name}: not played to its end: {result.failure}")
        if result.crashes:
            lines.append(f"    ended by itself {result.crashes} times and was started again")
        if result.hidden:
            lines.append(f"    taken and not given by id: {result.hidden} relevant events")
        lines += [
            f"    refused {count}: {reason}" for reason, count in Counter(result.refused).most_common(_MISSING_SHOWN)
        ]
    return "\n".join(lines)


def _line(name: str, width: int, phase: Phase) -> str:
    cost = phase.cost
    gaps = ", ".join(f"{reason} {count}" for reason, count in phase.gaps.items()) or "-"
    recall = phase.got / phase.due if phase.due else 1.0
    line = (
        f"{name:<{width}} {phase.name:<14} {phase.due:>6} {phase.got:>6} {recall:>7.4f} {len(phase.untold) or '-':>6} "
        f"{phase.seconds:>6.1f} "
        f"{cost.messages.get('REQ', 0):>5} {cost.messages.get('NEG-MSG', 0) + cost.messages.get('NEG-OPEN', 0):>4} "
        f"{cost.received / _MEGABYTE:>6.2f} {cost.sent / _MEGABYTE:>6.2f} {cost.cpu_s:>6.1f} {cost.crawler_cpu_s:>7.1f}"
        f"  {gaps}{'; ' if phase.note else ''}{phase.note}"
    )
    return "\n".join([line, *(_missing(each) for each in phase.untold[:_MISSING_SHOWN])])


def _missing(event: Missing) -> str:
    return f"    untold: kind {event.kind}, {event.why}, of {event.created_at}: {event.id}"
