"""Relays that hear nothing at first, that let requests wait, and that never answer what is too much for them."""

from dataclasses import replace

import orjson
import pytest

from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, Eose, Notice
from pipeline.relay.dimensions import Dimension, Source
from pipeline.relay.doubts import ALONE_S
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.silence import REPEAT_AFTER_S, Silences
from pipeline.relay.subscription import FIRST_ANSWER_S, LiveEnded, PageEnded

LIVE = Filter(kinds=frozenset({1}), limit=0)


def page(members: int = 1) -> Filter:
    return Filter(authors=frozenset(bytes([n]) * 32 for n in range(members)), limit=500)


class Client:
    def __init__(self, silences: Silences | None = None, limits: RelayLimits | None = None) -> None:
        self.session = Session(LearnedLimits(limits or RelayLimits()), silences=silences)

    def ask(self, key: str, now: float = 0.0, members: int = 1) -> str:
        self.session.open_page(key, page(members), now)
        return self.sent()[-1][1]

    def subscribe(self, key: str, now: float = 0.0, limit: int = 0) -> str:
        self.session.open_live(key, [replace(LIVE, limit=limit)], now)
        return self.sent()[-1][1]

    def answer(self, name: str, now: float) -> list[object]:
        return list(self.session.receive(Eose(name), now))

    def expired(self, now: float) -> list[str]:
        return [each.key for each in self.session.on_timeout(now) if isinstance(each, PageEnded)]

    def sent(self) -> list[list[str]]:
        frames = [orjson.loads(frame)[:2] for frame in self.session.outgoing]
        self.session.outgoing.clear()
        return frames


def test_unheard_requests_are_repeated_once_a_page_is_answered() -> None:
    client = Client()
    live, first, second = client.subscribe("0"), client.ask("a"), client.ask("b")
    assert client.session.next_deadline() == REPEAT_AFTER_S
    assert client.expired(REPEAT_AFTER_S) == []
    (close, (kind, again)) = client.sent()
    assert (close, kind) == (["CLOSE", first], "REQ")
    assert client.answer(again, 2.1)
    assert sorted(kind for kind, _ in client.sent()) == ["CLOSE", "CLOSE", "CLOSE", "REQ", "REQ"]
    assert not {live, second} & {each.id for each in client.session.subscriptions}
    assert (client.session.pages, client.session.live_subscriptions) == (1, 1)


def test_relay_slow_only_at_first_gets_one_page_twice_and_nothing_else() -> None:
    client = Client()
    client.subscribe("0")
    first, second = client.ask("a"), client.ask("b")
    client.expired(REPEAT_AFTER_S)
    again = client.sent()[-1][1]
    assert not client.answer(first, 2.5), "closed by then"
    assert client.answer(second, 2.5)
    assert client.answer(again, 2.6)
    assert client.sent() == [["CLOSE", second], ["CLOSE", again]]


def test_nothing_is_repeated_where_anything_is_answered_at_once() -> None:
    client = Client()
    live = client.subscribe("0")
    client.ask("a")
    client.answer(live, 0.1)
    assert client.expired(REPEAT_AFTER_S) == []
    assert client.sent() == []


def test_nothing_is_learned_of_what_was_sent_before_the_first_answer() -> None:
    client = Client()
    client.ask("a", members=200)
    live = client.subscribe("0")
    client.answer(live, 1.0)
    client.ask("b", 2.0)
    assert client.expired(FIRST_ANSWER_S) == ["a"]
    assert (client.session.limits, client.session.wants_another_connection) == (RelayLimits(), False)


def silent(client: Client, members: int = 1) -> None:
    """A page without an answer, while one that was sent later has one."""
    client.answer(client.subscribe("0"), 0.1)
    client.ask("dropped", 1.0, members)
    client.answer(client.ask("later", 2.0), 3.0)
    assert client.expired(1.0 + FIRST_ANSWER_S) == ["dropped"]


