"""The distance of pages at a relay that limits the rate of requests."""

from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Eose, Notice
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.page_pace import FIRST_S, MAX_BLIND_S, MAX_S, QUIET_S, PagePace
from pipeline.relay.session import Session


def test_pages_follow_each_other_at_once_until_the_relay_refuses() -> None:
    pace = PagePace()
    pace.on_opened(100.0)
    assert pace.wait_until(100.0) is None
    pace.on_limited(100.0)
    assert pace.wait_until(100.0) == 100.0 + FIRST_S
    assert pace.wait_until(100.0 + FIRST_S) is None


def test_refusals_of_what_was_sent_together_count_once() -> None:
    pace = PagePace()
    for number in range(5):
        pace.on_limited(100.0 + number / 100)
    assert pace.distance_s == FIRST_S


def test_relay_that_serves_a_page_in_three_seconds_is_asked_as_often() -> None:
    pace, tokens, now, refused, served = PagePace(), 20.0, 0.0, list[float](), 0
    while now < 1_200:
        if pace.wait_until(now) is None:
            pace.on_opened(now)
            if tokens >= 1:
                tokens -= 1
                served += 1
                pace.on_answered()
            else:
                refused.append(now)
                pace.on_limited(now)
                now += 4
                tokens += 4 / 3
        now += 0.1
        tokens = min(20.0, tokens + 0.1 / 3)
    assert served > 0.6 * 1_200 / 3
    assert sum(at > 300 for at in refused) < 20


def test_distance_is_bounded_and_ends_in_quiet() -> None:
    pace, now = PagePace(), 0.0
    for _ in range(50):
        now += 20
        pace.on_answered()
        pace.on_limited(now)
    pace.on_opened(now)
    assert pace.wait_until(now) == now + MAX_S
    pace.on_opened(now + QUIET_S)
    assert pace.wait_until(now + QUIET_S) is None


def test_relay_that_refused_all_for_a_while_is_soon_asked_as_before() -> None:
    """Nothing was answered meanwhile, so that nothing shows what it serves: the distance says little, and goes soon."""
    pace, now = PagePace(), 0.0
    for wait in (2.0, 4.0, 8.0, 16.0, 32.0):
        now += wait
        pace.on_limited(now)
    assert pace.distance_s == MAX_BLIND_S
    for _ in range(10):
        pace.on_answered()
    assert pace.distance_s < 0.1


def test_session_tells_until_when_pages_wait() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    session.open_page("a", Filter(limit=1), 5.0)
    (page,) = session.subscriptions
    list(session.receive(Eose(page.id), 5.0))
    assert session.pages_wait_until(5.0) is None
    session.open_page("b", Filter(limit=1), 6.0)
    list(session.receive(Notice("rate limited"), 6.0))
    assert session.pages_wait_until(6.0) == 6.0 + FIRST_S
