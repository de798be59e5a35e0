"""AUTH in a session (NIP-42): what is held meanwhile, what is asked for again, and what ends there."""

from collections.abc import Iterable

import orjson
import pytest

from pipeline.nostr.auth import auth_event
from pipeline.nostr.event import Event, event_from_json
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import AuthChallenge, Closed, Eose, Ok, RelayMessage
from pipeline.nostr.notices import reason_prefix
from pipeline.relay.authentication import MAX_ANSWERS, PATIENCE_S, Authentication, AuthState
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session, SessionEvent
from pipeline.relay.session_auth import AuthWanted
from pipeline.relay.subscription import LiveEnded, PageEnded

PAGE = Filter(kinds=frozenset({1}), since=100, until=200, limit=500)
LIVE = Filter(kinds=frozenset({1}), limit=0)
SECRET = (7).to_bytes(32)
REFUSED = "auth-required: authenticate first"


class Client:
    """A session, and the owner that signs for it."""

    def __init__(self, *, has_key: bool = True, limits: RelayLimits | None = None) -> None:
        self.session = Session(LearnedLimits(limits or RelayLimits()), can_authenticate=has_key)
        self.sent: list[list[object]] = []
        self.ended: list[SessionEvent] = []
        self.addresses: list[int] = []
        self.now = 0.0

    def take(self, *messages: RelayMessage) -> None:
        for message in messages:
            self._act(self.session.receive(message, self.now))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._act(self.session.on_timeout(self.now))

    def ask(self) -> tuple[str, str]:
        """Open a live subscription and a page; returns their ids."""
        self.session.open_live("0", [LIVE], self.now)
        self.session.open_page("p", PAGE, self.now)
        self._send()
        return str(self.sent[-2][1]), str(self.sent[-1][1])

    def answers(self) -> list[Event]:
        return [event_from_json(orjson.dumps(frame[1])) for frame in self.sent if frame[0] == "AUTH"]

    def asked(self) -> list[str]:
        return [str(frame[1]) for frame in self.sent if frame[0] == "REQ"]

    def _act(self, outcomes: Iterable[SessionEvent]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, AuthWanted):
                self.addresses.append(outcome.address)
                self.session.authenticate(
                    auth_event(SECRET, "wss://a.example", outcome.challenge, 1_000 + outcome.address), self.now
                )
            else:
                self.ended.append(outcome)
        self._send()

    def _send(self) -> None:
        self.sent += (orjson.loads(frame) for frame in self.session.outgoing)
        self.session.outgoing.clear()


def closed(subscription: str, reason: str = REFUSED) -> Closed:
    return Closed(subscription, reason, reason_prefix(reason))


@pytest.mark.parametrize("is_late", [False, True])
def test_what_was_refused_is_asked_for_again_once_we_are_accepted(is_late: bool) -> None:
    """Whether the challenge comes before the refusal or after it."""
    client = Client()
    live, page = client.ask()
    messages: list[RelayMessage] = [AuthChallenge("c"), closed(live), closed(page)]
    client.take(*(messages[1:] + messages[:1] if is_late else messages))
    (answer,) = client.answers()
    assert answer.tags == [["relay", "wss://a.example"], ["challenge", "c"]]
    assert len(client.asked()) == 2
    assert client.ended == []
    client.take(Ok(answer.id, True, "", ""))
    assert client.session.auth is AuthState.ACCEPTED
    again = client.asked()[2:]
    assert len(again) == 2
    assert not {live, page} & set(again)
    assert client.ended == []
    client.take(Eose(again[0]), Eose(again[1]))
    assert client.ended == [PageEnded("p", None, "", 0, None, None, is_after_auth=True)]


def test_an_auth_that_is_refused_is_followed_by_one_with_the_next_address() -> None:
    """Only the refusal of the last is a verdict; each is sent once."""
    for accepted_at in range(4):
        client = Client()
        client.session = Session(LearnedLimits(RelayLimits()), can_authenticate=True, auth_addresses=3)
        _, page = client.ask()
        client.take(AuthChallenge("c"), closed(page))
        for number in range(3):
            assert (len(client.answers()), client.addresses) == (number + 1, list(range(number + 1)))
            if number == accepted_at:
                break
            assert client.session.auth is AuthState.NONE
            client.take(Ok(client.answers()[-1].id, False, "wrong relay", ""))
        if accepted_at < 3:
            client.take(Ok(client.answers()[-1].id, True, "", ""))
            assert client.session.auth is AuthState.ACCEPTED
            assert len(client.asked()) == 3
        else:
            assert client.session.auth is AuthState.REFUSED
            assert [type(each) for each in client.ended] == [PageEnded]
            assert len(client.answers()) == 3


def test_silence_is_taken_for_acceptance() -> None:
    client = Client()
    _, page = client.ask()
    client.take(AuthChallenge("c"), closed(page))
    assert client.session.next_deadline() == PATIENCE_S
    client.wait(PATIENCE_S)
    assert client.session.auth is AuthState.ACCEPTED
    assert len(client.asked()) == 3