def test_silence_teaches_what_another_connection_shows_again() -> None:
    silences = Silences()
    once = Client(silences)
    silent(once, members=200)
    assert once.session.limits == RelayLimits()
    assert once.session.wants_another_connection
    silent(once, members=200)
    assert once.session.limits == RelayLimits(), "the same connection shows no more than before"
    again = Client(silences)
    silent(again, members=200)
    assert not again.session.wants_another_connection
    assert again.session.limits.max_authors == 100
    bound = again.session.limits.bound(Dimension.AUTHORS)
    assert bound is not None
    assert bound.source is Source.SILENCE


def test_silence_beyond_the_most_ever_open_teaches_max_subscriptions() -> None:
    silences = Silences()
    for _ in range(2):
        client = Client(silences)
        for key in "abc":
            client.answer(client.subscribe(key), 0.1)
        client.ask("dropped", 1.0)
        assert client.expired(1.0 + FIRST_ANSWER_S) == ["dropped"]
    assert client.session.limits.max_subscriptions == 3


def all_pages_dropped(client: Client) -> None:
    """One live subscription takes the only place, and whatever is asked for with it is dropped."""
    live = client.subscribe("0")
    for key in "ab":
        client.session.open_page(key, page(), 0.0, patience=4.0)
    client.answer(live, 0.1)


def test_pages_all_dropped_beside_a_live_subscription_leave_one_place() -> None:
    silences = Silences()
    first = Client(silences)
    all_pages_dropped(first)
    assert first.expired(4 * FIRST_ANSWER_S) == ["a", "b"]
    assert (first.session.limits, first.session.wants_another_connection) == (RelayLimits(), True)
    second = Client(silences)
    all_pages_dropped(second)
    assert second.expired(FIRST_ANSWER_S) == ["a", "b"], "the second time is waited for no longer than usual"
    assert (second.session.limits.max_subscriptions, second.session.wants_another_connection) == (1, False)


def test_unanswered_live_subscription_beside_pages_asks_for_one_event() -> None:
    """nostr-rs-relay subscribes to `limit: 0` without an EOSE; other relays do not subscribe."""
    silences = Silences()
    for _ in range(2):
        client = Client(silences)
        live = client.subscribe("0")
        client.answer(client.ask("a", 1.0), 2.0)
        assert client.expired(FIRST_ANSWER_S - 1) == []
        assert client.sent() == [["CLOSE", "P2"]]
        assert client.expired(FIRST_ANSWER_S) == []
        (frame,) = client.session.outgoing
        kind, name, *filters = orjson.loads(frame)
        assert (kind, name, [each["limit"] for each in filters]) == ("REQ", live, [1])
        client.sent()
        for number in range(20):
            client.answer(client.ask("b", 100.0 * number), 100.0 * number + 1)
            assert client.expired(100.0 * number + 90) == []
            assert {kind for kind, name in client.sent() if name == live} == set(), "once"
        assert (client.session.limits, client.session.live_subscriptions) == (RelayLimits(), 1)


def test_relay_that_serves_requests_in_turn_gets_fewer_at_once() -> None:
    """nostr-rs-relay with a limit on subscriptions a minute: the connection stands still, and nothing is broken."""
    client = Client(Silences())
    client.answer(client.ask("a"), 0.1)
    for at in (1.0, 2.0 + FIRST_ANSWER_S):
        assert client.session.limits == RelayLimits()
        for key in "bcd":
            client.ask(key, at)
        assert client.expired(at + FIRST_ANSWER_S) == ["b", "c", "d"]
    limits = client.session.limits
    assert (limits.max_subscriptions, limits.max_authors, limits.max_filters) == (18, 250, 10)
    assert limits.max_pages == 1
    assert not client.session.wants_another_connection


def test_relay_that_answered_another_page_meanwhile_serves_in_turn() -> None:
    client = Client(Silences())
    client.answer(client.ask("a"), 0.1)
    first, _ = client.ask("b", 1.0), client.ask("c", 1.0)
    client.answer(first, FIRST_ANSWER_S - 1)
    assert client.expired(1.0 + FIRST_ANSWER_S) == ["c"]
    assert client.session.limits.max_pages == RelayLimits().max_pages - 1


