"""The crawler on relays that others wrote, through everything: `bin/completeness --parts foreign` in short."""

import random
from pathlib import Path

import pytest

from tests.support.seeds import seeds
from tests.tools.completeness.foreign.registry import QUICK
from tests.tools.completeness.foreign.result import table
from tests.tools.completeness.foreign.run import Plan, together
from tests.tools.completeness.foreign.shape import Order, Shape
from tests.tools.completeness.foreign.trial import Pace

LACKING = [relay.name for relay in QUICK if not relay.is_installed]
PACE = Pace(rate=20.0, stream_s=4.0, timeout_s=180.0, patience_s=90.0, resweep_s=10)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)}: not installed")
def test_foreign_relays_are_had_whole_or_their_gaps_reported(tmp_path: Path) -> None:
    seed = seeds(1)[0]
    print(f"seed {seed}")
    order = random.Random(seed).choice(list(Order))
    shape = Shape(events=600, dense=40, strangers=60, order=order)
    results = together([relay.variant() for relay in QUICK], seed, Plan(shape, PACE), tmp_path)
    print(table(results))
    assert [result.name for result in results if not result.is_good] == []
