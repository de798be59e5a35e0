"""The right to ask relays: how it is held, and that it ends before another may have it."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.crawl.fence import SAFE, AskingRight, Fence

HOSTS = frozenset({"one.example", "two.example"})
times = st.floats(0, 1e9, allow_nan=False)
leases = st.floats(0, 1e5, allow_nan=False)


def test_nothing_may_be_asked_before_the_first_grant() -> None:
    assert not AskingRight().permits("one.example", 0.0)
    assert not AskingRight().holds(0.0)


def test_right_is_for_the_granted_hosts_until_part_of_the_lease_is_over() -> None:
    right = AskingRight().granted(HOSTS, 100.0, 30.0)
    assert right.permits("one.example", 100.0)
    assert not right.permits("three.example", 100.0)
    assert right.permits("two.example", 100.0 + 30.0 * SAFE - 0.01)
    assert not right.permits("two.example", 100.0 + 30.0 * SAFE)


def test_renewal_moves_the_deadline_and_replaces_the_hosts() -> None:
    right = AskingRight().granted(HOSTS, 100.0, 30.0).granted({"two.example"}, 110.0, 30.0)
    assert right.permits("two.example", 125.0)
    assert not right.permits("one.example", 111.0)


def test_shorter_lease_that_was_asked_for_later_counts() -> None:
    right = AskingRight().granted(HOSTS, 100.0, 300.0).granted(HOSTS, 101.0, 10.0)
    assert not right.holds(101.0 + 10.0 * SAFE)


def test_answer_that_came_late_changes_nothing() -> None:
    right = AskingRight().granted({"one.example"}, 110.0, 10.0)
    assert right.granted(HOSTS, 109.0, 1_000.0) == right


def test_hosts_that_are_given_up_may_not_be_asked_any_more() -> None:
    right = AskingRight().granted(HOSTS, 100.0, 30.0).without({"one.example"})
    assert not right.permits("one.example", 101.0)
    assert right.permits("two.example", 101.0)


def test_right_that_ran_out_is_had_again_by_a_later_grant() -> None:
    right = AskingRight().granted(HOSTS, 100.0, 30.0).granted(HOSTS, 200.0, 30.0)
    assert right.permits("one.example", 201.0)


def test_right_does_not_hold_at_a_time_before_it_was_asked_for() -> None:
    """The clock of another boot: what was granted before says nothing."""
    assert not AskingRight().granted(HOSTS, 100.0, 30.0).holds(99.0)


@given(
    st.lists(st.tuples(st.sets(st.sampled_from(sorted(HOSTS))), times, leases), max_size=8),
    times,
    st.sampled_from(sorted(HOSTS)),
)
def test_right_never_outlasts_a_lease_that_covers_it(
    grants: list[tuple[set[str], float, float]], now: float, host: str
) -> None:
    right = AskingRight()
    for hosts, asked_at, lease_s in grants:
        right = right.granted(hosts, asked_at, lease_s)
    if right.permits(host, now):
        newest = max(asked_at for _, asked_at, _ in grants)
        assert any(
            host in hosts and asked_at == newest and asked_at <= now < asked_at + lease_s
            for hosts, asked_at, lease_s in grants
        )


def test_fence_looks_at_its_clock_each_time() -> None:
    now = [50.0]
    fence = Fence(lambda: now[0])
    assert not fence.permits("one.example")
    assert fence.remaining_s == 0.0
    fence.right = fence.right.granted(HOSTS, 50.0, 10.0)
    assert fence.permits("one.example")
    assert fence.remaining_s == 10.0 * SAFE
    now[0] += 10.0 * SAFE
    assert not fence.permits("one.example")
    assert fence.remaining_s == 0.0
