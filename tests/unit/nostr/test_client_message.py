"""Messages of clients: the exact frames written, and reading them as a relay."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.nostr.client_message import (
    InvalidPublish,
    OtherMessage,
    PublishMessage,
    RequestMessage,
    encode_auth,
    encode_close,
    encode_count,
    encode_event,
    encode_neg_close,
    encode_neg_msg,
    encode_neg_open,
    encode_notice,
    encode_ok,
    encode_req,
    parse_client_message,
)
from pipeline.nostr.event import Event, Reason, event_from_json
from pipeline.nostr.filter import Filter, parse_filter
from pipeline.nostr.frame import InvalidEventMessage, InvalidMessage
from pipeline.nostr.message import Notice, Ok, parse_relay_message
from tests.factories.events import Author
from tests.unit.nostr.strategies import (
    filters,
    json_values,
    keys,
    property_test,
    subscriptions,
    text,
    unsigned_events,
    value_of,
)

KINDS = Filter(kinds=frozenset({3, 0}), limit=0)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (encode_req("a1", [KINDS]), '["REQ","a1",{"kinds":[0,3],"limit":0}]'),
        (encode_req("a1", [KINDS, Filter()]), '["REQ","a1",{"kinds":[0,3],"limit":0},{}]'),
        (encode_count("c", [Filter(since=1)]), '["COUNT","c",{"since":1}]'),
        (encode_close("a1"), '["CLOSE","a1"]'),
        (encode_neg_open("n", KINDS, b"\x61\x00"), '["NEG-OPEN","n",{"kinds":[0,3],"limit":0},"6100"]'),
        (encode_neg_msg("n", b"\x61"), '["NEG-MSG","n","61"]'),
        (encode_neg_close("n"), '["NEG-CLOSE","n"]'),
        (encode_ok("ab", False, 'invalid: "x"'), '["OK","ab",false,"invalid: \\"x\\""]'),
        (encode_notice("é"), '["NOTICE","é"]'),
    ],
)
def test_the_frames_as_written(frame: str, expected: str) -> None:
    assert frame == expected


@pytest.mark.parametrize("subscription", ["", "a" * 65, "é", 'a"b', "a\\b", "a\nb", "a\x7fb", "\ud800"])
def test_a_subscription_that_some_relay_refuses_is_never_sent(subscription: str) -> None:
    for encode in (encode_close, encode_neg_close):
        with pytest.raises(ValueError, match="subscription"):
            encode(subscription)
    for open_ in (encode_req, encode_count):
        with pytest.raises(ValueError, match="subscription"):
            open_(subscription, [])


@pytest.mark.parametrize("subscription", ["a", "A-9_:", "a" * 64, " ~"])
def test_a_subscription_that_every_relay_takes(subscription: str) -> None:
    assert json.loads(encode_close(subscription)) == ["CLOSE", subscription]


@property_test
@given(subscriptions, st.lists(filters, min_size=1, max_size=3))
def test_a_request_says_what_was_asked(subscription: str, asked: list[Filter]) -> None:
    label, name, *values = json.loads(encode_req(subscription, asked))
    assert (label, name) == ("REQ", subscription)
    assert [parse_filter(value) for value in values] == asked
    assert json.loads(encode_count(subscription, asked)) == ["COUNT", subscription, *values]


@property_test
@given(unsigned_events)
def test_a_published_event_arrives(event: Event) -> None:
    assert parse_client_message(encode_event(event).encode()) == PublishMessage(event)
    assert json.loads(encode_auth(event)) == ["AUTH", value_of(event)]
    assert parse_client_message(encode_auth(event).encode()) == OtherMessage("AUTH")


@property_test
@given(keys, st.booleans(), text)
def test_answers_arrive(event_id: bytes, accepted: bool, reason: str) -> None:
    answer = parse_relay_message(encode_ok(event_id.hex(), accepted, reason).encode())
    assert isinstance(answer, Ok)
    assert (answer.event_id, answer.accepted, answer.reason) == (event_id, accepted, reason)
    assert parse_relay_message(encode_notice(reason).encode()) == Notice(reason)


@pytest.mark.parametrize("label", ["REQ", "COUNT"])
def test_requests_are_named_with_their_subscription(label: str) -> None:
    for subscription in ("", "x", "\u2028", "y" * 128):
        assert parse_client_message(json.dumps([label, subscription, {}]).encode()) == RequestMessage(
            label, subscription
        )
    for unusable in ("y" * 129, 5, None, "\ud800"):
        assert parse_client_message(json.dumps([label, unusable]).encode()) == OtherMessage(label)


def test_event_may_come_as_go_clients_write_it() -> None:
    """With a subscription, with null for no tags, with digits in capitals; the parser of go-nostr took these."""
    event = event_from_json(Author.from_seed(5, 5).sign("", created_at=5).raw.encode())
    value = value_of(event)
    assert value["tags"] == []
    written = [
        value | {"tags": None},
        value | {"sig": value["sig"].upper()},
        {k: value[k] for k in value if k != "tags"},
    ]
    for each in (value, *written):
        for message in (["EVENT", each], ["EVENT", "sub", each], ["EVENT", None, each], ["EVENT", {}, each]):
            assert parse_client_message(json.dumps(message).encode()) == PublishMessage(event)


@pytest.mark.parametrize("text", ["", "xyz", "AB" * 32, "é" * 128])
def test_what_a_wrong_event_calls_its_id_is_kept(text: str) -> None:
    with pytest.raises(InvalidPublish) as error:
        parse_client_message(json.dumps(["EVENT", {"id": text}]).encode())
    assert error.value.id_text == text


@pytest.mark.parametrize("value", [5, None, "x" * 129, "\udfff", ["x"]])
def test_what_cannot_be_sent_back_is_no_id(value: object) -> None:
    with pytest.raises(InvalidPublish) as error:
        parse_client_message(json.dumps(["EVENT", {"id": value}]).encode())
    assert error.value.id_text is None


@pytest.mark.parametrize("label", ["CLOSE", "AUTH", "NEG-OPEN", "", "event", "FOO"])
def test_other_messages_are_named(label: str) -> None:
    assert parse_client_message(json.dumps([label, 1, {}]).encode()) == OtherMessage(label)


def test_a_label_is_cut_short() -> None:
    assert parse_client_message(json.dumps(["x" * 1000]).encode()) == OtherMessage("x" * 32)


@pytest.mark.parametrize("raw", [b"", b"hello", b"{}", b"[]", b"null", b"[1]", b'["EVENT"', b'[["EVENT"]]', b"\xff"])
def test_what_is_no_message(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        parse_client_message(raw)


@pytest.mark.parametrize(
    ("raw", "reason", "event_id"),
    [
        (b'["EVENT"]', Reason.SHAPE, None),
        (b'["EVENT","sub",{}]', Reason.ID, None),
        (b'["EVENT","sub",5]', Reason.SHAPE, None),
        (b'["EVENT",{}]', Reason.ID, None),
        (b'["EVENT",{"id":"' + b"ab" * 32 + b'"}]', Reason.PUBKEY, b"\xab" * 32),
    ],
)
def test_a_malformed_event_can_still_be_answered(raw: bytes, reason: Reason, event_id: bytes | None) -> None:
    with pytest.raises(InvalidEventMessage) as caught:
        parse_client_message(raw)
    assert (caught.value.reason, caught.value.id, caught.value.subscription) == (reason, event_id, "")


@property_test
@given(st.binary() | st.lists(st.sampled_from(["EVENT", "REQ"]) | json_values).map(lambda x: json.dumps(x).encode()))
def test_any_frame_is_a_message_or_invalid(raw: bytes) -> None:
    result: Any
    try:
        result = parse_client_message(raw)
    except (InvalidMessage, InvalidEventMessage) as error:
        result = error
    assert str(result)
