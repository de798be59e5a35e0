"""When relays are dialled again."""

import random

import pytest

from pipeline.crawl.reconnect import (
    DIALS,
    HEALTHY_S,
    ConnectionResult,
    delay_s,
    dial_rate,
    failures_after,
    is_missing,
    resumed_at,
)
from pipeline.process.rate import TokenBucket
from pipeline.relay.errors import LossReason
from tests.support.seeds import seeds

JITTER = 0.25
NOW = 10**12


class Middle(random.Random):
    """Chance that always falls in the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def delays(endings: list[ConnectionResult], failures: int = 0) -> list[float]:
    """The delay after each of `endings`, one after the other."""
    found = []
    for ending in endings:
        failures = failures_after(failures, ending)
        found.append(delay_s(failures, ending, Middle()))
    return found


REFUSED = ConnectionResult("dial", "refused")
LOST = ConnectionResult("eof", "gone", lifetime_s=5.0)
OF_USE = ConnectionResult("eof", "gone", lifetime_s=5.0, was_productive=True)
WORKED = ConnectionResult("eof", "gone", lifetime_s=HEALTHY_S)
FORGED = ConnectionResult(LossReason.FORGED, "too many", lifetime_s=10 * HEALTHY_S, was_productive=True)


def test_failed_dials_wait_5_25_125_625_seconds_then_half_an_hour() -> None:
    assert delays([REFUSED] * 8) == [5, 25, 125, 625, 1800, 1800, 1800, 1800]


def test_a_connection_that_worked_is_dialled_again_soon() -> None:
    """Much sooner than the five minutes of the Go service, and whatever failed before is forgotten."""
    assert delays([WORKED]) == [2]
    assert delays([REFUSED] * 5 + [WORKED, REFUSED])[-2:] == [2, 5]
    assert delays([WORKED] * 10) == [2] * 10


def test_connections_that_are_lost_at_once_are_dialled_ever_more_rarely() -> None:
    """A relay that accepts and drops must not be hammered."""
    found = delays([LOST] * 12)
    assert found[0] == 2
    assert found == sorted(found)
    assert found[4] >= 60
    assert found[-1] == 1800


def test_relay_that_cuts_connections_but_brings_news_is_redialled_soon() -> None:
    """Else what it has more than it gives at once would take days, and each live event half an hour."""
    assert delays([OF_USE] * 12) == [2] + [20] * 11
    assert delays([LOST] * 12 + [OF_USE])[-1] == 20
    assert delays([OF_USE] * 12 + [LOST] * 7)[-1] > 600


def test_a_loss_that_taught_to_ask_for_less_is_followed_by_a_dial_at_once() -> None:
    taught = ConnectionResult("eof", "gone", lifetime_s=5.0, has_taught=True)
    assert delays([LOST, LOST, taught, taught, LOST])[2:4] == [2, 2]
    assert failures_after(3, taught) == 3


def test_a_permanent_error_waits_as_long_as_any() -> None:
    assert delays([ConnectionResult("dial", "no such host", permanent=True)]) == [1800]


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_host_is_left_alone_for_minutes(status: int) -> None:
    """From the first time on, and no shorter later."""
    found = delays([ConnectionResult("dial", "busy", status=status)] * 6)
    assert found[0] == 300
    assert found == sorted(found)
    assert found[-1] == 1800


@pytest.mark.parametrize("status", [400, 403, 404, 500, 502])
def test_other_answers_are_failures_like_any(status: int) -> None:
    assert delays([ConnectionResult("dial", "no", status=status)] * 2) == [5, 25]


def test_what_we_lacked_ourselves_is_no_failure_of_the_relay() -> None:
    """No file descriptors, say."""
    ours = ConnectionResult("dial", "too many open files", is_local_fault=True)
    assert delays([ours] * 5) == [10] * 5
    assert failures_after(3, ours) == 3
    assert delays([REFUSED, ours, REFUSED]) == [5, 10, 25]


def test_what_we_ended_ourselves_is_no_failure_of_the_relay() -> None:
    """A stop or a changed selection: whoever starts next dials at once, however often that happens."""
    ended = ConnectionResult("closed", "closed by us", lifetime_s=5.0, by_request=True)
    assert failures_after(0, ended) == 0
    assert failures_after(4, ended) == 4
    assert failures_after(4, ConnectionResult("closed", "closed by us", lifetime_s=HEALTHY_S, by_request=True)) == 0
    assert delays([ended] * 5) == [0] * 5


@pytest.mark.parametrize("seed", seeds(2))
def test_delays_are_spread(seed: int) -> None:
    """By a quarter each way, so that a thousand relays do not come back at one moment."""
    rng = random.Random(seed)
    found = [delay_s(5, REFUSED, rng) for _ in range(500)]
    assert all(1800 * (1 - JITTER) <= delay <= 1800 * (1 + JITTER) for delay in found)
    assert max(found) - min(found) > 600


@pytest.mark.parametrize("failures", [1, 50, 100, 10**6])
def test_any_number_of_failures_has_a_delay(failures: int) -> None:
    assert delay_s(failures, REFUSED, Middle()) <= 1800
    assert delay_s(failures, LOST, Middle()) <= 1800
    assert failures_after(failures, REFUSED) <= 10**6


@pytest.mark.parametrize("status", [429, 503])
def test_relay_that_says_for_how_long_is_left_alone_so_long(status: int) -> None:
    """Never shorter than any relay that does not answer, which it may hide."""
    assert delays([ConnectionResult("dial", "busy", status=status, retry_after_s=86_400)]) == [
        86_400 * (1 + JITTER / 2)
    ]
    assert delays([ConnectionResult("dial", "busy", status=status, retry_after_s=40)]) == [40 * (1 + JITTER / 2)]
    assert delays([ConnectionResult("dial", "busy", status=status, retry_after_s=0)] * 3) == [5, 25, 125]
    rng = random.Random(1)
    assert all(delay_s(1, ConnectionResult("", "", status=status, retry_after_s=600), rng) >= 600 for _ in range(100))


def test_wait_of_another_status_is_no_order() -> None:
    assert delays([ConnectionResult("dial", "no", status=500, retry_after_s=600)]) == [5]


DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("next_dial_at", "planned_at", "expected"),
    [
        pytest.param(0, 0, 0, id="never planned"),
        pytest.param(NOW - 1, NOW - 5000, NOW - 1, id="due"),
        pytest.param(NOW + DAY_MS, NOW - 1, NOW + DAY_MS, id="a day, as the relay asked"),
        pytest.param(NOW + 10_000, NOW + 5_000, NOW, id="by a clock that was ahead"),
        pytest.param(NOW + 30 * DAY_MS, NOW - 1, NOW, id="longer than any wait"),
    ],
)
def test_dial_that_an_earlier_process_planned(next_dial_at: int, planned_at: int, expected: int) -> None:
    assert resumed_at(next_dial_at, planned_at, NOW) == expected


@pytest.mark.parametrize("crawlers", [1, 2, 3, 8, 64])
def test_so_many_processes_share_the_bound_on_dials(crawlers: int) -> None:
    """Together they begin no more than all of it, and a thousand relays are dialled within two minutes of the start."""
    allowances = [TokenBucket(dial_rate(crawlers), now=0.0) for _ in range(crawlers)]
    left, dialled = [1000 // crawlers + 1] * crawlers, 0
    for second in range(121):
        for index, allowance in enumerate(allowances):
            while left[index] and allowance.take(float(second)):
                left[index] -= 1
                dialled += 1
        assert dialled <= DIALS.burst + second * DIALS.per_minute / 60 + 1e-6
    assert not any(left)


@pytest.mark.parametrize(
    ("status", "missing"), [(404, True), (301, True), (200, True), (403, False), (503, False), (None, False)]
)
def test_no_relay_is_where_a_web_server_answers_with_something_else(status: int | None, missing: bool) -> None:
    assert is_missing(ConnectionResult("dial", "", status=status)) is missing
    assert not is_missing(ConnectionResult("error", "", lifetime_s=1.0, status=status))


def test_forging_relay_is_paused_ever_longer_whatever_else_it_brings() -> None:
    assert delays([FORGED] * 4) == [600, 1200, 1800, 1800]
