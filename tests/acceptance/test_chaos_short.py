"""`bin/chaos --minutes 2`, and whether it notices what is broken on purpose."""

from pathlib import Path

import pytest

from tests.support.seeds import told_seed
from tests.tools.chaos.mutation_check import MUTATIONS, Mutation
from tests.tools.chaos.patched_source import PatchedSource
from tests.tools.chaos.run import Options, run

MINUTES = 2.0
SETTLE_S = 40.0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nothing_is_lost_whatever_breaks(tmp_path: Path) -> None:
    seed = told_seed()
    report = run(Options(seed, MINUTES, settle_s=SETTLE_S, keep=tmp_path / "kept"), print)
    print(report.text())
    assert report.ok, report.failures
    assert report.faults


@pytest.mark.parametrize("mistake", MUTATIONS, ids=lambda mistake: mistake.name)
def test_the_mistakes_that_it_must_catch_can_still_be_made(tmp_path: Path, mistake: Mutation) -> None:
    """`python -m tests.tools.chaos.mutation_check` shows that each is caught, which takes some minutes."""
    PatchedSource(tmp_path / "tree").replace(*mistake.replacements)
