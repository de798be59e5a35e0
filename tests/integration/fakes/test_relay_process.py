"""Streams of live events, from this process and from a relay in its own."""

from time import monotonic

import pytest

from tests.factories.events import Author
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_process import RelayProcess
from tests.fakes.relay_stream import hold_stream, stream
from tests.integration.fakes.client import NaiveClient
from tests.oracle.delivery import Delivered, DeliveryOracle

NOW = 1_700_000_000
ALICE = Author.from_seed(4, 0)
EVENTS = [ALICE.sign(str(number), created_at=NOW + number) for number in range(200)]


def test_a_stream_keeps_its_rate_and_is_booked() -> None:
    """All events go out in order; the books know when each did."""
    oracle = DeliveryOracle()
    oracle.register(ALICE.pubkey)
    with ScriptedRelay() as relay, NaiveClient(relay.url) as client:
        client.page({"limit": 0})
        began = monotonic()
        times = stream(relay, EVENTS[:50], per_s=200)
        assert monotonic() - began >= 0.2
        assert [client.receive()[2]["id"] for _ in range(50)] == [event.id for event in EVENTS[:50]]
        hold_stream(oracle, relay.url, EVENTS[:50], times)
    arrived = [Delivered(event.raw.encode(), None, times[-1][0]) for event in EVENTS[:50]]
    report = oracle.judge(arrived)
    assert report.clean
    assert report.latencies_ms["max"] == pytest.approx(1000 * (times[-1][0] - times[0][0]), abs=1)


def test_a_relay_process_holds_streams_and_counts() -> None:
    with RelayProcess("node-relay") as relay, NaiveClient(relay.url) as client:
        assert relay.hold(EVENTS) == 200
        assert len(client.page({})[0]) == 100
        relay.behave("strfry")
        assert len(client.page({})[0]) == 200
        more = [ALICE.sign("live", created_at=NOW + number) for number in range(100)]
        times = relay.stream(more)
        assert sum(count for _, count in times) == 100
        assert [client.receive()[2]["id"] for _ in range(100)] == [event.id for event in more]
        relay.wait_stats("reqs", 2)
        assert relay.stats() == {"opened": 1, "gone": 0, "reqs": 2, "subscriptions": 1, "events": 300}
