"""When a stage that has ended is started again: pure decisions."""

import random
from dataclasses import dataclass

from pipeline.process.backoff import Backoff

# Quick at first, since most ends are single accidents, then never more often than about once a minute.
_BACKOFF = Backoff(base_s=0.5, factor=2.0, cap_s=60.0, jitter=0.5)


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the stage at `at_s`, as its `failures`-th failure in a row."""

    failures: int
    at_s: float


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """None at first, then exponential, jittered delays that start over after a healthy time.

    How a stage ended makes no difference: one that always returns at once, with success, is as broken as one
    that crashes. Only exit code 3 is not for this policy: the supervisor ends over it.
    """

    backoff: Backoff = _BACKOFF
    healthy_s: float = 60.0
    """A stage that was healthy for this time starts again without delay."""

    def after_exit(self, failures: int, healthy_for_s: float, now_s: float, rng: random.Random) -> Restart:
        """Return the restart after an exit at `now_s` that followed `failures` others and `healthy_for_s` of life."""
        failures = 1 if healthy_for_s >= self.healthy_s else failures + 1
        delay_s = self.backoff.delay_s(failures - 1, rng) if failures > 1 else 0.0
        return Restart(failures, now_s + delay_s)