def test_relay_that_answers_nothing_for_half_a_minute_teaches_nothing() -> None:
    """Its process is stopped, or busy with something else."""
    client = Client(Silences())
    client.answer(client.ask("a"), 0.1)
    for at in (1.0, 101.0, 201.0):
        for key in "bcd":
            client.ask(key, at)
        assert client.expired(at + FIRST_ANSWER_S) == ["b", "c", "d"]
        client.answer(client.ask("a", at + 50.0), at + 51.0)
    assert client.session.limits == RelayLimits()
    assert not client.session.wants_another_connection


@pytest.mark.parametrize("answered", [0, 1])
def test_a_notice_without_a_name_is_about_a_page_that_stays_unanswered(answered: int) -> None:
    """relayer says no more than this, and no EOSE."""
    client = Client()
    client.answer(client.subscribe("0"), 0.1)
    names = [client.ask(key, 1.0) for key in "abc"]
    assert list(client.session.receive(Notice("REQ filters are not accepted"), 1.1)) == []
    for name in names[:answered]:
        client.answer(name, 2.0)
    assert client.expired(3.1) == ["a", "b", "c"][answered:]
    assert client.session.live_subscriptions == 1, "a live one is never blamed"
    for key in "abc"[answered:]:
        assert client.session.has_room_for_page()
        client.ask(key, 4.0)
        (ended,) = client.session.receive(Notice("REQ filters are not accepted"), 4.1)
        assert isinstance(ended, PageEnded)
        assert (ended.key, str(ended.refusal)) == (key, "unsupported")
    assert client.session.limits == RelayLimits()


def test_pages_in_doubt_are_asked_for_one_at_a_time() -> None:
    client = Client()
    for key in "ab":
        client.ask(key, 1.0)
    list(client.session.receive(Notice("REQ filters are not accepted"), 1.1))
    assert client.expired(3.1) == ["a", "b"]
    name = client.ask("a", 4.0)
    assert not client.session.has_room_for_page()
    client.answer(name, 4.1)
    name = client.ask("b", 4.2)
    assert not client.session.has_room_for_page()
    client.answer(name, 4.3)
    client.ask("c", 4.4)
    assert client.session.has_room_for_page()


def test_an_eose_after_a_notice_that_names_a_limit_is_no_answer() -> None:
    """khatru on eventstore's sqlite3."""
    client = Client()
    client.answer(client.subscribe("0"), 0.1)
    small, large = client.ask("small", 1.0), client.ask("large", 1.0, 200)
    (ended,) = client.session.receive(Notice("too many authors"), 1.1)
    assert isinstance(ended, PageEnded)
    assert (ended.key, str(ended.refusal)) == ("large", "too-large")
    assert client.answer(large, 1.2) == []
    assert client.answer(small, 1.3)
    assert client.session.limits == RelayLimits().narrowed(Dimension.AUTHORS, 100)


def test_a_notice_with_a_path_is_about_who_has_that_form() -> None:
    client = Client()
    live = client.subscribe("0")
    client.ask("few", 1.0)
    client.session.open_page("many", Filter(kinds=frozenset(range(181)), limit=500), 1.0)
    client.ask("few too", 1.0)
    text = 'invalid: must be less than or equal to 20 kinds at "[2].kinds"'
    (ended,) = client.session.receive(Notice(text), 1.1)
    assert isinstance(ended, PageEnded)
    assert ended.key == "many"
    assert client.session.limits == RelayLimits().narrowed(Dimension.KINDS, 20)
    assert live in client.session.subscriptions


def test_a_notice_with_the_id_is_about_that_subscription() -> None:
    client = Client()
    names = [client.ask(key) for key in "abc"]
    (ended,) = client.session.receive(Notice(f"error: {names[1]}: busy"), 1.0)
    assert isinstance(ended, PageEnded)
    assert ended.key == "b"


