"""What an operator reads at home of the hosts that crawl for it."""

from dataclasses import replace

import pytest

from pipeline.status.host_view import host_lines, skew_text
from pipeline.status.service_diagnosis import diagnose
from pipeline.store.hosts import HostState
from pipeline.store.relay_status import RelayState
from tests.unit.status.test_service_diagnosis import NOW, WELL, relay

HOST = HostState("fra1", "", False, NOW - 1_000, -4, 0, 0, 0, 1, NOW)


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0, "+0.0 s"), (-4, "+0.0 s"), (-60, "-0.1 s"), (4, "+0.0 s"), (61_000, "+61.0 s")]
)
def test_skew_of_nothing_has_no_minus(milliseconds: int, text: str) -> None:
    assert skew_text(milliseconds) == text


def test_host_line_says_how_it_stands() -> None:
    (line,) = host_lines(replace(WELL, hosts=(HOST,)))
    assert line.startswith("host fra1      ok        -, called 1s ago, clock +0.0 s, asks 1 host of relays;")


def test_home_without_connected_relay_leads_to_those_who_crawl() -> None:
    """Home may be unable to reach relays, and need not."""
    seen = replace(WELL, relays=(relay(RelayState.DISCONNECTED, "closed by us"),))
    assert [each.advice for each in diagnose(seen, 0)] == [
        "event-service check --online says whether they can be reached from here"
    ]
    (found,) = diagnose(replace(seen, hosts=(HOST,)), 0)
    assert found.what.startswith("none of 1 is connected")
    assert found.advice == "event-service hub hosts shows the hosts that crawl them"
