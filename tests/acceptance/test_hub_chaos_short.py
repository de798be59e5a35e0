"""`bin/chaos --hub` in short, with shorter leases, and whether what it must catch can still be made."""

from pathlib import Path

import pytest

from tests.fakes.postgres import programs_or_skip
from tests.support.seeds import told_seed
from tests.tools.chaos.hub.mutation_check import MUTATIONS, HubMutation
from tests.tools.chaos.hub.run import HubOptions, run_hub
from tests.tools.chaos.patched_source import PatchedSource

KILLS = 8
LEASE_S = 6.0
SETTLE_S = 60.0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_several_hosts_lose_nothing_whatever_breaks(tmp_path: Path) -> None:
    programs_or_skip()
    report = run_hub(HubOptions(told_seed(), KILLS, lease_s=LEASE_S, settle_s=SETTLE_S, keep=tmp_path / "kept"), print)
    print(report.text())
    assert report.ok, report.failures
    assert report.cursor_parcels > 0
    assert report.ask_looks > 0


@pytest.mark.parametrize("mistake", MUTATIONS, ids=lambda mistake: mistake.name)
def test_mistakes_between_hosts_can_still_be_made(tmp_path: Path, mistake: HubMutation) -> None:
    """`python -m tests.tools.chaos.hub.mutation_check` shows that each is caught."""
    PatchedSource(tmp_path / "tree").replace(*mistake.replacements)
