"""Dials of one address, network or domain are bounded, whatever the names that lead there."""

from dataclasses import replace

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.rate import Rate
from pipeline.relay.dial_gate import PER_ADDRESS, DialGate, DialRates

RATES = DialRates(address=Rate(3, 6), prefix=Rate(5, 60), domain=Rate(4, 60), proven=Rate(10, 60))


def admitted(gate: DialGate, hosts: list[tuple[str, str]]) -> int:
    return sum(gate.admits(host, address) for host, address in hosts)


@pytest.mark.parametrize(
    ("hosts", "most"),
    [
        ([(f"a{number}.example", "203.0.113.9") for number in range(50)], 3),
        ([(f"a{number}.example", f"203.0.113.{number}") for number in range(50)], 5),
        ([(f"a{number}.example", f"2001:db8:7:{number}::1") for number in range(50)], 5),
        ([(f"r{number}.one.example", f"203.0.{number}.9") for number in range(50)], 4),
        ([(f"203.0.113.{number}", f"203.0.113.{number}") for number in range(50)], 5),
        ([(f"a{number}.example", f"203.0.{number}.9") for number in range(50)], 50),
    ],
    ids=["address", "prefix", "ipv6", "domain", "literal", "nothing in common"],
)
def test_what_names_have_in_common_bounds_their_dials(hosts: list[tuple[str, str]], most: int) -> None:
    assert admitted(DialGate(RATES, ManualClock()), hosts) == most


def test_more_are_admitted_as_time_passes() -> None:
    clock = ManualClock()
    gate = DialGate(RATES, clock)
    hosts = [(f"a{number}.example", "203.0.113.9") for number in range(10)]
    assert admitted(gate, hosts) == 3
    clock.advance(20.0)
    assert admitted(gate, hosts) == 2


def test_dials_of_proven_hosts_have_their_own_bound_operators_hosts_none() -> None:
    gate = DialGate(RATES, ManualClock())
    proven = {f"p{number}.hoster.example": "203.0.113.9" for number in range(50)}
    gate.trust({"own.example"}, proven)
    assert admitted(gate, [(f"a{number}.example", "203.0.113.9") for number in range(50)]) == 3
    assert admitted(gate, list(proven.items())) == 10
    assert admitted(gate, [(host, "198.51.100.7") for host in proven]) == 3, "they lead elsewhere now"
    assert admitted(gate, [("own.example", "203.0.113.9")] * 50) == 50
    assert gate.resolved("p1.hoster.example") == "198.51.100.7"
    assert gate.resolved("never.example") == ""


def test_processes_share_the_rates_and_more_relays_per_host_raise_them() -> None:
    assert DialRates.of(1, 3).address == PER_ADDRESS
    assert DialRates.of(2, 3).address == replace(PER_ADDRESS, burst=5, per_minute=3.0)
    assert DialRates.of(64, 3).address.burst == 1
    assert DialRates.of(1, 50).address.burst == 50
