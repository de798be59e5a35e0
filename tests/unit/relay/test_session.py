"""The subscriptions of one connection: what completes a page, what ends it, and what a refusal teaches."""

import random
from dataclasses import replace

import orjson
import pytest

from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, Eose, Notice, Ok, RelayMessage, Unknown
from pipeline.nostr.notices import reason_prefix
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.sighting import Sighting
from pipeline.relay.subscription import FIRST_ANSWER_S, NEXT_ANSWER_S, LiveEnded, PageEnded
from pipeline.relay.unread import MAX_UNREAD_SPANS
from tests.support.seeds import seeds

ALICE, BOB = b"a" * 32, b"b" * 32
PAGE = Filter(authors=frozenset({ALICE}), since=100, until=200, limit=500)
LIVE = Filter(authors=frozenset({ALICE}), limit=0)
MANY = Filter(authors=frozenset(bytes([n]) * 32 for n in range(100)), kinds=frozenset(range(60)), limit=500)


def event(created_at: int, author: bytes = ALICE, kind: int = 1) -> Event:
    return Event(created_at.to_bytes(32), author, created_at, kind, [], "", b"s" * 64)


def sent(session: Session) -> list[list[object]]:
    """The requests since the last call, filters left out: type and subscription id."""
    frames = [orjson.loads(frame)[:2] for frame in session.outgoing]
    session.outgoing.clear()
    return frames


def open_page(session: Session, key: str = "p", now: float = 0.0) -> str:
    session.open_page(key, PAGE, now)
    return str(sent(session)[-1][1])


def open_live(session: Session, key: str = "0", now: float = 0.0) -> str:
    session.open_live(key, [LIVE], now)
    return str(sent(session)[-1][1])


def expired(session: Session, now: float) -> list[str]:
    """The keys of what silence has ended."""
    return [each.key for each in session.on_timeout(now) if isinstance(each, PageEnded | LiveEnded)]


def closed(subscription: str, reason: str) -> Closed:
    return Closed(subscription, reason, reason_prefix(reason))


def complete(key: str, count: int = 0, oldest: int | None = None, newest: int | None = None, **more: int) -> PageEnded:
    return replace(PageEnded(key, None, "", count, oldest, newest), **more)  # type: ignore[arg-type]


def test_a_page_is_a_request_of_its_own_that_ends_complete_at_its_eose() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    session.open_page("p", PAGE, 0.0)
    assert orjson.loads(session.outgoing[0]) == ["REQ", "P1", orjson.loads(PAGE.encode())]
    page = str(sent(session)[0][1])
    for created_at in (200, 150, 100):
        session.note_event(page, event(created_at), 1.0)
    assert list(session.receive(Eose(page), 2.0)) == [complete("p", 3, 100, 200)]
    assert sent(session) == [["CLOSE", page]]
    assert len(session.subscriptions) == 0


def test_every_page_has_an_id_that_was_never_used_before() -> None:
    """A late answer to the page before must not be taken for one to this page."""
    session = Session(LearnedLimits(RelayLimits()))
    ids = []
    for _ in range(3):
        ids.append(open_page(session))
        session.cancel_page("p", 0.0)
        assert sent(session) == [["CLOSE", ids[-1]]]
    assert len(set(ids)) == 3
    fresh = open_page(session)
    assert list(session.receive(Eose(ids[0]), 1.0)) == []
    session.note_event(ids[0], event(150), 1.0)
    assert session.unasked == 1
    assert list(session.receive(Eose(fresh), 1.0)) == [complete("p")]


def test_only_eose_completes() -> None:
    """Neither other messages nor an EOSE for something else do."""
    session = Session(LearnedLimits(RelayLimits()))
    page, live = open_page(session), open_live(session)
    for message in (
        Eose(live),
        Eose("P99"),
        Eose(""),
        Ok(ALICE, True, "", ""),
        Unknown("EOS"),
        Notice(""),
        Notice("hi"),
    ):
        assert list(session.receive(message, 1.0)) == []
    assert (session.pages, session.live_subscriptions) == (1, 1)
    assert list(session.receive(Eose(page), 1.0)) == [complete("p")]
    assert list(session.receive(Eose(page), 1.0)) == []


def test_events_that_were_not_asked_for_count_to_the_limit_only() -> None:
    """They do not keep a silent relay's page alive."""
    session = Session(LearnedLimits(RelayLimits()))
    list(session.receive(Eose(open_page(session, "first")), 0.0))
    page = open_page(session)
    for stray in (event(150, BOB), event(99, BOB)):
        session.note_event(page, stray, FIRST_ANSWER_S - 1)
    session.note_event("nobody's", event(150), FIRST_ANSWER_S - 1)
    assert session.unasked == 3
    assert list(session.on_timeout(FIRST_ANSWER_S)) == [
        PageEnded("p", RelayRefusal.TIMEOUT, "no answer", 0, None, None, strangers=2)
    ]


def test_events_of_other_times_are_told_apart_from_those_of_the_page() -> None:
    """A relay that goes by no times is found out by them; its page is not one second wider for it."""
    session = Session(LearnedLimits(RelayLimits()))
    page = open_page(session)
    for created_at in (250, 201, 150, 99):
        session.note_event(page, event(created_at), 1.0)
    assert list(session.receive(Eose(page), 2.0)) == [complete("p", 1, 150, 150, newer=2, older=1)]
    assert session.unasked == 0


