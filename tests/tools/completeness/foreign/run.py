"""Trials of relays, one after another or together."""

import random
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from tests.factories.events import SignedEvent
from tests.tools.completeness.foreign.clients import CLIENTS, fetch
from tests.tools.completeness.foreign.result import Result
from tests.tools.completeness.foreign.shape import Shape
from tests.tools.completeness.foreign.subject import RelayCommand, Subject
from tests.tools.completeness.foreign.trial import PHASES, Pace, Trial
from tests.tools.completeness.world import World

_MOST_HOLDERS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How relays are tried: the world, the pace, the phases, a delay of each round trip, settings of the service.

    `beside`: clients of others ask the same relays first, and what they get is no gap of the service's.
    """

    shape: Shape = field(default_factory=Shape)
    pace: Pace = field(default_factory=Pace)
    phases: Sequence[str] = PHASES
    delay_s: float = 0.0
    beside: bool = False
    settings: dict[str, str] = field(default_factory=dict)


def alone(commands: Iterable[RelayCommand], seed: int, plan: Plan, keep: Path | None = None) -> list[Result]:
    """Try each relay by itself, with the whole world in it."""
    return [result for command in commands for result in together([command], seed, plan, keep)]


def together(commands: Sequence[RelayCommand], seed: int, plan: Plan, keep: Path | None = None) -> list[Result]:
    """Try the relays as one service finds them; with more than one each event is in some of them."""
    world = plan.shape.world(seed)
    events = plan.shape.stored(world)
    with tempfile.TemporaryDirectory(prefix="event-service-foreign-") as scratch, ExitStack() as stack:
        directory = (keep or Path(scratch)) / "+".join(command.name for command in commands)
        subjects = [
            stack.enter_context(Subject(command, directory / f"relay-{command.name}", delay_s=plan.delay_s))
            for command in commands
        ]
        for subject, part in zip(subjects, _parts(events, len(subjects), random.Random(seed)), strict=True):
            began = monotonic()
            subject.load(part)
            print(
                f"{subject.name}: took {len(subject.accepted):,} of {len(part):,} in {monotonic() - began:.0f} s",
                flush=True,
            )
        results = [Result(subject.name) for subject in subjects]
        if plan.beside:
            for subject, result in zip(subjects, results, strict=True):
                _fetch_beside(subject, result, world, plan.shape)
        Trial(directory, world, plan.shape, plan.pace, subjects, plan.settings).run(plan.phases, results)
        return results


def _fetch_beside(subject: Subject, result: Result, world: World, shape: Shape) -> None:
    for client in CLIENTS:
        if client.is_installed:
            phase, got = fetch(client, subject, world, shape.reach_s, subject.folder)
            result.phases.append(phase)
            result.had_by_others |= got


def _parts(events: Sequence[SignedEvent], count: int, rng: random.Random) -> list[list[SignedEvent]]:
    """Each event in one to three of `count` parts, in the given order."""
    parts: list[list[SignedEvent]] = [[] for _ in range(count)]
    for event in events:
        for number in rng.sample(range(count), rng.randint(1, min(_MOST_HOLDERS, count))):
            parts[number].append(event)
    return parts
