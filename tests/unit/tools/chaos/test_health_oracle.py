"""When health is said to be wrong about a sink."""

import math

from tests.tools.chaos.cpu_delay import CompensatedClock
from tests.tools.chaos.health_oracle import TRUTH_WITHIN_S, UNTRUE_LOOKS, SinkHealthChecker, SinkState, SinkStatus

TOLD = '{"problems": [{"why": "sink pubsub is down: UNAVAILABLE"}]}'
SILENT = '"ok"'


class Bench:
    """A judge, and what it complained of."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.judge = SinkHealthChecker("pubsub", CompensatedClock(0.0), self.complaints.append)

    def look(self, state: SinkState, began: float, ended: float, body: str, *, settled: float = 0.0) -> None:
        """Look twice a second."""
        moment = began
        while moment < ended:
            self.judge.look(moment, state, settled, offered=True, body=body)
            moment += 0.5


def test_an_outage_must_be_told_in_time() -> None:
    bench = Bench()
    down = SinkState(SinkStatus.DOWN, 100.0)
    bench.look(down, 100, 100 + TRUTH_WITHIN_S, SILENT)
    assert bench.complaints == []
    bench.look(down, 100 + TRUTH_WITHIN_S, 100 + TRUTH_WITHIN_S + UNTRUE_LOOKS, SILENT)
    assert len(bench.complaints) == 1
    assert "is down" in bench.complaints[0]


def test_its_end_must_be_told_in_time() -> None:
    bench = Bench()
    bench.look(SinkState(SinkStatus.DOWN, 100.0), 105, 120, TOLD)
    well = SinkState(SinkStatus.WELL, 120.0)
    bench.look(well, 120, 120 + TRUTH_WITHIN_S, TOLD)
    assert bench.complaints == []
    bench.look(well, 130, 140, TOLD)
    assert len(bench.complaints) == 1


def test_what_was_told_is_summed_up() -> None:
    bench = Bench()
    for began in (100.0, 200.0):
        down, well = SinkState(SinkStatus.DOWN, began), SinkState(SinkStatus.WELL, began + 20)
        bench.look(down, began, began + 6, SILENT)
        bench.look(down, began + 6, began + 20, TOLD)
        bench.look(well, began + 20, began + 23, TOLD)
        bench.look(well, began + 23, began + 40, SILENT)
    telling = bench.judge.telling
    assert bench.complaints == []
    assert (telling.outages, telling.told_after_s, telling.ends, telling.ended_after_s) == (2, 6.0, 2, 3.0)


def test_nobody_can_know_of_what_is_not_tried() -> None:
    bench = Bench()
    down = SinkState(SinkStatus.DOWN, 100.0)
    for moment in range(100, 200):
        bench.judge.look(moment, down, 0.0, offered=moment % 5 == 0, body=SILENT)
    assert bench.complaints == []


def test_nothing_is_judged_while_others_fail_or_the_sink_half_works() -> None:
    bench = Bench()
    bench.look(SinkState(SinkStatus.DOWN, 100.0), 100, 200, SILENT, settled=math.inf)
    bench.look(SinkState(SinkStatus.ODD, 200.0), 200, 300, TOLD)
    bench.look(SinkState(SinkStatus.WELL, 300.0), 300, 320, TOLD, settled=315.0)
    assert bench.complaints == []