def test_events_of_a_page_that_came_live_beside_it_are_counted() -> None:
    """In either order, by a subscription that asks for them, and once each."""
    session = Session(LearnedLimits(RelayLimits()))
    live, page = open_live(session), open_page(session)
    first, second, other = event(110), event(120), event(130)
    session.note_event(page, first, 1.0)
    session.note_event(live, first, 1.0)
    session.record_event_time(live, 120, 1.0, second.id)
    session.record_event_time(page, 120, 1.0, second.id)
    session.note_event(page, second, 1.0)
    session.note_event(page, other, 1.0)
    session.note_event(live, event(140), 1.0)
    (ended,) = session.receive(Eose(page), 2.0)
    assert isinstance(ended, PageEnded)
    assert (ended.count, ended.arrived) == (4, 2)
    later = open_page(session)
    session.note_event(later, first, 3.0)
    (ended,) = session.receive(Eose(later), 3.0)
    assert isinstance(ended, PageEnded)
    assert ended.arrived == 0, "it came live before this page was asked for"


@pytest.mark.parametrize(
    ("times", "rises"), [((200, 150, 150, 100), False), ((100, 150), True), ((200, 100, 150), True), ((150,), False)]
)
def test_it_is_told_when_a_page_does_not_begin_with_the_newest(times: tuple[int, ...], rises: bool) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    page = open_page(session)
    for created_at in times:
        session.note_event(page, event(created_at), 1.0)
    (ended,) = session.receive(Eose(page), 2.0)
    assert isinstance(ended, PageEnded)
    assert (list(ended.times) != sorted(ended.times, reverse=True)) is rises


def test_unread_event_takes_a_place_in_the_page_unless_its_time_is_outside() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    page = open_page(session)
    for created_at in (180, 120, None, 99, 201):
        session.record_event_time(page, created_at, 1.0)
    session.record_event_time("nobody's", 150, 1.0)
    assert session.unasked == 1
    assert list(session.receive(Eose(page), 2.0)) == [complete("p", 3, 120, 180, newer=1, older=1, undated=1)]


def test_silence_ends_a_page_incomplete_sooner_after_a_first_answer() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    list(session.receive(Eose(open_page(session, "first")), 0.0))
    sent(session)
    assert session.next_deadline() is None
    open_page(session, "slow", 10.0)
    talking = open_page(session, "talking", 10.0)
    open_live(session, now=10.0)
    assert session.next_deadline() == 10.0 + FIRST_ANSWER_S
    session.note_event(talking, event(150), 12.0)
    assert session.next_deadline() == 12.0 + NEXT_ANSWER_S
    assert list(session.on_timeout(12.0 + NEXT_ANSWER_S - 0.01)) == []
    assert list(session.on_timeout(12.0 + NEXT_ANSWER_S)) == [
        PageEnded("talking", RelayRefusal.TIMEOUT, "no answer", 1, 150, 150)
    ]
    assert expired(session, 10.0 + FIRST_ANSWER_S) == ["slow"]
    assert session.next_deadline() is None
    assert [kind for kind, _ in sent(session)] == ["CLOSE", "CLOSE"]
    assert session.live_subscriptions == 1


def test_an_answer_in_the_moment_of_the_request_is_an_answer() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    page = open_page(session, now=5.0)
    session.note_event(page, event(150), 5.0)
    assert session.next_deadline() == 5.0 + NEXT_ANSWER_S


def test_a_pause_of_ours_is_not_the_relays_silence() -> None:
    """After it, a relay that had not answered yet has as long as it had at first."""
    session = Session(LearnedLimits(RelayLimits()))
    open_page(session, "unanswered", 0.0)
    answered = open_page(session, "answered", 0.0)
    session.note_event(answered, event(150), 1.0)
    session.resume(100.0)
    assert list(session.on_timeout(100.0 + NEXT_ANSWER_S - 0.01)) == []
    assert expired(session, 100.0 + NEXT_ANSWER_S) == ["answered"]
    assert session.next_deadline() == 100.0 + FIRST_ANSWER_S


def test_a_live_subscription_is_replaced_under_its_own_id() -> None:
    """NIP-01: the same id replaces, so that there is no moment without it."""
    session = Session(LearnedLimits(RelayLimits()))
    first = open_live(session, "0")
    other = open_live(session, "1")
    session.open_live("0", [LIVE, PAGE], 1.0)
    assert sent(session) == [["REQ", first]]
    assert session.live_subscriptions == 2
    session.note_event(first, event(150), 1.0)
    session.note_event(first, event(10**6), 1.0)
    assert session.unasked == 0
    session.close_live("0", 0.0)
    session.close_live("0", 0.0)
    assert sent(session) == [["CLOSE", first]]
    assert open_live(session, "0") not in (first, other)


def test_a_live_subscription_survives_its_eose_and_then_any_silence() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    live = open_live(session)
    assert list(session.receive(Eose(live), 1.0)) == []
    assert list(session.on_timeout(10.0**9)) == []
    assert session.live_subscriptions == 1


