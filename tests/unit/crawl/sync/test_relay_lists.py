"""Who comes first where a relay has no room for all."""

from pipeline.crawl.sync.planner import Planner
from pipeline.crawl.sync.query import Query
from pipeline.crawl.sync.relay_lists import RelayLists
from pipeline.store.relay_lists import Listed
from pipeline.store.wanted_authors import TIERS, Change
from tests.support.plans import changes, key

HERE, ELSEWHERE = 1, 2
USER, GUEST = key(1), key(2)
EARLY, LATE = [key(10 + tier) for tier in range(TIERS)], [key(20 + tier) for tier in range(TIERS)]


def who(query: Query) -> set[bytes]:
    return {each.public_key for each in query.members}


def test_named_users_come_before_early_authors_and_crowds_last() -> None:
    authors = [Change(each, True, 0, 1, tier) for group in (EARLY, LATE) for tier, each in enumerate(group)]
    guests = [Change(each, True, 0, 1, TIERS - 1) for each in (USER, GUEST)]
    planner = Planner()
    planner.apply(changes(1, [*authors, *guests], [Change(each, True, 0, 1) for each in (USER, GUEST)]))
    plan, lists = planner.plan(), RelayLists()
    lists.apply([Listed(each, (HERE,), (HERE,)) for each in (USER, *EARLY)])
    lists.apply([Listed(each, (ELSEWHERE,), (ELSEWHERE,)) for each in (GUEST, *LATE)])
    first = [(query.subject.value, who(query)) for query in lists.at(HERE).first(plan.queries, plan.users)]
    assert first == [
        ("authors", {USER}), ("mentions", {USER}), ("authors", {EARLY[0]}), ("authors", {EARLY[1]}),
        ("authors", {USER, GUEST}), ("authors", {EARLY[2]}), ("authors", {USER, EARLY[3]}),
    ]  # fmt: skip
