"""The orderly end of all stages: group by group, each within its share of the time."""

import signal
from collections.abc import Sequence
from itertools import groupby

from pipeline.process.child import KILL_GRACE_S, Child
from pipeline.process.logs import get_logger

_log = get_logger("supervisor")


class Drain:
    """Ends the children in the order of their `drain_order`; the supervisor reaps them and calls `step` in between.

    A group gets an equal share of what is left of the time; one that ends early leaves its rest to the later ones.
    """

    def __init__(self, children: Sequence[Child], now_s: float, timeout_s: float) -> None:
        ordered = sorted(children, key=lambda child: child.drain_order)
        self._groups = [list(group) for _, group in groupby(ordered, key=lambda child: child.drain_order)]
        self._end_s = now_s + timeout_s
        self._asked = False
        self._killed = False
        self._deadline_s = now_s
        self.clean = True
        """Whether every process has ended by itself so far."""

    @property
    def deadline_s(self) -> float:
        """When `step` must be called at the latest."""
        return self._deadline_s

    def step(self, now_s: float) -> bool:
        """Do what is due at `now_s`; return True if all groups have ended."""
        while self._groups:
            running = [child for child in self._groups[0] if child.running]
            if not running:
                self._next_group()
            elif not self._asked:
                self._ask(running, now_s)
                return False
            elif now_s < self._deadline_s:
                return False
            elif not self._killed:
                self._kill(running, now_s)
                return False
            else:
                _log.error("killed stages do not end", stages=_names(running))
                self._next_group()
        return True

    def kill_all(self, now_s: float) -> None:
        """Stop waiting for order: kill every process that still runs."""
        self._groups = [[child for group in self._groups for child in group]]
        self._kill([child for child in self._groups[0] if child.running], now_s)
        self._asked = True

    def _ask(self, running: Sequence[Child], now_s: float) -> None:
        self._asked = True
        self._deadline_s = now_s + max(0.0, self._end_s - now_s) / len(self._groups)
        _log.info("stopping stages", stages=_names(running), within_s=round(self._deadline_s - now_s, 1))
        for child in running:
            child.send(signal.SIGTERM)

    def _kill(self, running: Sequence[Child], now_s: float) -> None:
        self._killed = True
        self.clean = False
        self._deadline_s = now_s + KILL_GRACE_S
        if running:
            _log.error("killing stages that do not end", stages=_names(running))
        for child in running:
            child.send(signal.SIGKILL)

    def _next_group(self) -> None:
        self._groups.pop(0)
        self._asked = self._killed = False


def _names(children: Sequence[Child]) -> str:
    return ",".join(child.name for child in children)
