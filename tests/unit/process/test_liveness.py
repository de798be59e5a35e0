import os
from dataclasses import replace

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.heartbeat import HeartbeatReading
from pipeline.process.liveness import SILENCE_LIMIT_S, StageState, health_of

WELL = HeartbeatReading("saver-0", os.getpid(), alive=True, age_s=2.0)
NOW_MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z


@pytest.mark.parametrize(
    ("reading", "state", "since", "why"),
    [
        (WELL, StageState.OK, "2023-11-14T22:13:18Z", ""),
        (replace(WELL, status="no disk", status_age_s=60.0), StageState.FAILING, "2023-11-14T22:12:20Z", "no disk"),
        (replace(WELL, age_s=SILENCE_LIMIT_S), StageState.OK, "2023-11-14T22:13:12Z", ""),
        (replace(WELL, age_s=9.0), StageState.HUNG, "2023-11-14T22:13:11Z", "has sent no heartbeat for 9 s"),
        (replace(WELL, alive=False), StageState.EXITED, "2023-11-14T22:13:18Z", "exited without an error message"),
        (
            replace(WELL, alive=False, age_s=90.0, status="ended: full", status_age_s=90.0),
            StageState.EXITED,
            "2023-11-14T22:11:50Z",
            "ended: full",
        ),
    ],
)
def test_state_since_and_why(reading: HeartbeatReading, state: StageState, since: str, why: str) -> None:
    condition = health_of(reading, ManualClock(NOW_MS))
    assert (condition.slot, condition.state, condition.since, condition.why) == ("saver-0", state, since, why)


def test_before_the_first_beat_it_starts_since_its_start() -> None:
    condition = health_of(replace(WELL, age_s=float("inf")), ManualClock(NOW_MS))
    assert (condition.state, condition.why) == (StageState.STARTING, "has sent no heartbeat yet")
    assert condition.since is not None
    assert condition.since.endswith("Z")
