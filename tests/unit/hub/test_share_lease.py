"""The shares that a host holds, as far as it knows."""

from pipeline.hub.share_lease import UNKNOWN_VERSION, Grant, ShareLease

LEASE_S = 30.0


def renewed(lease: ShareLease, grant: Grant, now: float) -> frozenset[str]:
    lease.on_renewing(round(now * 1000), now)
    return lease.on_renewed(grant, now)


def granting(version: int, *held: str, leaving: tuple[str, ...] = (), went_back: bool = False) -> Grant:
    return Grant(version, went_back, frozenset(held), frozenset(leaving))


def holding(*held: str) -> ShareLease:
    lease = ShareLease(LEASE_S)
    renewed(lease, granting(1, *held), 100.0)
    lease.on_loaded(held)
    lease.on_written(1)
    return lease


def test_share_is_held_once_its_relays_are_known() -> None:
    lease = ShareLease(LEASE_S)
    assert renewed(lease, granting(1, "a", "b"), 100.0) == frozenset()
    assert not lease.held
    assert lease.granted == {"a", "b"}
    lease.on_loaded(["a"])
    assert lease.held == {"a"}
    assert lease.granted == {"b"}


def test_answer_without_shares_changes_none() -> None:
    lease = holding("a")
    assert renewed(lease, Grant(1, False, None), 103.0) == frozenset()
    assert lease.held == {"a"}
    assert lease.asked_at == 103.0


def test_share_that_another_has_is_lost_at_once() -> None:
    lease = holding("a", "b")
    assert renewed(lease, granting(2, "b"), 103.0) == {"a"}
    assert lease.held == {"b"}
    assert not lease.is_leaving


def test_share_is_released_once_all_running_crawlers_follow() -> None:
    lease = holding("a", "b")
    assert renewed(lease, granting(2, "b", leaving=("a",)), 103.0) == {"a"}
    assert lease.releasable({}, [], 103.0) == [], "crawlers have the right still"
    lease.on_written(7)
    assert lease.releasable({"crawler-0": 7, "crawler-1": 6}, ["crawler-0", "crawler-1"], 104.0) == []
    assert lease.releasable({"crawler-0": 7, "crawler-1": 6}, ["crawler-0"], 104.0) == ["a"]
    lease.on_released(["a"])
    assert not lease.is_leaving


def test_share_is_released_when_the_right_of_a_silent_crawler_is_over() -> None:
    lease = holding("a")
    renewed(lease, granting(2, leaving=("a",)), 103.0)
    lease.on_written(7)
    assert lease.releasable({}, ["crawler-0"], 103.0 + LEASE_S - 0.1) == []
    assert lease.releasable({}, ["crawler-0"], 103.0 + LEASE_S) == ["a"]


def test_share_never_held_is_released_without_waiting() -> None:
    lease = ShareLease(LEASE_S)
    renewed(lease, granting(1, "a"), 100.0)
    renewed(lease, granting(2, leaving=("a",)), 101.0)
    assert lease.releasable({"crawler-0": 0}, ["crawler-0"], 101.0) == ["a"]


def test_share_that_is_to_stay_after_all_is_not_released() -> None:
    lease = holding("a")
    renewed(lease, granting(2, leaving=("a",)), 103.0)
    renewed(lease, granting(3, "a"), 104.0)
    assert lease.granted == {"a"}
    assert not lease.is_leaving


def test_nothing_is_taken_for_a_lease_after_the_hub_went_back() -> None:
    lease = holding("a", "b")
    assert renewed(lease, granting(1, "a", "c", went_back=True), 103.0) == {"b"}
    assert lease.held == {"a"}
    assert not lease.granted
    assert lease.known == UNKNOWN_VERSION, "what is left out is asked for again"
    assert not lease.may_take(103.0 + LEASE_S - 0.1)
    renewed(lease, granting(1, "a", "c"), 110.0)
    assert lease.granted == frozenset()
    renewed(lease, granting(1, "a", "c"), 103.0 + LEASE_S)
    assert lease.granted == {"c"}


def test_renewals_are_numbered_upwards_whatever_the_wall_clock_says() -> None:
    lease = ShareLease(LEASE_S)
    assert lease.on_renewing(5_000, 1.0) == 5_000
    assert lease.on_renewing(4_000, 2.0) == 5_001
    assert lease.confirmed == 0
    lease.on_renewed(granting(1), 2.0)
    assert lease.confirmed == 5_001


def test_renewal_is_due_long_before_the_lease_ends() -> None:
    lease = ShareLease(LEASE_S)
    assert lease.is_due(0.0)
    lease.on_renewing(1, 100.0)
    assert not lease.is_due(100.1)
    assert lease.is_due(100.0 + LEASE_S / 5)
    lease.on_connected()
    assert lease.is_due(100.1)
