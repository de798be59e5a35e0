"""A crawler gets all that relays of many kinds give, and reports what they do not: `bin/completeness` in short."""

import pytest

from tests.support.seeds import seeds
from tests.tools.completeness import over_capacity, single_behaviour
from tests.tools.completeness.behaviours import BehaviourMatrix
from tests.tools.completeness.run import table

TIMEOUT_S = 240.0
BEHAVIOURS = (
    "strfry-withholding,nostr-relay,node-relay,nostr-rs,khatru,cap-20,shuffled,oldest-first,until-exclusive,"
    "ignores-since,ignores-until,zero-is-all,dense-second,dense-author,withheld,withheld-unlisted,forged-content,garbage,"
    "cut-reset,cut-close,cut-closed,closed-rate,subs-closed,subs-one,filters-one,no-live,lossy-live,"
    "compression,binary,oversized,oversized-compressed,upgrade-503,early-answers,auth,auth-silent,auth-restricted"
)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_everything_is_had_or_its_loss_is_reported() -> None:
    seed = seeds(1)[0]
    print(f"seed {seed}")
    rows = single_behaviour.run(BehaviourMatrix().choose(BEHAVIOURS, slow=False), seed, TIMEOUT_S)
    print(table(rows))
    assert [row.name for row in rows if not row.is_good] == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_crowd_is_had_whole_or_by_query_as_each_relay_allows() -> None:
    seed = seeds(1)[0]
    print(f"seed {seed}")
    rows = over_capacity.run(seed, TIMEOUT_S)
    print(table(rows))
    assert [row.name for row in rows if not row.is_good] == []
    assert over_capacity.wrongly_asked(rows) == []