def test_silence_on_a_live_subscription_teaches_and_closes_nothing() -> None:
    """nostr-rs-relay subscribes to `limit: 0` and never sends the EOSE."""
    session = Session(LearnedLimits(RelayLimits()))
    list(session.receive(Eose(open_page(session)), 0.0))
    for key in "abcd":
        open_live(session, key)
    for n in range(20):
        list(session.receive(Eose(open_page(session, now=n * 60.0)), n * 60.0 + 1))
        assert expired(session, n * 60.0 + 59) == []
    assert session.live_subscriptions == 4
    assert session.limits == RelayLimits()
    assert not session.wants_another_connection


@pytest.mark.parametrize(
    ("reason", "refusal"),
    [
        ("rate-limited: slow down, please", RelayRefusal.RATE_LIMITED),
        ("restricted: no", RelayRefusal.RESTRICTED),
        ("blocked: can't handle empty filters", RelayRefusal.KINDLESS),
        ("Subscription rejected: Too many filters: 11", RelayRefusal.TOO_MANY_FILTERS),
        ("ERROR: bad req: total filter items too large", RelayRefusal.TOO_LARGE),
        ("error: database is down", RelayRefusal.ERROR),
        ("", RelayRefusal.ERROR),
    ],
)
def test_closed_leaves_a_page_incomplete_and_ends_a_live_subscription(reason: str, refusal: RelayRefusal) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    page = open_page(session)
    session.open_live("0", [replace(MANY, limit=0), LIVE], 0.0)
    live = str(sent(session)[-1][1])
    session.note_event(page, event(150), 1.0)
    of_page = RelayRefusal.RESTRICTED if refusal.asks_for_less else refusal
    assert list(session.receive(closed(page, reason), 1.0)) == [PageEnded("p", of_page, reason, 1, 150, 150)]
    assert list(session.receive(closed(live, reason), 1.0)) == [LiveEnded("0", refusal, reason)]
    assert list(session.receive(closed(live, reason), 1.0)) == []
    assert list(session.receive(Eose(page), 2.0)) == []
    assert len(session.subscriptions) == 0
    assert sent(session) == [], "the relay has closed them already"


@pytest.mark.parametrize("newest_is_live", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "ERROR: too many concurrent REQs",
        "Subscription error: Maximum concurrent subscription count reached",
        "Subscription rejected: Too many subscriptions: 11 > 10",
    ],
)
def test_a_notice_against_one_subscription_more_is_about_the_newest(text: str, newest_is_live: bool) -> None:
    """No CLOSED follows these; all were asked for in the same moment, or a live one was replaced after the pages."""
    session, refusal = Session(LearnedLimits(RelayLimits())), RelayRefusal.TOO_MANY_SUBSCRIPTIONS
    open_live(session, "0")
    open_page(session, "old")
    if newest_is_live:
        open_live(session, "0")
    else:
        open_page(session, "new")
    ended = LiveEnded("0", refusal, text) if newest_is_live else PageEnded("new", refusal, text, 0, None, None)
    assert list(session.receive(Notice(text), 0.0)) == [ended]
    assert session.pages == 1


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("Subscription rejected: Too many filters: 8 > 7", "live"),
        ("could not parse command", "live"),
        ("event exceeded max size", "live"),
        ("message too large (140012 > 9000)", "live"),
        ("ERROR: too many kinds", "large"),
        ('invalid: must be less than or equal to 50 authors at "[2].authors"', "large"),
        ('invalid: must be less than or equal to 20 kinds at "[2].kinds"', "large"),
        ('invalid: must be less than or equal to 200 kinds at "[2].kinds"', None),
        ("message too large (140012 > 131072)", None),
    ],
)
def test_a_notice_against_size_is_about_who_asks_for_so_much(text: str, ended: str | None) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    open_page(session, "small")
    session.open_page("large", MANY, 0.0)
    session.open_live("live", [replace(MANY, kinds=frozenset({1, 2}), authors=frozenset({ALICE}))] * 70, 0.0)
    session.open_live("live", [replace(MANY, kinds=None)] * 8, 0.0)
    assert [each.key for each in session.receive(Notice(text), 0.0) if isinstance(each, PageEnded | LiveEnded)] == (
        [] if ended is None else [ended]
    )


def test_a_rate_limit_by_notice_fails_whatever_has_no_answer_yet() -> None:
    """nostream drops the request and says no more; a live subscription may be what it dropped."""
    session = Session(LearnedLimits(RelayLimits()))
    standing = open_live(session, "0")
    list(session.receive(Eose(standing), 0.0))
    open_live(session, "1")
    open_page(session, "p")
    open_page(session, "q")
    outcomes = list(session.receive(Notice("rate limited"), 1.0))
    assert outcomes == [
        LiveEnded("1", RelayRefusal.RATE_LIMITED, "rate limited"),
        PageEnded("p", RelayRefusal.RATE_LIMITED, "rate limited", 0, None, None),
        PageEnded("q", RelayRefusal.RATE_LIMITED, "rate limited", 0, None, None),
    ]
    assert len(session.subscriptions) == 1
    assert session.limits.max_pages == RelayLimits().max_pages - 1, "one notice is one lesson"


