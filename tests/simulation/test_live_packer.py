"""Live subscriptions: everything within a relay's limits, in few requests, that move as little as can be."""

import random
from dataclasses import replace

import pytest

from pipeline.crawl.sync.asked_kinds import EPHEMERAL_KINDS, LISTED_KINDS
from pipeline.crawl.sync.live.packer import SubscriptionPacker
from pipeline.crawl.sync.query import GLOBAL_QUERY, Query, Subject
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import encode_req
from pipeline.relay.dimensions import Bound, Dimension, Source
from pipeline.relay.limits import RelayLimits
from pipeline.store.wanted_authors import TIERS
from tests.support.plans import key, plan_for, query
from tests.support.seeds import seeds


def chunk(number: int, size: int = 200, subject: Subject = Subject.AUTHORS) -> Query:
    return query(subject, [key(number * 1_000 + n) for n in range(size)], f"{number:06b}")


class Relay:
    """What a relay would have open after every change; checks each request against its limits."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self.groups = SubscriptionPacker(limits)
        self.open: dict[str, list[Filter]] = {}
        self.sent = 0

    def arrange(self, queries: list[Query]) -> None:
        self.groups.pack(queries, self.limits)
        for name, filters in self.groups.pop_changes().items():
            self.sent += 1
            if filters is None:
                self.open.pop(name, None)
                continue
            assert 1 <= len(filters) <= self.limits.max_filters
            assert len(encode_req("L12345", filters)) <= self.limits.max_frame_bytes
            assert all(len(each.authors or ()) <= self.limits.max_authors for each in filters)
            assert all(each.limit == 0 and each.since is each.until is None for each in filters)
            self.open[name] = filters
        assert len(self.open) <= max(0, self.limits.max_subscriptions - 1), "a page must have room beside them"

    def covered(self, queries: list[Query]) -> set[str]:
        """The keys of queries whose every member is in some open filter; each exactly once."""
        asked = [filter_ for filters in self.open.values() for filter_ in filters]
        keys = set()
        for each in queries:
            found = [one for part in asked if _subject(part) is each.subject for one in _members(part)]
            mine = [member.public_key for member in each.members]
            if each.subject is Subject.GLOBAL:
                count = sum(_subject(part) is Subject.GLOBAL for part in asked)
                assert count <= 1
                if count:
                    keys.add(each.key)
            elif set(mine) <= set(found):
                assert all(found.count(public_key) == 1 for public_key in mine)
                keys.add(each.key)
        return keys


def _subject(part: Filter) -> Subject:
    if part.tags:
        return Subject.MENTIONS
    return Subject.GLOBAL if part.authors is None else Subject.AUTHORS


def _members(part: Filter) -> list[bytes]:
    return [bytes.fromhex(text) for text in part.tags[0][1]] if part.tags else list(part.authors or ())


def test_a_small_plan_is_one_subscription_without_profiles() -> None:
    plan = plan_for([key(n) for n in range(20)], [key(n) for n in range(3)])
    relay = Relay(RelayLimits())
    relay.arrange(list(plan.queries))
    assert len(relay.open) == 1
    live = [each for each in plan.queries if each.is_live]
    assert relay.covered(live) == {each.key for each in live}
    assert relay.groups.queries_of("0") == tuple(each.key for each in live)
    assert relay.groups.left_out == ()


def test_what_is_refused_together_is_asked_for_apart() -> None:
    plan = plan_for([key(n) for n in range(20)], [key(n) for n in range(3)])
    groups = SubscriptionPacker(RelayLimits())
    groups.pack(plan.queries, RelayLimits())
    groups.pop_changes()
    assert groups.split("0")
    groups.pack(plan.queries, RelayLimits())
    opened = groups.pop_changes()
    assert sorted(groups.queries_of(each) for each in opened) == [("authors/",), ("global/",), ("mentions/",)]
    assert groups.filters("0") is not None
    assert not any(groups.split(each) for each in opened if len(groups.filters(each) or ()) == 1)


@pytest.mark.parametrize("seed", seeds(6))
def test_queries_are_subscribed_once_or_left_out_under_any_limits(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    pool = [
        GLOBAL_QUERY,
        *(chunk(n, rng.randrange(1, 251), rng.choice([Subject.AUTHORS, Subject.MENTIONS])) for n in range(40)),
        *(of_tier(rng.randrange(1, TIERS), n, rng.randrange(1, 251)) for n in range(20)),
    ]
    relay = Relay(_limits(rng))
    for _ in range(25):
        queries = rng.sample(pool, rng.randrange(1, len(pool)))
        queries = [
            each.of_members(each.members[1:]) if len(each.members) > 1 and rng.random() < 0.1 else each
            for each in queries
        ]
        if rng.random() < 0.2:
            relay.limits = _limits(rng)
        relay.arrange(queries)
        left_out = set(relay.groups.left_out)
        grouped = {name for key in relay.open for name in relay.groups.queries_of(key)}
        assert grouped | left_out == {each.key for each in queries}
        whole = grouped - left_out
        assert relay.covered([each for each in queries if each.key in whole]) == whole
        most = relay.limits.max_filters * min(relay.limits.max_authors, relay.limits.max_tag_values)
        in_part = [each for each in queries if each.key in grouped & left_out]
        assert all(len(each.members) > most or relay.limits.max_frame_bytes < 120_000 for each in in_part)
        before = relay.sent
        relay.arrange(queries)
        assert relay.sent == before, "nothing changed"


def _limits(rng: random.Random) -> RelayLimits:
    return RelayLimits(
        max_subscriptions=rng.choice((1, 2, 3, 18)),
        max_filters=rng.choice((1, 2, 10)),
        max_authors=rng.choice((10, 125, 250)),
        max_tag_values=rng.choice((10, 125, 250)),
        max_frame_bytes=rng.choice((5_000, 20_000, 120_000)),
        needs_kinds=rng.random() < 0.3,
    )


@pytest.mark.parametrize("most", [10, 320])
def test_ephemeral_kinds_are_named_where_others_are_and_cost_no_filter(most: int) -> None:
    """No page brings them."""
    bound = Bound(Dimension.KINDS, Source.REFUSAL)
    relay = Relay(RelayLimits(withholds=True, max_kinds=most, bounds=(bound,), max_filters=40))
    relay.arrange([GLOBAL_QUERY, chunk(1, size=20)])
    named = [each.kinds or frozenset() for each in relay.open["0"] if each.authors]
    assert len(named) == -(-len(LISTED_KINDS) // most)
    assert max(map(len, named)) <= most
    asked = frozenset().union(*named)
    assert asked >= LISTED_KINDS
    assert asked - LISTED_KINDS == frozenset(sorted(EPHEMERAL_KINDS)[: most * len(named) - len(LISTED_KINDS)])
    assert [each.kinds for each in relay.open["0"] if not each.authors] == [GLOBAL_QUERY.kinds]


def test_a_changed_query_moves_only_its_own_subscription() -> None:
    queries = [chunk(n) for n in range(40)]
    relay = Relay(RelayLimits())
    relay.arrange(queries)
    before, sent = dict(relay.open), relay.sent
    queries[17] = queries[17].of_members(queries[17].members[1:])
    relay.arrange(queries)
    assert relay.sent == sent + 1
    assert sum(before[name] != relay.open[name] for name in before) == 1


def test_room_that_becomes_free_is_used() -> None:
    queries = [chunk(n) for n in range(10)]
    relay = Relay(replace(RelayLimits(), max_subscriptions=2))
    relay.arrange(queries)
    left_out = relay.groups.left_out
    assert left_out
    kept = queries[len(left_out) :]
    relay.arrange(kept)
    assert not relay.groups.left_out
    assert relay.covered(kept) == {each.key for each in kept}


def test_a_relay_with_room_for_one_subscription_is_only_paged() -> None:
    """A live one would leave no room to ask for what was missed."""
    relay = Relay(replace(RelayLimits(), max_subscriptions=1))
    relay.arrange([GLOBAL_QUERY, chunk(1)])
    assert relay.open == {}
    assert relay.groups.left_out == ("global/", chunk(1).key)


@pytest.mark.parametrize(
    "change", [{"max_pages": 1}, {"page_limit": 100}, {"until_exclusive": True}, {"informed_at": 1_700_000_000}]
)
def test_limits_that_have_to_do_with_pages_move_nothing(change: dict[str, int]) -> None:
    """A relay that complains of too many requests must not be sent all of them again."""
    queries = [chunk(n) for n in range(20)]
    relay = Relay(RelayLimits())
    relay.arrange(queries)
    sent = relay.sent
    relay.limits = replace(relay.limits, **change)  # type: ignore[arg-type]  # the values fit their fields
    relay.arrange(queries)
    assert relay.sent == sent


def test_reopening_marks_one_or_all() -> None:
    queries = [chunk(n) for n in range(12)]
    groups = SubscriptionPacker(RelayLimits())
    groups.pack(queries, RelayLimits())
    names = set(groups.pop_changes())
    assert len(names) > 1
    assert groups.pop_changes() == {}
    groups.reopen("0")
    assert set(groups.pop_changes()) == {"0"}
    groups.reopen()
    assert set(groups.pop_changes()) == names
    groups.reopen("never was")
    assert groups.pop_changes() == {"never was": None}
    assert groups.queries_of("never was") == ()
    groups.pack([], RelayLimits())
    assert groups.pop_changes() == dict.fromkeys(names)


@pytest.mark.parametrize(("filters", "members"), [(3, 20), (1, 10), (4, 1)])
def test_query_with_too_many_filters_takes_several_subscriptions(filters: int, members: int) -> None:
    relay = Relay(replace(RelayLimits(), max_filters=filters, max_authors=members, max_tag_values=members))
    queries = [GLOBAL_QUERY, chunk(1, 40)]
    relay.arrange(queries)
    assert relay.covered(queries) == {each.key for each in queries}
    assert relay.groups.left_out == ()
    relay.arrange([GLOBAL_QUERY, chunk(1, 41)])
    assert relay.sent <= 2 + len(relay.open), "what is new moves its own piece only"


def test_subscription_refused_for_good_is_split_to_single_queries_at_most() -> None:
    relay = Relay(RelayLimits())
    relay.arrange([GLOBAL_QUERY, *(chunk(n, 20) for n in range(6)), chunk(9, 20, Subject.MENTIONS)])
    for _ in range(10):
        key = next(iter(relay.open))
        if not relay.groups.split(key):
            break
        relay.arrange([GLOBAL_QUERY, *(chunk(n, 20) for n in range(6)), chunk(9, 20, Subject.MENTIONS)])
    assert not relay.groups.split(key)
    assert len(relay.groups.queries_of(key)) == 1


def test_query_that_is_refused_for_good_is_cut_down_to_one_filter_each() -> None:
    limits = RelayLimits(max_authors=4)
    relay = Relay(limits)
    queries = [chunk(1, 40)]
    relay.arrange(queries)
    for _ in range(5):
        are_split = [relay.groups.split(each) for each in list(relay.open)]
        if not any(are_split):
            break
        relay.arrange(queries)
        assert relay.covered(queries) == {each.key for each in queries}
    assert max(map(len, relay.open.values())) == 1


def test_subjects_that_are_asked_for_singly_have_a_filter_for_each_member() -> None:
    relay = Relay(RelayLimits(max_filters=5))
    queries = [GLOBAL_QUERY, chunk(1, 12), chunk(2, 12, Subject.MENTIONS)]
    relay.arrange(queries)
    relay.groups.ask_singly(frozenset({Subject.MENTIONS}))
    relay.arrange(queries)
    assert relay.covered(queries) == {each.key for each in queries}
    tags = [each.tags for filters in relay.open.values() for each in filters if each.tags]
    assert len(tags) == 12
    assert all(len(values) == 1 for ((_, values),) in tags)
    relay.groups.ask_singly(frozenset())
    relay.arrange(queries)
    assert relay.covered(queries) == {each.key for each in queries}
    assert len(relay.open) == 1
    many = [*queries, chunk(3, 200, Subject.MENTIONS)]
    assert not relay.groups.fits(many, relay.limits, frozenset({Subject.MENTIONS}))
    assert relay.groups.fits(many, relay.limits)


def of_tier(tier: int, number: int, size: int = 200) -> Query:
    return query(Subject.AUTHORS, [key((tier * 100 + number) * 1_000 + n) for n in range(size)], f"{tier}.{number:06b}")


def test_those_of_an_earlier_tier_take_the_places_of_later_ones() -> None:
    relay = Relay(RelayLimits(max_subscriptions=4, max_filters=2))
    late = [of_tier(3, number) for number in range(6)]
    relay.arrange(late)
    assert not relay.groups.left_out
    early = [chunk(1), of_tier(2, 1)]
    relay.arrange([*early, *late])
    assert relay.covered([*early, *late]) == {each.key for each in early} | {
        each.key for each in late if each.key not in relay.groups.left_out
    }
    assert len(relay.groups.left_out) == 2
    assert {each.key for each in late} > set(relay.groups.left_out)
    before = relay.sent
    relay.arrange([*early, *late])
    assert relay.sent == before, "nothing changed"
    relay.arrange([*early, of_tier(3, 9), *late])
    assert relay.covered(early) == {each.key for each in early}
    assert of_tier(3, 9).key in relay.groups.left_out, "what has a place keeps it before others of its tier"


def test_crowd_that_grows_changes_no_subscription_of_others() -> None:
    limits = RelayLimits()
    relay = Relay(limits)
    early = [GLOBAL_QUERY, *(chunk(number) for number in range(4))]

    def late(size: int) -> list[Query]:
        return [query(Subject.AUTHORS, [key(n) for n in range(10_000, 10_000 + size)], f"{TIERS - 1}.")]

    relay.arrange([*early, *late(50)])
    before = dict(relay.open)
    assert len(before) == 2
    relay.sent = 0
    relay.arrange([*early, *late(60)])
    assert relay.sent == 1
    assert sum(relay.open[name] == filters for name, filters in before.items()) == 1
    relay.arrange([*early[:-1], *late(60)])
    assert relay.sent == 2


def test_few_subscriptions_are_shared_by_all_tiers() -> None:
    relay = Relay(RelayLimits(max_subscriptions=2))
    late = query(Subject.AUTHORS, [key(n) for n in range(10_000, 10_050)], f"{TIERS - 1}.")
    relay.arrange([GLOBAL_QUERY, chunk(1), late])
    assert len(relay.open) == 1
    assert relay.groups.left_out == ()
