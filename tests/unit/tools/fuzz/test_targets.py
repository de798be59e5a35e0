"""Every fuzz target holds on its seeds, on each truncation of them, and with each byte of them left out."""

import pytest

from tests.tools.fuzz.targets import TARGETS, Target, shortened


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_holds_on_its_seeds(target: Target) -> None:
    for seed in target.seeds:
        for data in (seed, *shortened(seed)):
            target.check(data)
