"""How soon lost relays are tried again, and which first."""

import random

import pytest

from pipeline.crawl.dial_queue import MAX_DIALS, MAX_FAST_DIALS, DialBounds, DialQueue, DueRelay
from pipeline.crawl.lost_relays import FAST_S, FORGOTTEN_S, LostRelays
from pipeline.crawl.reconnect import FAST_DIALS, HEALTHY_S, ConnectionResult, dial_rate, fast_dial_rate
from pipeline.process.rate import Rate, TokenBucket
from pipeline.relay.dial import QUICK_CONNECT_S
from pipeline.relay.errors import LossReason

LOSS = ConnectionResult("eof", "gone", lifetime_s=HEALTHY_S, was_productive=True)
SILENCE = ConnectionResult("dial", "timeout")
TIMEOUT = ConnectionResult("dial", "timeout", timed_out=True)
REFUSED = ConnectionResult("dial", "refused", answered=True)


def lost_relays(*relays: int, now: float = 0.0) -> LostRelays:
    made = LostRelays(random.Random(1))
    for relay in relays:
        assert made.on_ending(relay, LOSS, now) is not None
    return made


def waits(made: LostRelays, relay: int, until: float) -> list[tuple[float, float]]:
    """When the relay is dialled in vain, and how long is waited after each."""
    found, now = [], 0.0
    while now < until and (wait := made.on_ending(relay, SILENCE, now)) is not None:
        found.append((now, wait))
        now += wait
    return found


def test_lost_relay_is_redialled_in_seconds_for_minutes_then_slower() -> None:
    found = waits(lost_relays(1), 1, 2 * FORGOTTEN_S)
    assert all(1 <= wait <= 3 for at, wait in found if at < FAST_S)
    assert all(10 <= wait <= 20 for at, wait in found if at >= FAST_S)
    assert FORGOTTEN_S - 20 < found[-1][0] < FORGOTTEN_S
    assert len({wait for _, wait in found}) > len(found) / 2, "without jitter"


def test_lost_relay_whose_dial_took_seconds_is_redialled_at_once() -> None:
    made = lost_relays(1)
    soon = [made.on_ending(1, TIMEOUT, float(at)) for at in range(int(FAST_S))]
    assert all(wait is not None and 0 < wait < 1 for wait in soon)
    later = made.on_ending(1, TIMEOUT, FAST_S)
    assert later is not None
    assert later >= 10


def test_only_relays_lost_minutes_ago_are_dialled_with_short_waits() -> None:
    made = lost_relays(1)
    made.on_ending(1, TIMEOUT, 1.0)
    assert (made.is_fast(1, FAST_S - 1), made.is_fast(1, FAST_S), made.is_fast(2, 1.0)) == (True, False, False)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(ConnectionResult("eof", "", lifetime_s=HEALTHY_S), id="it brought nothing"),
        pytest.param(ConnectionResult("eof", "", lifetime_s=HEALTHY_S - 1, was_productive=True), id="it did not last"),
        pytest.param(
            ConnectionResult("closed", "", lifetime_s=HEALTHY_S, was_productive=True, by_request=True), id="we ended it"
        ),
        pytest.param(SILENCE, id="it never was"),
        pytest.param(
            ConnectionResult(LossReason.FORGED, "", lifetime_s=HEALTHY_S, was_productive=True), id="it forged"
        ),
    ],
)
def test_other_relays_follow_the_common_schedule(loss: ConnectionResult) -> None:
    made = LostRelays(random.Random(1))
    assert made.on_ending(1, loss, 0.0) is None
    assert made.on_ending(1, SILENCE, 1.0) is None


@pytest.mark.parametrize("status", [502, 504])
def test_proxy_in_front_of_a_relay_that_is_down_is_not_its_answer(status: int) -> None:
    made = lost_relays(1)
    assert made.on_ending(1, ConnectionResult("dial", "", status=status), 2.0) is not None


@pytest.mark.parametrize(
    "ending",
    [
        *(ConnectionResult("dial", "", status=status) for status in (429, 503, 200, 301, 403, 404, 500)),
        ConnectionResult("dial", "unknown name", permanent=True),
        ConnectionResult("eof", "", lifetime_s=5.0, was_productive=True),
    ],
)
def test_any_other_answer_ends_the_haste(ending: ConnectionResult) -> None:
    made = lost_relays(1)
    assert made.on_ending(1, ending, 2.0) is None
    assert made.on_ending(1, SILENCE, 4.0) is None


def test_what_this_machine_lacked_ends_no_haste() -> None:
    made = lost_relays(1)
    assert made.on_ending(1, ConnectionResult("dial", "too many open files", is_local_fault=True), 1.0) is None
    assert made.on_ending(1, SILENCE, 2.0) is not None


def due(*relays: int, operators: tuple[int, ...] = ()) -> list[DueRelay]:
    return [DueRelay(relay, 0.0, rank, relay in operators) for rank, relay in enumerate(relays)]


def queue(lost: LostRelays, *, burst: int = 1000, fast: int = 1000) -> DialQueue:
    return DialQueue(DialBounds(TokenBucket(Rate(burst, 0.0), 0.0), TokenBucket(Rate(fast, 0.0), 0.0)), lost)


