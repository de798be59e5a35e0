"""CLOSEs that a relay dropped, since it limits the rate of messages."""

from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, Eose, Notice
from pipeline.relay.closes import SentCloses
from pipeline.relay.limits import RelayLimits
from pipeline.relay.session import Session

TOO_MANY = "Subscription rejected: Too many subscriptions: 10"


def page_of(session: Session, key: str, now: float) -> str:
    session.open_page(key, Filter(limit=1), now)
    return next(each.id for each in session.subscriptions if each.key == key)


def answer(session: Session, key: str, now: float) -> str:
    subscription = page_of(session, key, now)
    list(session.receive(Eose(subscription), now))
    return subscription


def sent(session: Session) -> list[str]:
    taken = list(session.outgoing)
    session.outgoing.clear()
    return taken


def test_close_is_taken_once_a_later_request_is_answered() -> None:
    closes = SentCloses()
    closes.on_sent("P1", 1)
    closes.on_answered(1)
    closes.on_sent("P2", 2)
    closes.on_answered(2)
    closes.on_dropped()
    assert closes.take_doubtful() == ["P2"], "of the second nothing is known: it was sent after the second request"
    assert closes.take_doubtful() == []


def test_close_of_an_id_that_is_used_again_is_forgotten() -> None:
    closes = SentCloses()
    closes.on_sent("P1", 1)
    closes.on_dropped()
    closes.on_opened("P1")
    assert closes.doubtful == 0


def test_sent_closes_are_bounded_without_answers() -> None:
    closes = SentCloses()
    for number in range(10_000):
        closes.on_sent(f"P{number}", number)
    closes.on_dropped()
    assert 0 < closes.doubtful < 1_000


def test_close_that_a_rate_limit_dropped_is_sent_again_when_asked_to() -> None:
    session = Session(RelayLimits())
    first = answer(session, "a", 0.0)
    sent(session)
    list(session.receive(Notice("rate limited"), 0.0))
    assert not any(first in message for message in sent(session)), "the relay would drop it too"
    session.close_doubtful()
    assert sent(session) == [f'["CLOSE","{first}"]']
    session.close_doubtful()
    assert sent(session) == []


def test_close_that_is_dropped_again_is_sent_again() -> None:
    session = Session(RelayLimits())
    first = answer(session, "a", 0.0)
    for _ in range(2):
        list(session.receive(Notice("rate limited"), 0.0))
        sent(session)
        session.close_doubtful()
        assert sent(session) == [f'["CLOSE","{first}"]']


def test_subscriptions_whose_close_was_dropped_teach_no_limit() -> None:
    """Before, a relay that dropped CLOSEs ended with a limit of one, which leaves no room for what is live."""
    session = Session(RelayLimits(max_subscriptions=10))
    for number in range(8):
        answer(session, f"page {number}", float(number))
        list(session.receive(Notice("rate limited"), float(number)))
    page_of(session, "one more", 10.0)
    list(session.receive(Notice(TOO_MANY), 10.0))
    assert session.limits.max_subscriptions >= 8


def test_refusal_without_dropped_closes_teaches_the_limit() -> None:
    session = Session(RelayLimits(max_subscriptions=10))
    for number in range(3):
        answer(session, f"page {number}", float(number))
    for number in range(3):
        page_of(session, f"open {number}", 5.0)
    newest = page_of(session, "one more", 10.0)
    list(session.receive(Closed(newest, f"error: {TOO_MANY}", "error"), 10.0))
    assert session.limits.max_subscriptions == 3