@pytest.mark.parametrize(
    "text", ["ERROR: bad req: x", "invalid: query", "auth-required: no", "some error", "blocked: no"]
)
def test_other_notice_is_assigned_to_the_only_open_page_or_to_none(text: str) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    open_live(session)
    open_page(session, "p")
    open_page(session, "q")
    assert list(session.receive(Notice(text), 1.0)) == []
    session.cancel_page("q", 0.0)
    list(session.receive(Eose("L1"), 1.0))
    (ended,) = session.receive(Notice(text), 1.0)
    assert isinstance(ended, PageEnded)
    assert (ended.key, ended.refusal is not None, ended.detail) == ("p", True, text)
    assert list(session.receive(Notice(text), 1.0)) == []
    assert session.live_subscriptions == 1


@pytest.mark.parametrize("text", ["", "  ", "welcome to my relay", "we close on friday"])
def test_small_talk_refuses_nothing(text: str) -> None:
    """Some relays greet every client; their pages must not be thrown away for it."""
    session = Session(LearnedLimits(RelayLimits()))
    open_page(session)
    assert list(session.receive(Notice(text), 1.0)) == []
    assert (session.pages, session.limits) == (1, RelayLimits())


def test_a_notice_to_nobody_changes_nothing() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    for text in ("ERROR: too many concurrent REQs", "rate limited", "could not parse command", "some error"):
        assert list(session.receive(Notice(text), 1.0)) == []
    assert session.limits == RelayLimits()


def test_too_many_subscriptions_teaches_how_many_there_may_be() -> None:
    session = Session(LearnedLimits(RelayLimits(max_subscriptions=5)))
    for key in "abcd":
        open_live(session, key)
    page = open_page(session)
    assert not session.has_room()
    list(session.receive(closed(page, "error: too many subscriptions"), 1.0))
    assert session.limits.max_subscriptions == 4
    assert not session.has_room()
    assert session.has_room_for_live("a")
    assert not session.has_room_for_live("e")
    assert not session.has_room_for_page()
    session.close_live("a", 0.0)
    assert session.has_room_for_live("e")
    assert session.has_room_for_page()


@pytest.mark.parametrize("by_notice", [True, False])
def test_what_was_asked_for_together_was_too_much_together(by_notice: bool) -> None:
    """The others are over when the last is refused, but were not when it was asked for."""
    session = Session(LearnedLimits(RelayLimits()))
    open_live(session)
    first, second, third = (open_page(session, key) for key in "abc")
    for page in (first, second):
        list(session.receive(Eose(page), 1.0))
    text = "error: too many subscriptions"
    list(session.receive(Notice(text) if by_notice else closed(third, text), 1.0))
    assert len(session.subscriptions) == 1
    assert session.limits.max_subscriptions == 3


def test_relay_that_closes_the_oldest_for_the_newest_keeps_the_others() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    oldest, *_ = (open_live(session, key) for key in "abcd")
    list(session.receive(closed(oldest, "error: too many subscriptions"), 1.0))
    assert session.limits.max_subscriptions == 3


@pytest.mark.parametrize(
    ("reason", "name", "value"),
    [
        ("rate-limited: no", "max_pages", 2),
        ("Subscription rejected: Too many filters: 8", "max_filters", 4),
        ("ERROR: bad req: total filter items too large", "max_authors", 50),
    ],
)
def test_other_refusals_teach_to_ask_for_less(reason: str, name: str, value: int) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    session.open_live("0", [MANY] * 8, 0.0)
    list(session.receive(closed(str(sent(session)[-1][1]), reason), 1.0))
    assert getattr(session.limits, name) == value
    assert [each.dimension.value for each in session.limits.bounds] == [name], "and nothing else"


MENTIONS = Filter(tags=(("p", frozenset({BOB.hex()})),), limit=500)
EMPTY = "blocked: can't handle empty filters"
ANONYMOUS = "blocked: an author must be specified to get their kind:1 notes"


@pytest.mark.parametrize(
    ("page", "reason", "refusal", "learned"),
    [
        (PAGE, EMPTY, RelayRefusal.KINDLESS, RelayLimits(refuses_kindless=True)),
        (MENTIONS, EMPTY, RelayRefusal.KINDLESS, RelayLimits(refuses_kindless=True)),
        (replace(PAGE, kinds=frozenset({1})), EMPTY, RelayRefusal.RESTRICTED, RelayLimits()),
        (Filter(limit=1), EMPTY, RelayRefusal.RESTRICTED, RelayLimits()),
        (MENTIONS, ANONYMOUS, RelayRefusal.AUTHORLESS, RelayLimits(notes_by_author=True)),
        (
            replace(MENTIONS, kinds=frozenset({1, 7})),
            ANONYMOUS,
            RelayRefusal.AUTHORLESS,
            RelayLimits(notes_by_author=True),
        ),
        (replace(MENTIONS, kinds=frozenset({7})), ANONYMOUS, RelayRefusal.RESTRICTED, RelayLimits()),
        (PAGE, ANONYMOUS, RelayRefusal.RESTRICTED, RelayLimits()),
    ],
)
def test_a_filter_refused_for_its_form_teaches_another_where_there_is_one(
    page: Filter, reason: str, refusal: RelayRefusal, learned: RelayLimits
) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    session.open_page("k", page, 0.0)
    (ended,) = session.receive(Closed("P1", reason, reason_prefix(reason)), 1.0)
    assert isinstance(ended, PageEnded)
    assert (ended.refusal, session.limits) == (refusal, learned)


