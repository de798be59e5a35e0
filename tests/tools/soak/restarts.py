"""What is done to the service meanwhile: its processes killed, told to end and stopped, and all of it restarted."""

import os
import random
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from tests.fakes.net import pause
from tests.fakes.procs import session_members
from tests.fakes.service import EventService, StageProcess

STOP_LIMIT_S = 90.0
START_LIMIT_S = 180.0
_ORPHAN_POLLS = 600
_POLL_S = 0.1
# A stage that hangs is given half a minute; the others go on meanwhile.
WEIGHTS = (("kill", 10), ("kill all stages", 1), ("term", 5), ("hang", 2), ("restart", 2), ("kill supervisor", 1))
ANEW = frozenset({"restart", "kill supervisor"})
"""Those after which the service as a whole begins anew."""


@dataclass(slots=True)
class Restarts:
    """Does one thing after the other to `service`, by chance."""

    service: EventService
    rng: random.Random
    done: Counter[str] = field(default_factory=Counter)

    def next(self) -> str:
        """Do something; returns what, for a reader."""
        kinds, weights = zip(*WEIGHTS, strict=True)
        kind: str = self.rng.choices(kinds, weights)[0]
        self.done[kind] += 1
        match kind:
            case "kill" | "term" | "hang":
                return f"{kind} {self._one(kind)}"
            case "kill all stages":
                for one in self.service.stages():
                    self._signal(one, signal.SIGKILL)
            case "restart":
                # One that stands still cannot end by itself, and the exit code tells that it was killed.
                expected = int(any(one.process.state in "Tt" for one in self.service.stages()))
                code = self.service.stop(STOP_LIMIT_S)
                assert code == expected, f"told to end, the service ended with {code}"
                self.service.start(timeout_s=START_LIMIT_S)
            case _:
                self._kill_supervisor()
        return kind

    def _one(self, kind: str) -> str:
        stages = sorted(self.service.stages(), key=lambda one: (one.name, one.slot or 0))
        if not stages:
            return "nobody"
        victim = self.rng.choice(stages)
        self._signal(victim, {"kill": signal.SIGKILL, "term": signal.SIGTERM}.get(kind, signal.SIGSTOP))
        return f"{victim.name}-{victim.slot}"

    def _signal(self, one: StageProcess, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(one.pid, number)

    def _kill_supervisor(self) -> None:
        session = self.service.child.pid
        self.service.kill()
        for _ in range(_ORPHAN_POLLS):
            if not session_members(session):
                break
            pause(_POLL_S)
        else:
            raise AssertionError("stages outlive their supervisor")
        self.service.start(timeout_s=START_LIMIT_S)