def dialled(made: DialQueue, relays: list[DueRelay], *, connected: int = 1000, now: float = 3.0) -> list[int]:
    under_way: set[int] = set()
    found = []
    for relay in made.take(relays, under_way, connected, now):
        under_way.add(relay)
        found.append(relay)
    return found


def test_lost_relays_come_first_the_best_before_the_others() -> None:
    assert dialled(queue(lost_relays(3, 4)), due(1, 4, 2, 3)) == [4, 3, 1, 2]


def test_each_lost_relay_has_its_turn_before_the_best_has_another() -> None:
    lost = lost_relays(1, 2, 3)
    lost.on_ending(1, REFUSED, 1.0)
    assert dialled(queue(lost), due(1, 2, 3)) == [2, 3, 1]


def test_lost_relays_take_half_of_the_slots_and_of_the_dials_at_most() -> None:
    lost = lost_relays(*range(100))
    lost.on_connected(1.0)
    relays = due(*range(200))
    taken = dialled(queue(lost), relays)
    assert (len(taken), sum(relay < 100 for relay in taken)) == (MAX_DIALS, MAX_FAST_DIALS)
    taken = dialled(queue(lost, fast=3), relays)
    assert (len(taken), sum(relay < 100 for relay in taken)) == (MAX_DIALS, 3)
    assert len(dialled(queue(lost, burst=5), relays)) == MAX_FAST_DIALS + 5
    assert (fast_dial_rate(1), fast_dial_rate(64).burst) == (FAST_DIALS, 1)


def test_while_the_line_is_down_only_the_operators_relays_are_tried() -> None:
    lost = lost_relays(*range(10))
    relays = due(*range(10), operators=(7, 8))
    assert dialled(queue(lost), relays, connected=3) == [7, 8]
    lost.on_ending(7, SILENCE, 2.0)
    assert dialled(queue(lost), relays, connected=3) == [8, 7]
    lost.on_ending(8, REFUSED, 2.5)
    assert dialled(queue(lost), relays, connected=3) == [0, 1, 2, 3, 4, 5, 6, 9, 7, 8]


def test_best_relay_stands_for_all_where_the_operator_named_none() -> None:
    assert dialled(queue(lost_relays(*range(10))), due(5, *range(5), *range(6, 10)), connected=3) == [5]


@pytest.mark.parametrize(("lost", "connected"), [(3, 0), (10, 10), (10, 500)])
def test_few_losses_say_nothing_about_the_line(lost: int, connected: int) -> None:
    made = queue(lost_relays(*range(lost)))
    assert dialled(made, due(*range(lost)), connected=connected) == list(range(lost))


def test_connection_shows_that_the_line_works() -> None:
    lost = lost_relays(*range(10))
    lost.on_connected(1.0)
    assert len(dialled(queue(lost), due(*range(10)), connected=0)) == 10


def test_relay_that_is_crawled_no_more_is_forgotten() -> None:
    lost = lost_relays(1)
    lost.forget(1)
    lost.forget(2)
    assert 1 not in lost


@pytest.mark.parametrize("away_s", [8, 60, 280])
def test_fifty_lost_relays_are_back_within_three_seconds_of_answering(away_s: int) -> None:
    """Each dial is refused at once."""
    assert max(returns(50, away_s, REFUSED, 0.0)) <= 3.0


@pytest.mark.parametrize("away_s", [8, 60, 280])
def test_fifty_relays_whose_hosts_are_gone_are_back_within_three_seconds(away_s: int) -> None:
    """Each dial waits for its host, so that all places are taken; the second SYN of one that waits finds it."""
    assert max(returns(50, away_s, TIMEOUT, QUICK_CONNECT_S)) <= 3.0


# When a SYN without an answer is sent again, on Linux.
_SECOND_SYN_S = 1.0


def returns(count: int, away_s: int, ending: ConnectionResult, takes_s: float) -> list[float]:
    """How long after their return lost relays are found, where dials end so and take so long until then.

    Turn by turn, as a crawler's main loop goes.
    """
    lost = LostRelays(random.Random(1))
    bounds = DialBounds(TokenBucket(dial_rate(1), 0.0), TokenBucket(fast_dial_rate(1), 0.0))
    made = DialQueue(bounds, lost)
    due_at = {relay: wait for relay in range(count) if (wait := lost.on_ending(relay, LOSS, 0.0)) is not None}
    dialled_at: dict[int, float] = {}
    back: dict[int, float] = {}
    for now in (turn / 10 for turn in range(10 * (away_s + 60))):
        for relay, at in list(dialled_at.items()):
            is_heard = at >= away_s or (at + _SECOND_SYN_S >= away_s and now >= at + _SECOND_SYN_S)
            if is_heard:
                back[relay] = now - away_s
                del dialled_at[relay]
            elif now >= at + takes_s:
                del dialled_at[relay]
                wait = lost.on_ending(relay, ending, now)
                assert wait is not None
                due_at[relay] = now + wait
        ready = [DueRelay(relay, at, relay, False) for relay, at in due_at.items() if at <= now]
        for relay in made.take(ready, dialled_at.keys(), 1000, now):
            dialled_at[relay] = now
            del due_at[relay]
    assert len(back) == count
    return list(back.values())