def test_a_notice_against_a_form_is_about_those_who_have_it_and_no_answer() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    session.open_live("all", [LIVE], 0.0)
    list(session.receive(Eose("L1"), 0.5))
    session.open_page("named", replace(PAGE, kinds=frozenset({1})), 1.0)
    session.open_page("all", PAGE, 1.0)
    (ended,) = session.receive(Notice(EMPTY), 1.5)
    assert isinstance(ended, PageEnded)
    assert (ended.key, ended.refusal, session.limits.refuses_kindless) == ("all", RelayRefusal.KINDLESS, True)


def test_no_more_pages_are_open_than_allowed() -> None:
    session = Session(LearnedLimits(RelayLimits(max_pages=2)))
    open_live(session)
    for key in "ab":
        assert session.has_room_for_page()
        open_page(session, key)
    assert session.has_room()
    assert not session.has_room_for_page()


class Machine:
    """Random requests and answers, against a plain account of what is open."""

    def __init__(self, rng: random.Random, limits: RelayLimits | None = None) -> None:
        self.rng = rng
        self.limits = limits or RelayLimits()
        self.session = Session(LearnedLimits(self.limits))
        self.now = 0.0
        self.asked = 0
        self.pages: dict[str, str] = {}
        self.live: dict[str, str] = {}
        # Those whose successor was refused.
        self.kept: set[str] = set()
        self.has_added = False

    def step(self) -> None:
        self.now += self.rng.choice((0.0, 0.1, 4.0))
        for outcome in list(self.session.on_timeout(self.now)):
            self.settle(outcome, eosed=None)
        target = self.rng.choice([*self.pages.values(), *self.live.values(), "P0", "L0"])
        match self.rng.randrange(7):
            case 0 if self.session.has_room_for_page():
                self.asked += 1
                self.pages[str(self.asked)] = open_page(self.session, str(self.asked), self.now)
            case 1:
                key = str(self.rng.randrange(4))
                if self.session.has_room_for_live(key):
                    self.live[key] = open_live(self.session, key, self.now)
                    self.kept.discard(key)
            case 2 | 3:
                self.session.note_event(target, event(self.rng.randrange(90, 210)), self.now)
            case 4:
                self.tell(Eose(target), eosed=target)
            case 5:
                self.tell(closed(target, self.rng.choice(("error: x", "rate-limited: x"))))
            case 6:
                texts = ("rate limited", "ERROR: too many concurrent REQs", "hello", "some error")
                self.tell(Notice(self.rng.choice(texts)))
        self.check()
        self.session.outgoing.clear()
        if self.rng.random() < 0.05:
            self.session.learn(self.limits)

    def check(self) -> None:
        """Each page is open; of each live subscription one is, and what retires only beside it."""
        self.has_added |= self.session.limits.adds_requests
        live = [each for each in self.session.subscriptions if not each.is_page]
        retiring = [each for each in live if self.session.subscriptions.is_retiring(each)]
        lasting = [each.key for each in live if each not in retiring]
        self.kept.intersection_update(lasting)
        assert (self.session.pages, sorted(lasting)) == (len(self.pages), sorted({*self.live, *self.kept}))
        assert {each.key for each in live} == set(lasting)
        assert len(self.session.subscriptions._succession._retiring) == len(retiring)

    def tell(self, message: RelayMessage, eosed: str | None = None) -> None:
        for outcome in list(self.session.receive(message, self.now)):
            self.settle(outcome, eosed)

    def settle(self, outcome: object, eosed: str | None) -> None:
        if isinstance(outcome, PageEnded):
            assert (outcome.refusal is None) == (self.pages.pop(outcome.key) == eosed)
        else:
            assert isinstance(outcome, LiveEnded)
            if outcome.key in self.kept:
                # The session gave it a successor by itself, as events came twice; `check` sees whether it is over.
                return
            del self.live[outcome.key]
            if self.has_added or outcome.refusal is RelayRefusal.RATE_LIMITED:
                self.kept.add(outcome.key)


@pytest.mark.parametrize("seed", seeds(5))
def test_each_page_ends_once_and_completes_by_its_eose_alone(seed: int) -> None:
    print(f"seed {seed}")
    machine = Machine(random.Random(seed))
    for _ in range(600):
        machine.step()
    assert machine.asked > 10


@pytest.mark.parametrize("seed", [82_500_948, 1_000_991_625, 459_243_673, *seeds(5)])
def test_live_subscription_is_open_once_where_requests_add(seed: int) -> None:
    print(f"seed {seed}")
    machine = Machine(random.Random(seed), replace(RelayLimits(), adds_requests=True))
    for _ in range(600):
        machine.step()
    for key in {*machine.live, *machine.kept}:
        machine.session.close_live(key, machine.now)
    assert machine.session.live_subscriptions == 0


def open_page_of(session: Session, since: int | None, until: int | None) -> str:
    session.open_page("p", Filter(kinds=frozenset({1}), since=since, until=until), 0.0)
    return str(sent(session)[-1][1])


