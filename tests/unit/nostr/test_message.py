"""Messages of relays: every type as relays write it, what is tolerated, and what a broken frame still tells."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.nostr import message
from pipeline.nostr.event import Event, InvalidEvent, Reason, sign
from pipeline.nostr.message import (
    MAX_CHALLENGE,
    AuthChallenge,
    Closed,
    Count,
    Eose,
    EventMessage,
    InvalidEventMessage,
    InvalidMessage,
    KnownEvent,
    MessageFault,
    NegError,
    NegMessage,
    Notice,
    Ok,
    RelayMessage,
    Unknown,
    parse_relay_message,
)
from tests.unit.nostr.strategies import (
    SECRET,
    json_values,
    property_test,
    tag_lists,
    text,
    unsigned_events,
    value_of,
)

EVENT = sign(SECRET, created_at=1_700_000_000, kind=1, tags=[["t", "x"]], content="hello")
ID = "ab" * 32
ID_BYTES = b"\xab" * 32


def read(*elements: Any) -> RelayMessage:
    return parse_relay_message(json.dumps(elements).encode())


def fault(raw: bytes) -> MessageFault:
    with pytest.raises(InvalidMessage) as caught:
        parse_relay_message(raw)
    assert caught.value.reason in str(caught.value)
    return caught.value.reason


def test_an_event() -> None:
    frame = b'["EVENT","s",' + EVENT.to_json() + b"]"
    assert parse_relay_message(frame) == EventMessage("s", EVENT)
    assert parse_relay_message(b"\n[\n" + frame[1:-1] + b' , "more", {}]\r\n') == EventMessage("s", EVENT)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        (["EOSE", "s"], Eose("s", None)),
        (["EOSE", ""], Eose("", None)),
        (["EOSE", "s", ["finish"]], Eose("s", True)),
        (["EOSE", "s", ["more", "x", 1, []]], Eose("s", False)),
        (["EOSE", "s", ["finish", "more"]], Eose("s", None)),
        (["EOSE", "s", []], Eose("s", None)),
        (["EOSE", "s", {"finish": 1}], Eose("s", None)),
        (["EOSE", "s", "finish"], Eose("s", None)),
        (["EOSE", "s", None, ["finish"]], Eose("s", None)),
        (["CLOSED", "s", "ERROR: auth-required: x"], Closed("s", "ERROR: auth-required: x", "auth-required")),
        (["CLOSED", "s", "reason"], Closed("s", "reason", "")),
        (["CLOSED", "s"], Closed("s", "", "")),
        (["CLOSED", "s", None], Closed("s", "", "")),
        (["CLOSED", "s", "blocked: x", 1], Closed("s", "blocked: x", "blocked")),
        (["OK", ID, True, ""], Ok(ID_BYTES, True, "", "")),
        (["OK", ID.upper(), True], Ok(ID_BYTES, True, "", "")),
        (["OK", ID, False, "pow: 3<8", 1], Ok(ID_BYTES, False, "pow: 3<8", "pow")),
        (["OK", ID, False, None], Ok(ID_BYTES, False, "", "")),
        (["NOTICE", ""], Notice("")),
        (["NOTICE", "hello", 1], Notice("hello")),
        (["AUTH", "Ayx+B1w/j2YAAAAA"], AuthChallenge("Ayx+B1w/j2YAAAAA")),
        (["COUNT", "s", {"count": 12, "approximate": True}], Count("s", 12)),
        (["COUNT", "s", {"count": 0}, 1], Count("s", 0)),
        (["NEG-MSG", "s", "61FFab"], NegMessage("s", b"\x61\xff\xab")),
        (["NEG-MSG", "s", "6100000200"], NegMessage("s", b"\x61\0\0\x02\0")),
        (["NEG-ERR", "s", "blocked: too many", 1_000_000], NegError("s", "blocked: too many", "blocked")),
        (["NEG-ERR", "s"], NegError("s", "", "")),
        (["HELLO", 1], Unknown("HELLO")),
        (["event", "s", {}], Unknown("event")),
        ([""], Unknown("")),
        (["x" * 1000], Unknown("x" * 32)),
    ],
)
def test_every_other_type(elements: list[Any], expected: RelayMessage) -> None:
    assert read(*elements) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", MessageFault.JSON),
        (b"hello", MessageFault.JSON),
        (b'\xef\xbb\xbf["EOSE","s"]', MessageFault.JSON),
        (b'["EOSE","s"', MessageFault.JSON),
        (b'["EOSE","\xff"]', MessageFault.JSON),
        (b"{}", MessageFault.SHAPE),
        (b"[]", MessageFault.SHAPE),
        (b"null", MessageFault.SHAPE),
        (b'"EOSE"', MessageFault.SHAPE),
        (b"[1]", MessageFault.SHAPE),
        (b'[["EOSE","s"]]', MessageFault.SHAPE),
        (b'["EVENT"]', MessageFault.SUBSCRIPTION),
        (b'["EVENT",{}]', MessageFault.SUBSCRIPTION),
        (b'["EOSE"]', MessageFault.SUBSCRIPTION),
        (b'["EOSE",42]', MessageFault.SUBSCRIPTION),
        (b'["CLOSED",null,"x"]', MessageFault.SUBSCRIPTION),
        (b'["COUNT",1,{"count":1}]', MessageFault.SUBSCRIPTION),
        (b'["NEG-MSG"]', MessageFault.SUBSCRIPTION),
        (b'["NEG-ERR",[]]', MessageFault.SUBSCRIPTION),
        (b'["OK"]', MessageFault.ID),
        (b'["OK",1,true,""]', MessageFault.ID),
        (b'["OK","",true,""]', MessageFault.ID),
        (b'["OK","abc123",true,""]', MessageFault.ID),
        (b'["OK","%s",true,""]' % (b"zz" * 32), MessageFault.ID),
        (b'["OK","%s"]' % ID.encode(), MessageFault.ACCEPTED),
        (b'["OK","%s","yes",""]' % ID.encode(), MessageFault.ACCEPTED),
        (b'["OK","%s",1,""]' % ID.encode(), MessageFault.ACCEPTED),
        (b'["NOTICE"]', MessageFault.TEXT),
        (b'["NOTICE",404]', MessageFault.TEXT),
        (b'["AUTH"]', MessageFault.TEXT),
        (b'["AUTH",null]', MessageFault.TEXT),
        (b'["COUNT","s"]', MessageFault.COUNT),
        (b'["COUNT","s",12]', MessageFault.COUNT),
        (b'["COUNT","s",{}]', MessageFault.COUNT),
        (b'["COUNT","s",{"count":-1}]', MessageFault.COUNT),
        (b'["COUNT","s",{"count":1.0}]', MessageFault.COUNT),
        (b'["COUNT","s",{"count":true}]', MessageFault.COUNT),
        (b'["NEG-MSG","s"]', MessageFault.PAYLOAD),
        (b'["NEG-MSG","s",""]', MessageFault.PAYLOAD),
        (b'["NEG-MSG","s","616"]', MessageFault.PAYLOAD),
        (b'["NEG-MSG","s","61 62"]', MessageFault.PAYLOAD),
        (b'["NEG-MSG","s",61]', MessageFault.PAYLOAD),
    ],
)
def test_what_is_no_message(raw: bytes, expected: MessageFault) -> None:
    assert fault(raw) is expected


@pytest.mark.parametrize(
    ("changes", "reason", "created_at", "event_id"),
    [
        ({"kind": "1"}, Reason.KIND, 1_700_000_000, EVENT.id),
        ({"tags": [[1]], "id": "junk"}, Reason.ID, 1_700_000_000, None),
        ({"created_at": -1}, Reason.CREATED_AT, None, EVENT.id),
        ({"created_at": True, "content": None}, Reason.CREATED_AT, None, EVENT.id),
        ({"id": EVENT.id.hex().upper()}, Reason.ID, 1_700_000_000, EVENT.id),
        ({"sig": ""}, Reason.SIG, 1_700_000_000, EVENT.id),
    ],
)
def test_a_malformed_event_still_tells_subscription_time_and_id(
    changes: dict[str, Any], reason: Reason, created_at: int | None, event_id: bytes | None
) -> None:
    with pytest.raises(InvalidEventMessage) as caught:
        read("EVENT", "s", {**value_of(EVENT), **changes})
    error = caught.value
    assert isinstance(error, InvalidEvent)
    assert (error.subscription, error.reason, error.created_at, error.id) == ("s", reason, created_at, event_id)


@pytest.mark.parametrize("rest", [[], [None], [[]], ["x"], [1, value_of(EVENT)]])
def test_an_event_frame_without_an_event_still_tells_its_subscription(rest: list[Any]) -> None:
    with pytest.raises(InvalidEventMessage) as caught:
        read("EVENT", "s", *rest)
    assert (caught.value.subscription, caught.value.reason) == ("s", Reason.SHAPE)


class Recorded:
    """A container of one id that records what it is asked."""

    def __init__(self, event_id: bytes) -> None:
        self.event_id = event_id
        self.asked: list[object] = []

    def __contains__(self, item: object) -> bool:
        self.asked.append(item)
        return item == self.event_id


def test_a_seen_event_is_recognised_by_its_id_without_reading_the_rest() -> None:
    seen = Recorded(EVENT.id)
    frame = json.dumps(["EVENT", "s", {**value_of(EVENT), "tags": [[1]]}]).encode()
    assert parse_relay_message(frame, seen) == KnownEvent("s", EVENT.id, EVENT.created_at)
    assert seen.asked == [EVENT.id]


def test_an_unseen_event_is_read_in_full() -> None:
    frame = b'["EVENT","s",' + EVENT.to_json() + b"]"
    assert parse_relay_message(frame, set()) == EventMessage("s", EVENT)
    assert parse_relay_message(frame, {b"\xab" * 32}) == EventMessage("s", EVENT)


@pytest.mark.parametrize("changes", [{"id": "junk"}, {"id": None}, {"created_at": None}, {"created_at": "1"}])
def test_without_id_and_time_nothing_is_recognised(changes: dict[str, Any]) -> None:
    frame = json.dumps(["EVENT", "s", {**value_of(EVENT), **changes}]).encode()
    with pytest.raises(InvalidEventMessage):
        parse_relay_message(frame, {EVENT.id})


@pytest.mark.parametrize("raw", [b'["EVENT","s"]', b'["EVENT","s",[]]'])
def test_a_frame_without_an_event_is_not_recognised(raw: bytes) -> None:
    with pytest.raises(InvalidEventMessage):
        parse_relay_message(raw, {EVENT.id})


@property_test
@given(unsigned_events, text)
def test_recognition_agrees_with_reading(event: Event, subscription: str) -> None:
    frame = json.dumps(["EVENT", subscription, value_of(event)]).encode()
    full = parse_relay_message(frame)
    assert full == EventMessage(subscription, event)
    assert parse_relay_message(frame, {event.id}) == KnownEvent(subscription, event.id, event.created_at)


OTHER = bytes(range(32))
# What would deceive a search that does not know strings from members.
LURES = ['"id":"' + OTHER.hex() + '"', '\\"id":"' + OTHER.hex(), '"created_at":5,', "\\", '"', '"id":"', "},", "]"]
lures = st.lists(st.sampled_from(LURES) | text, max_size=6).map("".join)


@property_test
@given(content=lures, tags=tag_lists(lures), order=st.permutations(list(value_of(EVENT))))
def test_recognition_is_not_deceived_by_texts(content: str, tags: list[list[str]], order: list[str]) -> None:
    """Whatever the order of members, written as compactly as relays do."""
    event = sign(SECRET, created_at=1_700_000_000, kind=1, tags=tags, content=content)
    value = value_of(event)
    members = {name: value[name] for name in order}
    frame = json.dumps(["EVENT", "L1", members], separators=(",", ":"), ensure_ascii=False).encode()
    assert parse_relay_message(frame, {OTHER}) == parse_relay_message(frame)
    assert parse_relay_message(frame, {event.id}) == KnownEvent("L1", event.id, event.created_at)


@pytest.mark.parametrize(
    "lure",
    [
        '"x":{"id":"%s","created_at":3}',
        '"id":"%s"',
        '"id":"%s","\\u0069d":"%s"',
        '"x":{"id":"%s","\\u0069d":"%s"}',
    ],
)
def test_recognition_is_not_deceived_by_other_members(lure: str) -> None:
    """Whoever adds a member to somebody's event must not make it look like one that we have."""
    known = OTHER.hex()
    body = EVENT.to_json()[1:]
    frame = b'["EVENT","s",{' + lure.replace("%s", known).encode() + b"," + body + b"]"
    assert parse_relay_message(frame, {OTHER}) == parse_relay_message(frame) == EventMessage("s", EVENT)
    assert parse_relay_message(frame, {EVENT.id}) == KnownEvent("s", EVENT.id, EVENT.created_at)


