"""Strangers attack, and honest users keep what they were promised: `bin/siege` in short, judged by no times."""

from pathlib import Path

import pytest

from tests.support.seeds import seeds
from tests.tools.siege.report import broken, table
from tests.tools.siege.run import ATTACKS, together

PLAYED = (
    # First, while dials do not wait for those to addresses that the later ones name.
    "restless-list", "invented-followees", "relay-lists",
    "tiny-tags", "profiles", "forgeries", "endless-document", "hostile-text", "dates", "claimed-addresses",
    "silent-connections", "networks", "smuggling", "victim", "crowd",
)  # fmt: skip
"""Those that are over in moments; the others are held by tests of their own and by `bin/siege`."""
SECONDS = 1.0
RELAYS = 6


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_honest_users_keep_what_they_were_promised(tmp_path: Path) -> None:
    seed = seeds(1)[0]
    print(f"seed {seed}")
    outcomes = together([ATTACKS[name] for name in PLAYED], seed, RELAYS, SECONDS, tmp_path)
    print(table(outcomes))
    assert {outcome.name: faults for outcome in outcomes if (faults := broken(outcome))} == {}