def test_skipped_event_takes_a_place_in_the_page_at_its_time() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    page = open_page_of(session, 100, 200)
    session.note_event(page, event(180), 1.0)
    assert session.note_skipped(Sighting(page, None, 150), 1.0) is None
    ended = complete("p", 2, 150, 180, skipped=((150, 150),))  # type: ignore[arg-type]
    assert list(session.receive(Eose(page), 2.0)) == [ended]


@pytest.mark.parametrize(
    ("before", "after", "span"),
    [((180,), (140,), (140, 180)), ((), (140,), (140, 200)), ((180,), (), (100, 180)), ((), (), (100, 200))],
)
def test_skipped_event_without_a_time_lies_between_its_neighbours(
    before: tuple[int, ...], after: tuple[int, ...], span: tuple[int, int]
) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    page = open_page_of(session, 100, 200)
    for created_at in before:
        session.note_event(page, event(created_at), 1.0)
    session.note_skipped(Sighting(page, None, None), 1.0)
    for created_at in after:
        session.note_event(page, event(created_at), 1.0)
    (ended,) = session.receive(Eose(page), 2.0)
    assert isinstance(ended, PageEnded)
    assert (ended.count, ended.skipped, ended.undated) == (len(before) + len(after) + 1, (span,), 1)


def test_unreadable_skipped_event_belongs_to_the_page_answered_last() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    for key, at in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        session.open_page(key, PAGE, 0.0)
        session.note_event(str(sent(session)[-1][1]), event(150), at)
    assert session.note_skipped(Sighting(None, None, None), 4.0) is None
    counts = [ended.count for number in (1, 2, 3) for ended in session.receive(Eose(f"P{number}"), 5.0)]  # type: ignore[union-attr]
    assert counts == [1, 2, 1]


def test_skipped_event_of_a_live_subscription_is_told_by_its_key() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    live = open_live(session)
    assert session.note_skipped(Sighting(live, None, 5), 1.0) == "0"
    assert session.note_skipped(Sighting("other", None, 5), 1.0) == ""


def test_spans_of_one_page_are_bounded() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    page = open_page_of(session, 0, 10_000)
    for created_at in range(5_000, 0, -1):
        session.note_skipped(Sighting(page, None, created_at), 1.0)
    (ended,) = session.receive(Eose(page), 2.0)
    assert isinstance(ended, PageEnded)
    assert len(ended.skipped) == MAX_UNREAD_SPANS
    assert (min(low for low, _ in ended.skipped), max(high for _, high in ended.skipped)) == (1, 5_000)


def spans_of_malformed(session: Session, page: str, genuine: int, malformed: list[int | None]) -> PageEnded:
    """The page with so many genuine events and these malformed ones, by their times."""
    for _ in range(genuine):
        session.note_event(page, event(150), 1.0)
    for created_at in malformed:
        session.note_malformed(page, created_at, 1.0, None)
    (ended,) = session.receive(Eose(page), 2.0)
    assert isinstance(ended, PageEnded)
    return ended


def test_malformed_events_of_a_page_are_reported_at_their_times() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    ended = spans_of_malformed(session, open_page_of(session, 100, 200), 2, [140, 120])
    assert (ended.count, ended.malformed, ended.undated) == (4, ((140, 140), (120, 120)), 0)


def test_malformed_events_without_a_time_take_places_in_a_page() -> None:
    """Else a full page of them would be taken for an empty one, and everything older for had."""
    session = Session(LearnedLimits(RelayLimits()))
    ended = spans_of_malformed(session, open_page_of(session, 100, 200), 0, [None, None, None])
    assert (ended.count, ended.malformed, ended.undated) == (3, ((100, 200),), 3)


@pytest.mark.parametrize(("genuine", "reported"), [(9, 1), (10, 0)])
def test_few_malformed_events_among_many_are_not_reported(genuine: int, reported: int) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    ended = spans_of_malformed(session, open_page_of(session, 100, 200), genuine, [130])
    assert (ended.count, len(ended.malformed)) == (genuine + 1, reported)


def live_ids(session: Session) -> list[tuple[str, str]]:
    """What was sent of live subscriptions since."""
    return [(str(kind), str(name)) for kind, name in sent(session)]


def adding(max_subscriptions: int = 18) -> Session:
    """A session of a relay that is known to add, with one live subscription that is open."""
    session = Session(LearnedLimits(replace(RelayLimits(max_subscriptions=max_subscriptions), adds_requests=True)))
    live = open_live(session)
    list(session.receive(Eose(live), 0.0))
    return session


def adds(session: Session) -> bool:
    return session.limits.adds_requests


def test_events_that_come_twice_under_a_replaced_id_show_that_requests_add() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    live = open_live(session)
    twice = event(150)
    session.note_event(live, twice, 1.0)
    session.note_event(live, twice, 1.0)
    assert not adds(session), "it may send a copy for each filter"
    open_live(session)
    session.note_event(live, event(151), 2.0)
    assert not adds(session)
    session.record_event_time(live, 151, 2.0, event(151).id)
    assert adds(session)
    assert live_ids(session) == [("REQ", "L2")]
    list(session.receive(Eose("L2"), 3.0))
    assert live_ids(session) == [("CLOSE", live)]


