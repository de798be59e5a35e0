"""Which crawling host is to have which relays."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.hub.rendezvous import assign, order

KEYS = [f"relay{number}.example" for number in range(2_000)]
HOSTS = ["ams1", "fra1", "nyc1", "sgp1", "syd1", "sao1"]
some_hosts = st.sets(st.sampled_from(HOSTS))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_new_host_takes_its_part_and_nothing_else_moves(count: int) -> None:
    before = assign(KEYS, HOSTS[:count], {})
    after = assign(KEYS, HOSTS[: count + 1], {})
    moved = [key for key in KEYS if before[key] != after[key]]
    assert 0 < len(moved) <= 1.5 / (count + 1) * len(KEYS)
    assert {after[key] for key in moved} == {HOSTS[count]}


def test_relays_of_a_dead_host_fall_to_all_others() -> None:
    before, after = assign(KEYS, HOSTS, {}), assign(KEYS, HOSTS[1:], {})
    assert all(after[key] == before[key] for key in KEYS if before[key] != HOSTS[0])
    heirs = Counter(after[key] for key in KEYS if before[key] == HOSTS[0])
    assert set(heirs) == set(HOSTS[1:])
    assert max(heirs.values()) < 2 * min(heirs.values())


@given(some_hosts, st.sampled_from(KEYS), some_hosts)
def test_first_living_host_that_can_use_a_relay_has_it(live: set[str], key: str, unfit: set[str]) -> None:
    found = assign([key], live, {key: unfit})[key]
    by_weight = order(key, tuple(sorted(live)))
    fit = [host for host in by_weight if host not in unfit]
    assert found == (fit[0] if fit else by_weight[0] if by_weight else None)


@given(some_hosts, st.sampled_from(KEYS))
def test_order_of_two_hosts_depends_on_no_other(hosts: set[str], key: str) -> None:
    everyone = order(key, tuple(sorted(HOSTS)))
    assert order(key, tuple(sorted(hosts))) == tuple(host for host in everyone if host in hosts)
