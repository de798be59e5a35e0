"""Attacks, each on a service of its own or one after another on one."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.tools.siege import crowding, floods, registering, web
from tests.tools.siege.attacks import ATTACKS, Attack
from tests.tools.siege.siege import Outcome, Siege

MODULES = (crowding, floods, registering, web)
"""Imported for the attacks that they enter."""


def alone(attack: Attack, seed: int, relays: int, seconds: float, keep: Path | None = None) -> Outcome:
    """Play one attack on a service that has seen no other."""
    with tempfile.TemporaryDirectory(prefix="event-service-siege-") as scratch:
        directory = (keep or Path(scratch)) / attack.name
        directory.mkdir(parents=True, exist_ok=True)
        with Siege.started(seed, relays, directory, attack.settings) as siege:
            siege.take_precedence()
            siege.world.start_publishing()
            return siege.play(attack, seconds)


def together(attacks: Sequence[Attack], seed: int, relays: int, seconds: float, directory: Path) -> list[Outcome]:
    """Play attacks one after another, in short, on one service."""
    extra: dict[str, str] = {}
    for attack in attacks:
        extra |= attack.settings
    with Siege.started(seed, relays, directory, extra) as siege:
        siege.is_short = True
        siege.world.start_publishing()
        return [siege.play(attack, seconds) for attack in attacks]


__all__ = ["ATTACKS", "alone", "together"]
