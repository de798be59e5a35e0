"""The scripted relay plays each behaviour of real relays that its script names."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.factories.events import Author, SignedEvent, forge_content, forge_signature, is_authentic
from tests.factories.workload import Workload
from tests.fakes.behaviour import (
    KHATRU,
    NODE_RELAY,
    NOSTR_RELAY,
    NOSTR_RS,
    STRFRY,
    STRFRY_WITHHOLDING,
    AuthDemand,
    Behaviour,
    How,
    Interruption,
    OkRule,
    Order,
    RateLimit,
    Refusal,
    Upgrade,
)
from tests.fakes.publisher import publish_events
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Authenticated, Disconnected, HttpRequest, Other, Published, Refused, Req
from tests.integration.fakes.client import TIMEOUT_S, NaiveClient

NOW = 1_700_000_000
ALICE = Author.from_seed(1, 0)
BOB = Author.from_seed(1, 1)
NOTES = [ALICE.sign(f"note {number}", created_at=NOW + number) for number in range(1200)]
NEWEST_FIRST = NOTES[::-1]


@pytest.fixture
def relay() -> Iterator[ScriptedRelay]:
    with ScriptedRelay(events=NOTES) as running:
        yield running


def ask(relay: ScriptedRelay, *filters: object) -> list[SignedEvent]:
    """One page on a connection of its own, ended by EOSE."""
    with NaiveClient(relay.url) as client:
        events, last = client.page(*filters)
        assert last[0] == "EOSE"
        return events


def test_the_default_is_the_specification(relay: ScriptedRelay) -> None:
    """Times are inclusive, a limit keeps the newest, newest come first, and nothing else comes."""
    assert ask(relay, {"since": NOW + 5, "until": NOW + 9}) == NOTES[5:10][::-1]
    assert ask(relay, {"limit": 3}) == NEWEST_FIRST[:3]
    assert ask(relay, {"limit": 0}) == []
    assert ask(relay, {}) == NEWEST_FIRST
    assert ask(relay, {"ids": [NOTES[7].id]}, {"authors": [BOB.pubkey]}) == [NOTES[7]]


def test_equal_times_come_by_lowest_id() -> None:
    """The order at a tie is that of NIP-01."""
    ties = [ALICE.sign(str(number), created_at=NOW) for number in range(20)]
    with ScriptedRelay(events=ties) as relay:
        assert [event.id for event in ask(relay, {"limit": 20})] == sorted(event.id for event in ties)


@pytest.mark.parametrize("seed", range(4))
def test_filters_agree_with_a_plain_reading(seed: int) -> None:
    """Indexed look-ups give what comparing every event gives."""
    print(f"seed {seed}")
    world = Workload(seed=seed, events=300, authors=12, since=NOW, until=NOW + 50, mentions=0.5)
    events = list(world.generate())
    people = world.people()
    with ScriptedRelay(events=events) as relay:
        found = ask(relay, {"kinds": [1, 7], "#p": [people[0].pubkey, people[1].pubkey], "since": NOW + 10})
        wanted = {people[0].pubkey, people[1].pubkey}
        expected = [e for e in events if e.kind in (1, 7) and e.created_at >= NOW + 10 and e.mentioned() & wanted]
        assert {event.id for event in found} == {event.id for event in expected}
        assert expected
        authored = ask(relay, {"authors": [people[2].pubkey]})
        assert {event.id for event in authored} == {event.id for event in events if event.pubkey == people[2].pubkey}


@pytest.mark.parametrize(
    ("behaviour", "asked", "expected"),
    [
        (STRFRY, {}, NEWEST_FIRST[:500]),
        (STRFRY, {"limit": 5000}, NEWEST_FIRST[:500]),
        (NODE_RELAY, {}, NEWEST_FIRST[:100]),
        (NODE_RELAY, {"limit": 5000}, NEWEST_FIRST[:1000]),
        (KHATRU, {"limit": 1001}, NEWEST_FIRST[:250]),
        (KHATRU, {"limit": 1000}, NEWEST_FIRST[:1000]),
        (NOSTR_RELAY, {"until": NOW + 2}, NOTES[1::-1]),
        (NOSTR_RELAY, {"kinds": [1], "limit": 0}, NEWEST_FIRST),
        (NOSTR_RELAY, {}, []),
        (NOSTR_RS, {"kinds": [1]}, []),
        (NOSTR_RS, {"kinds": [1], "authors": [ALICE.pubkey]}, NOTES[:1000]),
        (Behaviour(order=Order.OLDEST), {"limit": 4}, NOTES[:4]),
    ],
)
def test_each_relay_limits_pages_in_its_own_way(
    behaviour: Behaviour, asked: dict[str, object], expected: list[SignedEvent]
) -> None:
    """Caps are silent, and differ as they do in the wild."""
    with ScriptedRelay(behaviour, events=NOTES) as relay:
        assert ask(relay, asked) == expected


def test_filters_may_share_one_limit() -> None:
    with ScriptedRelay(NOSTR_RELAY, events=NOTES) as relay:
        assert ask(relay, {"until": NOW + 3, "limit": 2}, {"kinds": [1], "limit": 4}) == NEWEST_FIRST[:2]


def test_a_shuffled_page_holds_the_newest_in_any_order(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(order=Order.SHUFFLED))
    page = ask(relay, {"limit": 50})
    assert page != NEWEST_FIRST[:50]
    assert {event.id for event in page} == {event.id for event in NEWEST_FIRST[:50]}


def test_withheld_kinds_count_to_the_limit() -> None:
    """A page can be short, or empty, although older events exist."""
    hidden = [ALICE.sign(kind=4, created_at=NOW + 5000 + number) for number in range(600)]
    with ScriptedRelay(STRFRY_WITHHOLDING, events=[*NOTES, *hidden]) as relay:
        assert ask(relay, {"limit": 500}) == []
        assert len(ask(relay, {"kinds": [1], "limit": 500})) == 500


def test_eose_may_never_come(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(eose=False))
    with NaiveClient(relay.url) as client:
        client.send("REQ", "s", {"limit": 1})
        assert client.receive()[0] == "EVENT"
        assert client.is_silent()


def test_eose_may_tell_whether_more_is_there(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(eose_hint=True, cap=500))
    with NaiveClient(relay.url) as client:
        assert client.page({})[1] == ["EOSE", "s", ["more"]]
        assert client.page({"until": NOW + 3})[1] == ["EOSE", "s", ["finish"]]


@pytest.mark.parametrize(
    ("refusal", "answer"),
    [
        (Refusal(How.CLOSED, "error: no"), ["CLOSED", "s", "error: no"]),
        (Refusal(How.NOTICE, "ERROR: bad req"), ["NOTICE", "ERROR: bad req"]),
        (Refusal(How.EOSE), ["EOSE", "s"]),
    ],
)
def test_a_req_is_refused_as_often_as_the_script_says(
    relay: ScriptedRelay, refusal: Refusal, answer: list[object]
) -> None:
    relay.behave(Behaviour(refusals=(Refusal(refusal.how, refusal.reason, times=2, skip=1),)))
    with NaiveClient(relay.url) as client:
        assert len(client.page({"limit": 2})[0]) == 2
        assert client.page({"limit": 2}) == ([], answer)
        assert client.page({"limit": 2}) == ([], answer)
        assert len(client.page({"limit": 2})[0]) == 2
    assert len(relay.journal.of(Refused)) == 2


def test_a_refusal_can_choose_by_filter(relay: ScriptedRelay) -> None:
    kindless = Refusal(How.CLOSED, "blocked: can't handle empty filters", when=lambda asked: "kinds" not in asked[0])
    relay.behave(Behaviour(refusals=(kindless,)))
    with NaiveClient(relay.url) as client:
        assert client.page({"limit": 1})[1] == ["CLOSED", "s", "blocked: can't handle empty filters"]
        assert client.page({"kinds": [1], "limit": 1})[1] == ["EOSE", "s"]


def test_a_refusal_can_be_silence_or_the_end(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(refusals=(Refusal(How.SILENT, times=1), Refusal(How.CLOSE, "bye", times=1))))
    with NaiveClient(relay.url) as client:
        client.send("REQ", "s", {})
        assert client.is_silent()
        client.send("REQ", "s", {})
        with pytest.raises(ConnectionClosed):
            client.receive()
    assert relay.wait_for_disconnection().code == 1000


@pytest.mark.parametrize(
    ("behaviour", "answer"),
    [
        (STRFRY, ["NOTICE", "ERROR: too many concurrent REQs"]),
        (
            Behaviour(max_subscriptions=20, subscriptions_refusal=Refusal(How.CLOSED, "error: too many")),
            ["CLOSED", "20", "error: too many"],
        ),
    ],
)
def test_subscriptions_are_limited(behaviour: Behaviour, answer: list[object]) -> None:
    """Reusing an id or closing one makes room."""
    with ScriptedRelay(behaviour) as relay, NaiveClient(relay.url) as client:
        for number in range(20):
            assert client.page({}, subscription=str(number))[1][0] == "EOSE"
        assert client.page({}, subscription="7")[1][0] == "EOSE"
        assert client.page({}, subscription="20")[1] == answer
        client.send("CLOSE", "3")
        assert client.page({}, subscription="20")[1][0] == "EOSE"
        assert relay.wait_for_close("3").subscription == "3"
        assert relay.open_subscriptions == 20


def test_subscriptions_may_be_limited_silently() -> None:
    with ScriptedRelay(NODE_RELAY) as relay, NaiveClient(relay.url) as client:
        for number in range(20):
            client.page({}, subscription=str(number))
        client.send("REQ", "20", {})
        assert client.is_silent()


def test_filters_items_and_frames_are_limited() -> None:
    keys = [f"{number:064x}" for number in range(2048)]
    with ScriptedRelay(STRFRY) as relay, NaiveClient(relay.url) as client:
        assert client.page(*[{"kinds": [number]} for number in range(21)])[1][0] == "CLOSED"
        client.send("REQ", "s", {"kinds": list(range(2048))})
        assert client.receive() == ["CLOSED", "s", "ERROR: bad req: total filter items too large"]
        client.send("REQ", "s", {"authors": keys})
        with pytest.raises(ConnectionClosed):
            client.receive()


def test_invalid_filters_are_refused(relay: ScriptedRelay) -> None:
    with NaiveClient(relay.url) as client:
        for bad in ({"ids": ["abc"]}, {"kinds": "1"}, {"since": 1.5}, {"limit": True}, 7):
            assert client.page(bad)[1] == ["CLOSED", "s", "ERROR: bad req: invalid filter"]


def test_a_repeated_req_may_be_ignored() -> None:
    with ScriptedRelay(NOSTR_RS) as relay, NaiveClient(relay.url) as client:
        narrow = {"kinds": [1], "authors": ["ab" * 32]}
        assert client.page(narrow)[1][0] == "EOSE"
        client.send("REQ", "s", narrow)
        assert client.is_silent()


def test_too_broad_filter_ends_the_req_at_once_and_opens_nothing() -> None:
    with ScriptedRelay(NOSTR_RS) as relay, NaiveClient(relay.url) as client:
        narrow = {"kinds": [1], "authors": ["ab" * 32]}
        client.send("REQ", "s", narrow, {"kinds": [0]})
        assert client.receive()[0] == "EOSE"
        assert relay.open_subscriptions == 0


def test_messages_can_be_rate_limited(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(rate=RateLimit(per_s=0.001, burst=2)))
    with NaiveClient(relay.url) as client:
        answers = [client.page({"limit": 0})[1] for _ in range(3)]
    assert answers == [["EOSE", "s"], ["EOSE", "s"], ["NOTICE", "rate limited"]]


@pytest.mark.parametrize("how", [How.RESET, How.CLOSE])
def test_a_page_breaks_off_with_the_connection(relay: ScriptedRelay, how: How) -> None:
    """Exactly so many events arrive, once; the next connection gets the whole page."""
    relay.behave(Behaviour(interruption=Interruption(7, how)))
    with NaiveClient(relay.url) as client:
        client.send("REQ", "s", {"limit": 100})
        assert [client.receive()[0] for _ in range(7)] == ["EVENT"] * 7
        with pytest.raises(ConnectionClosed):
            client.receive()
    assert len(ask(relay, {"limit": 100})) == 100


def test_a_page_breaks_off_with_closed_or_silence(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(interruption=Interruption(3, How.CLOSED, "error: shutting down", times=None)))
    with NaiveClient(relay.url) as client:
        events, last = client.page({"limit": 9})
        assert (len(events), last) == (3, ["CLOSED", "s", "error: shutting down"])
        relay.behave(Behaviour(interruption=Interruption(3, How.SILENT)))
        client.send("REQ", "s", {"limit": 9})
        assert [client.receive()[0] for _ in range(3)] == ["EVENT"] * 3
        assert client.is_silent()


@pytest.mark.parametrize("how", [How.ENDLESS_FRAME, How.ENDLESS_MESSAGE])
def test_a_frame_or_message_may_never_end(relay: ScriptedRelay, how: How) -> None:
    relay.behave(Behaviour(refusals=(Refusal(how),)))
    with NaiveClient(relay.url) as client:
        client.send("REQ", "s", {})
        assert client.is_silent()
        assert relay.journal.of(Disconnected) == []


def test_events_can_be_repeated_unasked_or_forged(relay: ScriptedRelay) -> None:
    stranger = BOB.sign("nobody asked", created_at=NOW)
    relay.behave(Behaviour(copies=2, unasked=(stranger,), forge=forge_signature))
    first, second = NOTES[9], NOTES[8]
    page = ask(relay, {"since": NOW + 8, "until": NOW + 9})
    assert page == [stranger, forge_signature(first), first, first, forge_signature(second), second, second]
    assert [is_authentic(event) for event in page] == [True, False, True, True, False, True, True]
    relay.behave(Behaviour(forge=forge_content))
    forged, true = ask(relay, {"ids": [first.id]})
    assert (forged.id, forged.content, true) == (first.id, "forged", first)


def test_garbage_may_come_before_a_page(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(garbage=("{", '["EVENT","s"]', b'["EVENT"\x01')))
    with NaiveClient(relay.url) as client:
        client.send("REQ", "s", {"limit": 0})
        assert client.socket.recv(timeout=TIMEOUT_S) == "{"
        assert client.receive() == ["EVENT", "s"]
        assert client.socket.recv(timeout=TIMEOUT_S) == '["EVENT"\x01'
        assert client.receive() == ["EOSE", "s"]


def test_messages_can_come_in_fragments(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(fragment_bytes=50))
    assert ask(relay, {"limit": 3}) == NEWEST_FIRST[:3]


def test_events_can_come_slowly(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(answer_delay_s=0.05, event_delay_s=0.02, eose_delay_s=0.05))
    began = time.monotonic()
    assert len(ask(relay, {"limit": 5})) == 5
    assert time.monotonic() - began >= 0.2


def test_published_events_go_to_live_subscriptions(relay: ScriptedRelay) -> None:
    """Stored events come first, then EOSE, then live ones that match, times included."""
    with NaiveClient(relay.url) as client:
        client.page({"kinds": [1], "limit": 0}, subscription="live")
        client.page({"since": NOW + 10_000}, subscription="late")
        early = BOB.sign("early", created_at=NOW)
        assert relay.publish(early, BOB.sign("x", kind=7, created_at=NOW)) == 1
        assert client.receive()[1:] == ["live", early.to_value()]
        late = BOB.sign("late", kind=5, created_at=NOW + 10_000)
        with NaiveClient(relay.url) as other:
            other.send("EVENT", late.to_value())
            assert other.receive() == ["OK", late.id, True, ""]
        assert client.receive()[1:] == ["late", late.to_value()]
        client.send("CLOSE", "live")
        relay.wait_for_close("live")
        assert relay.publish(BOB.sign("after", created_at=NOW)) == 0


def test_live_events_can_get_lost(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(live_loses_every=2))
    with NaiveClient(relay.url) as client:
        client.page({"limit": 0})
        assert [relay.publish(BOB.sign(str(number), created_at=NOW)) for number in range(4)] == [1, 0, 1, 0]
    relay.behave(Behaviour(live=False))
    with NaiveClient(relay.url) as client:
        client.page({"limit": 0})
        assert relay.publish(BOB.sign("nobody hears", created_at=NOW)) == 0


def test_first_filter_alone_can_bring_live_events(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(live_first_filter=True))
    with NaiveClient(relay.url) as client:
        client.page({"limit": 0, "kinds": [1]}, {"limit": 0, "kinds": [7]})
        assert [relay.publish(BOB.sign("x", created_at=NOW, kind=kind)) for kind in (1, 7)] == [1, 0]


def test_nip11_is_served_when_configured(relay: ScriptedRelay) -> None:
    """Only for the exact Accept header, and only when there is a document."""

    def fetch(accept: str) -> object:
        request = urllib.request.Request(relay.url.replace("ws:", "http:"), headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.loads(response.read())

    with pytest.raises(urllib.error.HTTPError) as without:
        fetch("application/nostr+json")
    without.value.close()
    relay.behave(STRFRY)
    assert fetch("application/nostr+json") == STRFRY.nip11
    with pytest.raises(urllib.error.HTTPError) as other:
        fetch("*/*")
    other.value.close()
    assert [entry.status for entry in relay.journal.of(HttpRequest)] == [404, 200, 404]


def test_a_handshake_can_be_refused(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(upgrade=Upgrade(429, (("Retry-After", "60"),), times=1)))
    with pytest.raises(InvalidStatus) as refused, NaiveClient(relay.url):
        pass
    assert refused.value.response.headers["Retry-After"] == "60"
    assert len(ask(relay, {"limit": 1})) == 1


def test_a_relay_can_be_deaf(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(deaf=True))
    with NaiveClient(relay.url) as client:
        client.send("REQ", "s", {})
        assert client.is_silent()


def test_pings_can_stay_unanswered(relay: ScriptedRelay) -> None:
    with NaiveClient(relay.url) as client:
        assert client.socket.ping().wait(TIMEOUT_S)
    relay.behave(Behaviour(ignore_pings=True))
    with NaiveClient(relay.url) as client:
        assert not client.socket.ping().wait(0.3)
        assert client.page({"limit": 0})[1][0] == "EOSE"


def test_connections_can_end_after_some_messages(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(close_every_messages=3))
    with NaiveClient(relay.url) as client:
        assert [client.page({"limit": 0})[1][0] for _ in range(3)] == ["EOSE"] * 3
        with pytest.raises(ConnectionClosed):
            client.page({"limit": 0})


def test_hello_comes_first_and_shouts_reach_all(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(hello=('["NOTICE","welcome"]',)))
    with NaiveClient(relay.url) as client:
        assert client.receive() == ["NOTICE", "welcome"]
        assert relay.shout('["NOTICE","all"]') == 1
        assert client.receive() == ["NOTICE", "all"]
        assert relay.drop() == 1
        with pytest.raises(ConnectionClosed):
            client.receive()


@pytest.mark.parametrize("silent", [False, True])
def test_auth_is_demanded_and_checked(relay: ScriptedRelay, silent: bool) -> None:
    relay.behave(Behaviour(auth=AuthDemand(silent_success=silent)))
    with NaiveClient(relay.url) as client:
        challenge = client.receive()
        assert challenge[0] == "AUTH"
        assert client.page({"limit": 1})[1] == ["CLOSED", "s", "auth-required: authenticate first"]
        tags = [["relay", relay.url], ["challenge", "another"]]
        client.send("AUTH", ALICE.sign(kind=22242, created_at=NOW, tags=tags).to_value())
        assert client.receive()[2] is False
        tags[1][1] = challenge[1]
        client.send("AUTH", ALICE.sign(kind=22242, created_at=NOW, tags=tags).to_value())
        if not silent:
            assert client.receive()[2] is True
        assert len(client.page({"limit": 1})[0]) == 1
    assert [entry.valid for entry in relay.journal.of(Authenticated)] == [False, True]


def test_auth_may_not_help_and_may_come_with_the_refusal(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(auth=AuthDemand(on_connect=False, restricted="restricted: members only")))
    with NaiveClient(relay.url) as client:
        client.send("REQ", "s", {})
        challenge = client.receive()
        assert client.receive() == ["CLOSED", "s", "auth-required: authenticate first"]
        tags = [["relay", relay.url], ["challenge", challenge[1]]]
        client.send("AUTH", ALICE.sign(kind=22242, created_at=NOW, tags=tags).to_value())
        assert client.receive()[2] is True
        assert client.page({})[1] == ["CLOSED", "s", "restricted: members only"]


def test_events_are_answered_by_script(relay: ScriptedRelay) -> None:
    """Rules choose by kind and content and end after their count; then the usual answers come."""
    notes = [BOB.sign(f"{number}", created_at=NOW) for number in range(4)]
    profile = BOB.sign("{}", kind=0, created_at=NOW)
    rules = (
        OkRule(False, "blocked: kind", kinds=frozenset({0})),
        OkRule(False, "rate-limited: slow down", times=1),
        OkRule(answer=False, containing=notes[1].id),
        OkRule(True, "shadow", containing=notes[2].id),
    )
    relay.behave(Behaviour(ok_rules=rules))
    with NaiveClient(relay.url) as client:
        for event in (profile, *notes, notes[3]):
            client.send("EVENT", event.to_value())
        client.send("EVENT", forge_signature(notes[0]).to_value())
        answers = [client.receive()[1:] for _ in range(6)]
    assert answers == [
        [profile.id, False, "blocked: kind"],
        [notes[0].id, False, "rate-limited: slow down"],
        [notes[2].id, True, "shadow"],
        [notes[3].id, True, ""],
        [notes[3].id, True, "duplicate: already have this event"],
        [notes[0].id, False, "invalid: bad id or signature"],
    ]
    assert {event.id for event in relay.stored()} == {event.id for event in (*NOTES, notes[3])}
    taken = relay.journal.of(Published, lambda entry: entry.event_id == notes[1].id)
    assert [entry.accepted for entry in taken] == [None]


def test_publishing_can_reset_the_connection(relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(ok_rules=(OkRule(reset=True, store=True, times=1),)))
    event = BOB.sign("kept", created_at=NOW)
    with NaiveClient(relay.url) as client:
        client.send("EVENT", event.to_value())
        with pytest.raises(ConnectionClosed):
            client.receive()
    relay.wait_for_published(event.id)
    assert event in relay.stored()


def test_a_replacing_relay_keeps_the_newest() -> None:
    old, new = (ALICE.contact_list([BOB], created_at=NOW + age) for age in (0, 1))
    with ScriptedRelay(replaces=True, events=[old]) as relay:
        assert publish_events(relay.url, [new]).accepted == {new.id}
        assert publish_events(relay.url, [old]).refused == {old.id: "replaced: have newer event"}
        assert relay.stored() == [new]


def test_bulk_publishing_is_answered_in_full(relay: ScriptedRelay) -> None:
    events = [BOB.sign(str(number), created_at=NOW) for number in range(300)]
    assert publish_events(relay.url, events).count == 300
    assert len(relay.stored()) == len(NOTES) + 300


def test_other_messages_are_answered_as_relays_do(relay: ScriptedRelay) -> None:
    with NaiveClient(relay.url) as client:
        client.send("NEG-OPEN", "n", {}, "6100000200")
        assert client.receive() == ["NOTICE", "ERROR: bad msg: negentropy disabled"]
        client.socket.send("junk")
        assert client.receive()[0] == "NOTICE"
        relay.behave(Behaviour(counts=True, garbage_notice=None))
        client.send("COUNT", "c", {"until": NOW + 9})
        assert client.receive() == ["COUNT", "c", {"count": 10}]
        client.socket.send("junk")
        assert client.is_silent()
    assert [entry.label for entry in relay.journal.of(Other)] == ["NEG-OPEN", "", "COUNT", ""]


def test_a_relay_comes_back_at_its_url(relay: ScriptedRelay) -> None:
    """Stopping ends connections; starting again serves the same events."""
    with NaiveClient(relay.url) as client:
        client.page({"limit": 0})
        relay.stop()
        with pytest.raises(ConnectionClosed):
            client.receive()
    with pytest.raises(ConnectionRefusedError), NaiveClient(relay.url):
        pass
    relay.start()
    assert len(ask(relay, {"limit": 5})) == 5
    assert relay.wait_for_connection(2).connection == 2


def test_waits_end_with_a_tale(relay: ScriptedRelay) -> None:
    ask(relay, {"limit": 1})
    with pytest.raises(TimeoutError, match=r"1 of 2 Req after 0\.05 s; last:"):
        relay.wait_for_req(count=2, timeout_s=0.05)
    assert relay.wait_for_req(lambda req: req.filters[0].get("limit") == 1).subscription == "s"
    assert relay.journal.wait_for(Req).connection == 1


def test_behaviours_compose() -> None:
    """The right one wins where it says anything."""
    both = STRFRY | Behaviour(order=Order.SHUFFLED, cap=100)
    assert (both.cap, both.order, both.max_subscriptions) == (100, Order.SHUFFLED, STRFRY.max_subscriptions)
    assert STRFRY | Behaviour() == STRFRY


@pytest.mark.parametrize("agreed", [False, True])
def test_compression_is_agreed_to_only_by_script(agreed: bool) -> None:
    with ScriptedRelay(Behaviour(compression=agreed)) as relay, NaiveClient(relay.url, compression="deflate") as client:
        assert client.extensions.startswith("permessage-deflate") is agreed
