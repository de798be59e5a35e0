"""Which relays this machine cannot use."""

import pytest

from pipeline.crawl.fitness import SAID_FOR_S, WITHIN_S, Fitness
from pipeline.crawl.reconnect import ConnectionResult

HOST = "relay.example"
FAILED = ConnectionResult("dial", "connecting to 192.0.2.1: ETIMEDOUT")
CONNECTED = ConnectionResult("eof", "ended", lifetime_s=5.0)


def told(fitness: Fitness, result: ConnectionResult, now: float, *, is_online: bool = True) -> str | None:
    return fitness.on_result(HOST, result, now, is_online=is_online)


@pytest.mark.parametrize("status", [403, 429])
def test_refused_handshake_is_unfit_at_once_and_said_once(status: int) -> None:
    fitness, refused = Fitness(), ConnectionResult("dial", "handshake", status=status)
    assert told(fitness, refused, 0.0) == f"refused with {status}"
    assert told(fitness, refused, 60.0) is None
    assert told(fitness, refused, SAID_FOR_S) is not None


def test_text_that_says_blocked_is_unfit() -> None:
    assert told(Fitness(), ConnectionResult("dial", "HTTP 400 blocked: banned network"), 0.0) == "blocked"


def test_third_failure_within_half_an_hour_is_unfit() -> None:
    fitness = Fitness()
    assert told(fitness, FAILED, 0.0) is None
    assert told(fitness, FAILED, 600.0) is None
    assert "ETIMEDOUT" in (told(fitness, FAILED, 1_200.0) or "")


def test_failures_long_apart_are_fit() -> None:
    fitness = Fitness()
    assert [told(fitness, FAILED, number * WITHIN_S / 2) for number in range(6)] == [None] * 6


def test_failures_while_no_relay_is_connected_do_not_count() -> None:
    fitness = Fitness()
    assert [told(fitness, FAILED, float(number), is_online=False) for number in range(9)] == [None] * 9


@pytest.mark.parametrize(
    "ours",
    [
        ConnectionResult("dial", "too many open files", is_local_fault=True),
        ConnectionResult("dial", "cancelled", by_request=True),
        ConnectionResult("dial", "dialled too often", is_crowded=True),
    ],
)
def test_what_this_machine_lacks_or_wants_does_not_count(ours: ConnectionResult) -> None:
    fitness = Fitness()
    assert [told(fitness, ours, float(number)) for number in range(9)] == [None] * 9


def test_connection_forgets_what_was_counted() -> None:
    fitness = Fitness()
    for result in (FAILED, FAILED, CONNECTED, FAILED):
        assert told(fitness, result, 1.0) is None