def test_successor_is_open_before_the_old_one_is_closed() -> None:
    session = adding()
    session.open_live("0", [LIVE], 10.0)
    assert live_ids(session) == [("REQ", "L2")]
    session.note_event("L1", event(150), 10.5)
    assert (session.unasked, session.live_subscriptions) == (0, 2)
    list(session.receive(Eose("L2"), 11.0))
    assert live_ids(session) == [("CLOSE", "L1")]
    assert (session.live_subscriptions, session.take_torn()) == (1, [])


def test_old_one_is_closed_in_the_end_though_no_eose_comes() -> None:
    session = adding()
    session.open_live("0", [LIVE], 10.0)
    sent(session)
    assert session.next_deadline() == 15.0
    assert list(session.on_timeout(14.9)) == []
    assert sent(session) == []
    list(session.on_timeout(15.0))
    assert live_ids(session) == [("CLOSE", "L1")]


def test_without_room_the_old_one_is_closed_first_and_that_is_told() -> None:
    session = adding(max_subscriptions=1)
    session.open_live("0", [LIVE], 10.0)
    assert live_ids(session) == [("CLOSE", "L1"), ("REQ", "L2")]
    assert session.take_torn() == ["0"]
    assert session.take_torn() == []


def test_old_one_stays_where_its_successor_is_refused() -> None:
    session = adding()
    session.open_live("0", [LIVE], 10.0)
    sent(session)
    assert [type(each) for each in session.receive(closed("L2", "error: busy"), 11.0)] == [LiveEnded]
    assert session.live_subscriptions == 1
    list(session.on_timeout(100.0))
    assert sent(session) == []
    session.open_live("0", [LIVE], 101.0)
    list(session.receive(Eose("L3"), 102.0))
    assert live_ids(session) == [("REQ", "L3"), ("CLOSE", "L1")]


def test_end_of_an_old_one_by_the_relay_is_no_loss() -> None:
    session = adding()
    session.open_live("0", [LIVE], 10.0)
    assert list(session.receive(closed("L1", "error: busy"), 11.0)) == []
    list(session.receive(Eose("L2"), 12.0))
    list(session.on_timeout(100.0))
    assert live_ids(session) == [("REQ", "L2")]


def test_second_replacement_in_a_row_retires_both_before_it() -> None:
    session = adding()
    session.open_live("0", [LIVE], 10.0)
    session.open_live("0", [LIVE], 11.0)
    list(session.receive(Eose("L2"), 12.0))
    list(session.receive(Eose("L3"), 12.0))
    assert live_ids(session) == [("REQ", "L2"), ("REQ", "L3"), ("CLOSE", "L1"), ("CLOSE", "L2")]
    session.close_live("0", 13.0)
    assert len(session.subscriptions) == 0


def test_successor_that_is_replaced_takes_those_before_it_along() -> None:
    session = adding()
    session.open_live("0", [LIVE], 10.0)
    session.open_live("0", [LIVE], 11.0)
    list(session.receive(Eose("L3"), 12.0))
    assert live_ids(session) == [("REQ", "L2"), ("REQ", "L3"), ("CLOSE", "L1"), ("CLOSE", "L2")]
    list(session.receive(Eose("L2"), 12.0))
    assert session.live_subscriptions == 1


def test_refused_successor_leaves_one_open_of_those_before_it() -> None:
    session = adding()
    session.open_live("0", [LIVE], 10.0)
    session.open_live("0", [LIVE], 11.0)
    assert [type(each) for each in session.receive(closed("L3", "error: busy"), 12.0)] == [LiveEnded]
    assert live_ids(session) == [("REQ", "L2"), ("REQ", "L3"), ("CLOSE", "L1")]
    assert session.live_subscriptions == 1


def test_old_one_that_a_notice_ends_is_no_loss() -> None:
    session = adding()
    session.open_live("0", [LIVE], 10.0)
    assert list(session.receive(Notice("error: busy: L1"), 11.0)) == []
    assert live_ids(session) == [("REQ", "L2"), ("CLOSE", "L1")]
    assert session.live_subscriptions == 1


def test_events_under_ids_that_were_long_closed_are_counted_apart() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    live = open_live(session)
    session.close_live("0", 10.0)
    session.note_event(live, event(150), 12.0)
    session.record_event_time("never", 150, 100.0)
    assert (session.unasked, session.late) == (2, 0)
    session.note_event(live, event(150), 21.0)
    session.record_event_time(live, 150, 21.0)
    assert (session.unasked, session.late) == (2, 2)


@pytest.mark.parametrize(
    ("page", "count", "reason", "refusal"),
    [
        (PAGE, 1, "auth-required: members only", RelayRefusal.WITHHELD),
        (PAGE, 0, "auth-required: members only", RelayRefusal.AUTH_REQUIRED),
        (PAGE, 0, "auth-required: At least one matching event requires AUTH", RelayRefusal.WITHHELD),
        (replace(PAGE, kinds=frozenset({1, 4})), 0, "auth-required: DM kinds were included", RelayRefusal.WITHHELD),
        (
            replace(PAGE, kinds=frozenset({4, 1059})),
            0,
            "auth-required: DM kinds were included",
            RelayRefusal.AUTH_REQUIRED,
        ),
        (replace(PAGE, kinds=frozenset({1})), 1, "auth-required: members only", RelayRefusal.AUTH_REQUIRED),
    ],
)
def test_auth_demanded_for_some_events_of_many_asks_for_other_kinds(
    page: Filter, count: int, reason: str, refusal: RelayRefusal
) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    session.open_page("k", page, 0.0)
    for number in range(count):
        session.note_event("P1", replace(event(150 + number), pubkey=next(iter(page.authors or ()))), 0.5)
    (ended,) = session.receive(Closed("P1", reason, reason_prefix(reason)), 1.0)
    assert isinstance(ended, PageEnded)
    assert (ended.refusal, session.limits.withholds) == (refusal, refusal is RelayRefusal.WITHHELD)