def test_every_truncation_is_no_message() -> None:
    surrogates = sign(SECRET, created_at=1, kind=1, tags=[], content='a\ud800\\"')
    for event in (EVENT, surrogates):
        frame = b'["EVENT","s",' + event.to_json() + b"]"
        for end in range(len(frame)):
            assert fault(frame[:end]) is MessageFault.JSON, frame[:end]


labels = st.sampled_from(["EVENT", "EOSE", "CLOSED", "OK", "NOTICE", "AUTH", "COUNT", "NEG-MSG", "NEG-ERR", "X"])
almost = st.tuples(labels, st.just(ID) | json_values, st.booleans() | json_values, json_values)


@property_test
@given(st.binary() | (st.lists(json_values) | almost).map(lambda elements: json.dumps(elements).encode()))
def test_any_frame_is_a_message_or_invalid(raw: bytes) -> None:
    result: Any
    try:
        result = parse_relay_message(raw)
    except (InvalidMessage, InvalidEventMessage) as error:
        result = error
    assert repr(result)


def test_a_frame_of_200_000_tags_is_read() -> None:
    frame = b'["EVENT","s",' + EVENT.to_json().replace(b'["t","x"]', b",".join([b'["t"]'] * 200_000)) + b"]"
    read_back = parse_relay_message(frame)
    assert isinstance(read_back, EventMessage)
    assert len(read_back.event.tags) == 200_000
    assert parse_relay_message(frame, {EVENT.id}) == KnownEvent("s", EVENT.id, EVENT.created_at)


def test_all_names_are_exported() -> None:
    assert all(hasattr(message, name) for name in message.__all__)


def test_challenge_too_long_to_sign_and_send_is_no_message() -> None:
    parse_relay_message(b'["AUTH","%s"]' % (b"x" * MAX_CHALLENGE))
    with pytest.raises(InvalidMessage):
        parse_relay_message(b'["AUTH","%s"]' % (b"x" * (MAX_CHALLENGE + 1)))
