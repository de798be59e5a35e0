"""`bin/network --hosts 2` in short: a few relays, a fifth of which ban one of the hosts; one joins, one dies."""

from argparse import Namespace
from pathlib import Path

import pytest

from tests.fakes.host_network import can_make_namespaces
from tests.fakes.postgres import programs_or_skip
from tests.support.seeds import told_seed
from tests.tools.network import hosts

OPTIONS = Namespace(
    hosts=2, minutes=1.2, relays=40, people=200, users=10, wanted=100, stored=200, rate=3.0
)  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)
def test_relays_of_a_host_that_bans_or_dies_are_asked_by_others(tmp_path: Path) -> None:
    programs_or_skip()
    if not can_make_namespaces():
        pytest.skip("needs root for network namespaces")
    found = hosts.play(Namespace(**vars(OPTIONS), seed=told_seed()), tmp_path)
    print(found)
    assert found["handshakes that a ban refused"] > 0
    # How soon is for a quiet machine to show; that it happens at all is shown here. Chance gives few relays unevenly.
    assert found["recall"] == 1.0
    assert found["not asked again"] == 0
    assert found["of these asked again"] == found["relays of the host that died"]
