"""The yardsticks while something else is measured, V and Y: how quick a core is.

On a machine whose cores are shared with others it changes by half from one second to the next, and V, its best, says
little of what was possible. So a process of its own verifies now and then, in bursts long enough to warm a core's
cache; the mean of what the bursts say is held to be the mean of the time.
"""

import select
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Self

from tests.fakes.child import Child
from tests.tools.bench.verification import Signed
from tests.tools.bench.yardstick import PlainQueue

BURST = 200
_WARM_UP = 30
_EVERY_S = 0.4
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Rates:
    """V, and Y of `yardstick.py`, a second of processor time."""

    verifications: float
    plain_rows: float


class BaselineSampler:
    """The measuring process, which takes some 5 % of a core."""

    def __init__(self) -> None:
        self._child = Child.module("tests.tools.bench.calibration")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def begin(self) -> None:
        """Forget what was measured so far."""
        self._child.say("begin")

    def rates(self) -> Rates | None:
        """The yardsticks since `begin`; `None` when it was too short."""
        self._child.say("tell")
        told = self._child.wait_line(r"^V (\S+) Y (\S+)$", _ANSWER_S)
        found = Rates(float(told[1]), float(told[2]))
        return found if found.verifications and found.plain_rows else None


def _burst(signed: Signed) -> float:
    signed.verify(_WARM_UP)
    began = time.thread_time()
    signed.verify(BURST)
    return BURST / (time.thread_time() - began)


def main() -> None:
    """Measure until standard input ends."""
    signed = Signed.make()
    rates: list[float] = []
    plain: list[float] = []
    with PlainQueue() as queue:
        while True:
            if not select.select([sys.stdin], [], [], _EVERY_S)[0]:
                rates.append(_burst(signed))
                plain.append(queue.rate())
                continue
            match sys.stdin.readline():
                case "":
                    return
                case "begin\n":
                    rates.clear()
                    plain.clear()
                case _:
                    print(f"V {_mean(rates)} Y {_mean(plain)}", flush=True)


def _mean(rates: list[float]) -> float:
    return statistics.fmean(rates) if rates else 0.0


if __name__ == "__main__":
    main()
