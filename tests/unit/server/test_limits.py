"""Rates: what may be taken at once and over time, by one and by many."""

import pytest

from pipeline.process.rate import Rate, TokenBuckets
from pipeline.server.limits import DEFAULT_LIMITS, ClientRates, ServerLimits, limits_of
from pipeline.settings.config import Config


def test_clients_have_allowances_of_their_own() -> None:
    allowances = TokenBuckets(Rate(2, 0))
    assert [allowances.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert allowances.take("b", 0.0)


def test_the_number_of_remembered_clients_is_bounded() -> None:
    allowances = TokenBuckets(Rate(2, 0), max_names=100)
    for number in range(10_000):
        assert allowances.take(str(number), 0.0)
        assert len(allowances) <= 100


def test_clients_with_a_full_allowance_are_forgotten_first() -> None:
    allowances = TokenBuckets(Rate(2, 60), max_names=4)
    assert [allowances.take("busy", 0.0) for _ in range(2)] == [True, True]
    for name in "abc":
        allowances.take(name, 0.0)
    # By then `a`, `b` and `c` have their one back, and `busy` one of its two.
    assert allowances.take("d", 1.0)
    assert len(allowances) == 2
    assert [allowances.take("busy", 1.0) for _ in range(2)] == [True, False]


def test_the_settings_default_to_the_defaults() -> None:
    config = Config.from_env({"EVENTS_ENVIRONMENT": "DEVELOPMENT", "EVENTS_DATABASE_PATH": "/nowhere/events.db"})
    assert limits_of(config) == DEFAULT_LIMITS


@pytest.mark.parametrize("kept", ["connections_per_client", "sessions"])
def test_the_defaults_leave_room_for_others(kept: str) -> None:
    limits = ServerLimits()
    assert getattr(limits, kept) * 4 <= limits.connections


def test_requests_and_registrations_of_strangers_fit_beside_each_other() -> None:
    limits = ServerLimits()
    assert limits.requests + limits.sessions + 2 * limits.reserved <= limits.connections


def test_rates_of_one_network_of_ipv6_are_bounded_together() -> None:
    rates = ClientRates(Rate(3, 0))
    taken = [rates.take(f"2606:4700:1:{number:x}::/64", 0.0) for number in range(10)]
    assert taken.count(True) == 6
    assert rates.take("2606:4700:1:100::/64", 0.0), "another /56"
    assert [rates.take("8.8.8.8", 0.0) for _ in range(4)] == [True, True, True, False]
    assert rates.take(None, 0.0)