LEFT_OUT = Closed("P1", "auth-required: At least one matching event requires AUTH", "auth-required")


@pytest.mark.parametrize("has_key", [False, True])
def test_page_closed_over_what_it_left_out_is_complete_after_the_rest(has_key: bool) -> None:
    session = Session(LearnedLimits(RelayLimits()), can_authenticate=has_key)
    session.open_page("k", PAGE, 0.0)
    session.note_event("P1", replace(event(150), pubkey=next(iter(PAGE.authors or ()))), 0.5)
    outcomes = [*session.receive(LEFT_OUT, 1.0), *session.on_timeout(10.0)]
    (ended,) = [each for each in outcomes if isinstance(each, PageEnded)]
    assert (ended.refusal, ended.count) == (None, 1)
    assert session.limits.withholds
    assert [name for name, *_ in sent(session)] == ["REQ"], "a CLOSE would be one too many"
    session.open_page("k", PAGE, 20.0)
    outcomes = [*session.receive(replace(LEFT_OUT, subscription="P2"), 21.0)]
    (ended,) = [each for each in outcomes if isinstance(each, PageEnded)]
    assert (ended.refusal, ended.count) == (None, 0), "all of it was left out, and no challenge is waited for again"


def test_live_subscription_closed_over_what_it_leaves_out_names_kinds() -> None:
    session = Session(LearnedLimits(RelayLimits(withholds=True, gives_shown=True)))
    session.open_live("k", [replace(PAGE, limit=0)], 0.0)
    (ended,) = session.receive(replace(LEFT_OUT, subscription="L1"), 1.0)
    assert isinstance(ended, LiveEnded)
    assert ended.refusal is RelayRefusal.WITHHELD


def test_impossible_auth_for_some_of_many_events_asks_for_other_kinds() -> None:
    """The relay has sent no challenge to answer."""
    session = Session(LearnedLimits(RelayLimits()), can_authenticate=True)
    session.open_page("k", PAGE, 0.0)
    assert not list(
        session.receive(Closed("P1", "auth-required: At least one matching event requires AUTH", "auth-required"), 1.0)
    )
    (ended,) = session.on_timeout(10.0)
    assert isinstance(ended, PageEnded)
    assert (ended.refusal, session.limits.withholds) == (RelayRefusal.WITHHELD, True)


def test_closed_without_a_reason_completes_a_page_by_ids_and_no_other() -> None:
    session = Session(LearnedLimits(RelayLimits()))
    session.open_page("ids", Filter(ids=frozenset({event(150).id})), 0.0)
    (ended,) = session.receive(Closed("P1", "", ""), 1.0)
    assert isinstance(ended, PageEnded)
    assert ended.refusal is None
    assert [name for name, *_ in sent(session)] == ["REQ"], "a CLOSE would be one too many"
    session.open_page("k", PAGE, 1.0)
    (ended,) = session.receive(Closed("P2", "", ""), 2.0)
    assert isinstance(ended, PageEnded)
    assert ended.refusal is RelayRefusal.ERROR


@pytest.mark.parametrize(
    "text",
    [
        "ERROR: bad req: filter validation failed: filter must have exactly one author, p tag, or e tag",
        "ERROR: bad req: filter validation failed: too many kinds in filter: 1",
        "ERROR: bad req: filter validation failed: invalid number of filters: 1",
        "ERROR: bad req: total filter items too large",
        "invalid: limitation.max_filters 10",
    ],
)
def test_too_much_of_what_cannot_be_less_is_refused_for_good(text: str) -> None:
    session = Session(LearnedLimits(RelayLimits()))
    session.open_page("p", Filter(kinds=frozenset({1}), limit=500), 0.0)
    (ended,) = session.receive(closed(str(sent(session)[-1][1]), text), 1.0)
    assert isinstance(ended, PageEnded)
    assert ended.refusal is RelayRefusal.RESTRICTED
    assert session.limits == RelayLimits()


def test_refusal_without_a_number_is_obeyed_below_the_usual_one_too() -> None:
    """chorus names no number; its default is 100, and operators set less."""
    session = Session(LearnedLimits(RelayLimits()))
    asked = []
    for number in range(6):
        asked.append(session.limits.page_limit)
        session.open_page(str(number), Filter(kinds=frozenset({0}), limit=asked[-1]), float(number))
        (ended,) = session.receive(closed(f"P{number + 1}", "error: scraper, pocket-db/src/lib.rs:782:24"), number)
        assert isinstance(ended, PageEnded)
        assert ended.refusal is RelayRefusal.TOO_LARGE
    assert asked == [500, 100, 50, 25, 12, 6]