def test_refused_limit_zero_is_retried_with_a_limit_and_blames_no_page() -> None:
    client = Client()
    client.subscribe("0")
    client.ask("a")
    (ended,) = client.session.receive(Notice('invalid: "limit" must be greater than or equal to 1'), 0.1)
    assert not isinstance(ended, PageEnded)
    assert client.session.pages == 1
    assert client.session.limits == RelayLimits(refuses_zero=True)


@pytest.mark.parametrize("limit", [0, 1])
def test_closed_without_reason_is_blamed_on_limit_zero_once(limit: int) -> None:
    client = Client()
    live = client.subscribe("0", limit=limit)
    (ended,) = client.session.receive(Closed(live, "invalid: bad filter", "invalid"), 0.1)
    assert isinstance(ended, LiveEnded)
    assert ended.refusal is (RelayRefusal.UNSUPPORTED if limit else RelayRefusal.ZERO_LIMIT)
    assert client.session.limits == RelayLimits(refuses_zero=not limit)


def test_unnamed_notice_is_assigned_to_limit_zero_if_pages_are_answered() -> None:
    client = Client()
    live = client.subscribe("0")
    page = client.ask("a")
    assert list(client.session.receive(Notice("invalid: bad filter"), 0.1)) == []
    assert client.answer(page, 0.2), "no page is blamed"
    deadline = client.session.next_deadline()
    assert deadline is not None
    (ended,) = client.session.on_timeout(deadline)
    assert isinstance(ended, LiveEnded)
    assert (ended.refusal, client.session.limits) == (RelayRefusal.ZERO_LIMIT, RelayLimits(refuses_zero=True))
    assert client.sent() == [["CLOSE", page], ["CLOSE", live]]


def test_another_refusal_puts_those_in_doubt_that_were_asked_for_since() -> None:
    client = Client()
    client.answer(client.subscribe("0"), 0.1)
    first = client.ask("a", 1.0)
    client.ask("b", 1.0)
    list(client.session.receive(Notice("REQ filters are not accepted"), 1.1))
    client.answer(first, 1.2)
    client.ask("c", 2.0)
    list(client.session.receive(Notice("REQ filters are not accepted"), 2.1))
    assert client.expired(3.1) == ["b"]
    deadline = client.session.next_deadline()
    assert deadline is not None
    assert deadline <= 4.1
    assert client.expired(4.1) == ["c"]


def test_ambiguous_refusal_is_assigned_to_the_page_left_unanswered() -> None:
    client = Client()
    client.answer(client.ask("first"), 0.1)
    client.subscribe("0", 1.0, limit=1)
    name = client.ask("a", 1.0)
    assert list(client.session.receive(Notice("REQ filters are not accepted"), 1.1)) == []
    client.answer(name, 1.2)
    assert client.expired(3.1) == [], "the live one was meant"
    client.ask("b", 4.0)
    assert list(client.session.receive(Notice("REQ filters are not accepted"), 4.1)) == []
    (ended,) = client.session.on_timeout(6.1)
    assert isinstance(ended, PageEnded)
    assert (ended.key, str(ended.refusal)) == ("b", "unsupported")
    assert client.session.live_subscriptions == 1


def test_page_to_be_asked_alone_keeps_its_turn() -> None:
    client = Client()
    for key in "ab":
        client.ask(key, 1.0)
    list(client.session.receive(Notice("REQ filters are not accepted"), 1.1))
    assert client.expired(3.1) == ["a", "b"]
    for n in range(5):
        client.answer(client.ask(f"other {n}", 3.2), 3.3)
    client.ask("a", 4.0)
    assert not client.session.has_room_for_page()
    client.session.cancel_page("a", 4.0)
    assert client.expired(3.1 + ALONE_S) == []
    client.ask("c", 30.0)
    assert client.session.has_room_for_page(), "what is wanted no more is waited for no longer"
