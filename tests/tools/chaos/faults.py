"""What can go wrong, each as a generator: it breaks something, yields for how long (seconds), and puts it right again.

A fault may yield several times. `FAULTS` names them all; two that touch one `subject` never run at the same time.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from tests.tools.chaos.harness import ChaosHarness

Play = Generator[float, None, None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. `subject`: what it breaks; `weight`: how often it is chosen beside the others.

    `least_minutes`: only for runs of so many, since it lasts, or what it leaves takes long to heal.
    """

    kind: str
    subject: str
    play: Callable[[ChaosHarness], Play]
    weight: float = 1.0
    least_minutes: float = 0.0


FAULTS: dict[str, Fault] = {}


def fault(
    kind: str, subject: str, *, weight: float = 1.0, least_minutes: float = 0.0
) -> Callable[[Callable[[ChaosHarness], Play]], Callable[[ChaosHarness], Play]]:
    """Enter a generator into `FAULTS`."""

    def enter(play: Callable[[ChaosHarness], Play]) -> Callable[[ChaosHarness], Play]:
        assert kind not in FAULTS, kind
        FAULTS[kind] = Fault(kind, subject, play, weight, least_minutes)
        return play

    return enter
