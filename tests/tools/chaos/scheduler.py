"""When which fault begins and ends: first each alone, then mixed, by the seed."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.fakes.net import pause
from tests.tools.chaos.faults import Fault, Play
from tests.tools.chaos.harness import ChaosHarness
from tests.tools.chaos.invariants import DepthSample
from tests.tools.chaos.report import Injected

ALONE_SHARE = 0.5
"""The part of the time in which faults come one by one."""
MOST_AT_ONCE = 3
_GAP_S = (0.5, 3.0)
_STEP_S = 0.05
DRAINED_S = 5.0
"""Queues with no more than the events of so many seconds are drained; a live stream never leaves them empty."""


@dataclass(slots=True)
class _Running:
    fault: Fault
    play: Play
    note: Injected
    until: float


class FaultScheduler:
    """Scheduler that injects `faults` into a running service for some time."""

    def __init__(self, harness: ChaosHarness, faults: Sequence[Fault], seed: int, say: Callable[[str], None]) -> None:
        self._scene = harness
        self._faults = list(faults)
        self._rng = random.Random(f"conductor {seed}")
        self._say = say
        self._running: list[_Running] = []
        self._began = time.monotonic()
        self._deck: list[Fault] = []
        self.injected: list[Injected] = []

    @property
    def _now_s(self) -> float:
        return time.monotonic() - self._began

    def run(self, seconds: float) -> None:
        """Inject faults for so long, then end those under way."""
        self._began = time.monotonic()
        next_at = 0.0
        while self._now_s < seconds:
            self._advance()
            most = 1 if self._now_s < seconds * ALONE_SHARE else MOST_AT_ONCE
            if self._now_s >= next_at and len(self._running) < most:
                self._begin()
                next_at = self._now_s + self._rng.uniform(*_GAP_S)
            pause(_STEP_S)
        self.end_faults()

    def end_faults(self) -> None:
        """End every fault under way, each when its time comes."""
        while self._running:
            self._advance()
            pause(_STEP_S)

    def _draw(self) -> Fault | None:
        """The next kind, so that each comes about as often as its weight says; `None` if none fits now."""
        if not self._deck:
            self._deck = [fault for fault in self._faults for _ in range(self._times(fault))]
            self._rng.shuffle(self._deck)
        taken = {one.fault.subject for one in self._running}
        for index in reversed(range(len(self._deck))):
            if self._deck[index].subject not in taken:
                return self._deck.pop(index)
        self._deck.clear()
        return None

    def _times(self, fault: Fault) -> int:
        """How often it is in a deck: its weight, with what is broken of it left to chance."""
        return int(fault.weight) + (self._rng.random() < fault.weight % 1)

    def _begin(self) -> None:
        fault = self._draw()
        if fault is None:
            return
        depths = self._scene.queues.depths()
        note = Injected(fault.kind, round(self._now_s, 1), not self._running, 0 if depths is None else depths.total)
        self.injected.append(note)
        self._scene.is_alone = note.alone
        self._say(f"{self._now_s:6.1f} s  {fault.kind}")
        self._running.append(_Running(fault, fault.play(self._scene), note, time.monotonic()))
        self._advance()

    def _advance(self) -> None:
        for one in list(self._running):
            if time.monotonic() < one.until:
                continue
            try:
                one.until = time.monotonic() + next(one.play)
            except StopIteration:
                one.note.ended_s = round(self._now_s, 1)
                self._running.remove(one)

    def recoveries(self, samples: Sequence[DepthSample], rate: float) -> None:
        """Note for each fault how long after its end the queues were drained."""
        enough = rate * DRAINED_S
        for note in self.injected:
            if note.ended_s is None:
                continue
            ended = self._began + note.ended_s
            drained = (one.at for one in samples if one.at >= ended and one.depths.total <= enough)
            first = next(drained, None)
            note.recovered_after_s = None if first is None else round(first - ended, 1)
