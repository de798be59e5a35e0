"""Strangers attack, and honest users keep what they were promised: `bin/siege` in short, judged by no times."""

from pathlib import Path

import pytest

from tests.seeds import seeds
from tests.siege.report import broken, table
from tests.siege.run import ATTACKS, together

PLAYED = (
    "tiny-tags", "oversize", "forgeries", "endless-document", "slow-document", "hostile-text", "silent-connections",
    "networks", "slow-headers", "pings", "scrapes", "smuggling", "dates", "claimed-addresses",
)  # fmt: skip
SECONDS = 2.0
RELAYS = 6


@pytest.mark.long
@pytest.mark.timeout(300)
def test_honest_users_keep_what_they_were_promised(tmp_path: Path) -> None:
    seed = seeds(1)[0]
    print(f"seed {seed}")
    outcomes = together([ATTACKS[name] for name in PLAYED], seed, RELAYS, SECONDS, tmp_path)
    print(table(outcomes))
    assert {outcome.name: faults for outcome in outcomes if (faults := broken(outcome))} == {}
