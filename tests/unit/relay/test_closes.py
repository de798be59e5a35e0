"""CLOSEs that a relay dropped, since it limits the rate of messages."""

from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, Eose, Notice
from pipeline.relay.closes import SentCloses
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.subscription import LiveEnded
from tests.support.plans import event

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
    assert closes.take_doubtful(9) == ["P2"], "of the second nothing is known: it was sent after the second request"
    assert closes.take_doubtful(9) == []


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
    session = Session(LearnedLimits(RelayLimits()))
    first = answer(session, "a", 0.0)
    sent(session)
    list(session.receive(Notice("rate limited"), 0.0))
    assert not any(first in message for message in sent(session)), "the relay would drop it too"
    session.close_doubtful()
    assert sent(session) == [f'["CLOSE","{first}"]']
    session.close_doubtful()
    assert sent(session) == []


def test_close_that_is_dropped_again_is_sent_again() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    first = answer(session, "a", 0.0)
    for _ in range(2):
        list(session.receive(Notice("rate limited"), 0.0))
        sent(session)
        session.close_doubtful()
        assert sent(session) == [f'["CLOSE","{first}"]']


def test_subscriptions_whose_close_was_dropped_teach_no_limit() -> None:
    """Before, a relay that dropped CLOSEs ended with a limit of one, which leaves no room for what is live."""
    session = Session(LearnedLimits(RelayLimits(max_subscriptions=10)))
    for number in range(8):
        answer(session, f"page {number}", float(number))
        list(session.receive(Notice("rate limited"), float(number)))
    page_of(session, "one more", 10.0)
    list(session.receive(Notice(TOO_MANY), 10.0))
    assert session.limits.max_subscriptions >= 8


def test_refusal_without_dropped_closes_teaches_the_limit() -> None:
    session = Session(LearnedLimits(RelayLimits(max_subscriptions=10)))
    for number in range(3):
        answer(session, f"page {number}", float(number))
    for number in range(3):
        page_of(session, f"open {number}", 5.0)
    newest = page_of(session, "one more", 10.0)
    list(session.receive(Closed(newest, f"error: {TOO_MANY}", "error"), 10.0))
    assert session.limits.max_subscriptions == 3


def test_only_as_many_are_closed_again_as_there_must_be_room_for() -> None:
    session = Session(LearnedLimits(RelayLimits(max_subscriptions=10)))
    closed = [answer(session, f"page {number}", 0.0) for number in range(4)]
    list(session.receive(Notice("rate limited"), 0.0))
    sent(session)
    session.close_doubtful()
    assert sent(session) == [f'["CLOSE","{closed[-1]}"]'], "the others were sent before a request that was answered"
    session = Session(LearnedLimits(RelayLimits(max_subscriptions=4)))
    pages = [page_of(session, f"page {number}", 0.0) for number in range(3)]
    for each in pages:
        list(session.receive(Eose(each), 0.0))
    list(session.receive(Notice("rate limited"), 0.0))
    sent(session)
    session.close_doubtful()
    assert len(sent(session)) == 1
    list(session.receive(Notice("rate limited"), 0.0))
    page_of(session, "open", 0.0)
    sent(session)
    session.close_doubtful()
    assert len(sent(session)) == 3


def live(session: Session, authors: int, now: float) -> str:
    session.open_live("0", [Filter(authors=frozenset(bytes([each]) * 32 for each in range(authors)), limit=0)], now)
    (subscription,) = (each.id for each in session.subscriptions if not each.is_page)
    return subscription


def test_live_subscription_stands_where_its_replacement_was_dropped() -> None:
    """It is still open at the relay; a CLOSE would end it there until another may be opened."""
    session = Session(LearnedLimits(RelayLimits()))
    first = live(session, 1, 0.0)
    list(session.receive(Eose(first), 0.0))
    assert live(session, 2, 1.0) == first
    sent(session)
    ended = list(session.receive(Notice("rate limited"), 1.0))
    assert ended == [LiveEnded("0", RelayRefusal.RATE_LIMITED, "rate limited")]
    assert sent(session) == []
    (stands,) = session.subscriptions
    assert (stands.id, len(stands.filters[0].authors or ())) == (first, 1)
    assert live(session, 2, 5.0) == first, "it is replaced under its id later on"


def test_event_under_a_replaced_id_is_no_answer_to_the_new_request() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    first = live(session, 1, 0.0)
    list(session.receive(Eose(first), 0.0))
    live(session, 2, 1.0)
    session.note_event(first, event(5, bytes(32)), 1.0)
    assert len(list(session.receive(Notice("rate limited"), 1.0))) == 1


def test_dropped_request_goes_back_to_what_the_relay_took_last() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    first = live(session, 1, 0.0)
    list(session.receive(Eose(first), 0.0))
    live(session, 2, 1.0)
    live(session, 3, 1.1)
    list(session.receive(Notice("rate limited"), 1.2))
    (stands,) = session.subscriptions
    assert len(stands.filters[0].authors or ()) == 1
    live(session, 3, 9.0)
    list(session.receive(Eose(first), 9.0))
    (stands,) = session.subscriptions
    assert stands.previous is None