def test_a_page_that_ends_while_an_auth_is_under_way_is_asked_for_again() -> None:
    """It may hold less than an authenticated client gets."""
    client = Client()
    live, page = client.ask()
    client.take(AuthChallenge("c"), closed(live), Eose(page))
    assert client.ended == []
    client.take(Ok(client.answers()[0].id, True, "", ""))
    client.take(Eose(client.asked()[-1]))
    assert client.ended == [PageEnded("p", None, "", 0, None, None, is_after_auth=True)]


def test_refused_auth_ends_refused_requests_and_repeats_the_others() -> None:
    client = Client()
    live, page = client.ask()
    client.take(AuthChallenge("c"), closed(live), Eose(page))
    client.take(Ok(client.answers()[0].id, False, "restricted: who are you", "restricted"))
    assert client.session.auth is AuthState.REFUSED
    assert client.ended == [LiveEnded("0", RelayRefusal.AUTH_REQUIRED, "restricted: who are you")]
    client.take(Eose(client.asked()[-1]))
    assert client.ended[1:] == [PageEnded("p", None, "", 0, None, None, is_after_auth=True)]


def test_restricted_after_an_auth_is_final() -> None:
    client = Client()
    _, page = client.ask()
    client.take(AuthChallenge("c"), closed(page), Ok(b"\1" * 32, True, "", ""))
    client.take(Ok(client.answers()[0].id, True, "", ""))
    client.take(closed(client.asked()[-1], "restricted: members only"))
    assert client.ended == [
        PageEnded("p", RelayRefusal.FORBIDDEN, "restricted: members only", 0, None, None, is_after_auth=True)
    ]


def test_a_challenge_is_answered_once_however_often_it_is_demanded() -> None:
    client = Client()
    live, page = client.ask()
    client.take(AuthChallenge("c"), closed(live), closed(page))
    client.take(Ok(client.answers()[0].id, True, "", ""))
    client.take(*(closed(each) for each in client.asked()[2:]))
    assert [each.refusal for each in client.ended if isinstance(each, PageEnded | LiveEnded)] == [
        RelayRefusal.AUTH_REQUIRED, RelayRefusal.AUTH_REQUIRED,
    ]  # fmt: skip
    client.ask()
    client.take(closed(client.asked()[-1]))
    assert len(client.answers()) == 1
    # A new challenge is a new chance.
    client.ask()
    client.take(AuthChallenge("d"), closed(client.asked()[-1]))
    assert len(client.answers()) == 2


def test_without_a_challenge_the_refusal_stands() -> None:
    client = Client()
    _, page = client.ask()
    client.take(closed(page))
    client.wait(PATIENCE_S)
    assert client.ended == [PageEnded("p", RelayRefusal.AUTH_REQUIRED, "no challenge to answer", 0, None, None)]
    assert client.session.auth is AuthState.WANTED


def test_without_a_key_the_refusal_stands_at_once() -> None:
    client = Client(has_key=False)
    _, page = client.ask()
    client.take(AuthChallenge("c"), closed(page))
    assert client.ended == [PageEnded("p", RelayRefusal.AUTH_REQUIRED, REFUSED, 0, None, None)]
    assert client.session.auth is AuthState.WANTED
    assert client.answers() == []


def test_bare_challenge_is_answered_only_where_auth_is_demanded() -> None:
    wary, known = Client(), Client(limits=RelayLimits(demands_auth=True))
    for client in (wary, known):
        client.ask()
        client.take(AuthChallenge("c"))
    assert [len(client.answers()) for client in (wary, known)] == [0, 1]
    _, page = known.asked()
    known.take(Eose(page))
    assert known.ended == []


def test_a_refusal_for_want_of_auth_is_remembered() -> None:
    client = Client(has_key=False)
    _, page = client.ask()
    client.take(closed(page))
    assert RelayLimits.from_json(client.session.limits.to_json()).demands_auth


def test_what_is_held_can_be_closed_and_replaced() -> None:
    client = Client()
    live, page = client.ask()
    client.take(AuthChallenge("c"), closed(live), closed(page))
    client.session.close_live("0", 0.0)
    client.session.cancel_page("p", 0.0)
    client.take(Ok(client.answers()[0].id, True, "", ""))
    assert len(client.session.subscriptions) == 0
    assert [frame[0] for frame in client.sent] == ["REQ", "REQ", "AUTH"]


def test_challenges_without_end_are_answered_so_often_and_no_more() -> None:
    """Each answer is a signature."""
    login = Authentication(is_possible=True)
    for number in range(3 * MAX_ANSWERS):
        login.on_challenge(f"{number}")
        is_answered = login.on_auth_required(float(number))
        assert is_answered is (number < MAX_ANSWERS)
        if is_answered:
            assert login.pending_challenge() == f"{number}"
            login.on_answered(number.to_bytes(32), float(number))
            login.on_ok(number.to_bytes(32), accepted=False)
