"""Registrations (kind 6666): who registers with which relays, and what refuses one."""

import json
from typing import Any

import pytest
from hypothesis import given

from pipeline.nostr.event import Event, public_key, sign
from pipeline.nostr.registration import InvalidRegistration, Registration, parse_registration
from tests.unit.nostr.strategies import SECRET, json_values, property_test, text


def registering(content: str, kind: int = 6666) -> Event:
    return sign(SECRET, created_at=1, kind=kind, tags=[], content=content)


def relays_of(value: Any) -> list[str]:
    registration = parse_registration(registering(json.dumps(value)))
    assert registration.public_key == public_key(SECRET)
    return [relay.url for relay in registration.relays]


@pytest.mark.parametrize("value", [{}, {"relays": []}, {"relays": None}, {"other": 1}])
def test_relays_may_be_absent(value: Any) -> None:
    assert relays_of(value) == []


def test_relays_are_canonical_and_distinct_in_order() -> None:
    addresses = ["wss://b.example/", "wss://a.example", "WSS://B.example:443", "ws://c.example/path"]
    value = {"relays": [{"address": address, "note": 1} for address in addresses]}
    assert relays_of(value) == ["wss://b.example", "wss://a.example", "ws://c.example/path"]


@pytest.mark.parametrize("address", ["ws://127.0.0.1:8080", "ws://localhost", "wss://relay.local", "ws://[::1]:7000"])
def test_a_private_address_does_not_refuse(address: str) -> None:
    registration = parse_registration(registering(json.dumps({"relays": [{"address": address}]})))
    assert [relay.is_private for relay in registration.relays] == [True]


@pytest.mark.parametrize(
    "address", ["", "junk", "https://relay.example", "relay.example", "wss://", "wss://a b", "ftp://x"]
)
def test_one_unusable_address_refuses_the_whole(address: str) -> None:
    content = json.dumps({"relays": [{"address": "wss://good.example"}, {"address": address}]})
    with pytest.raises(InvalidRegistration, match="relay address"):
        parse_registration(registering(content))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "junk",
        "null",
        "[]",
        "1",
        '"x"',
        "\ud800",
        '{"relays":{}}',
        '{"relays":"wss://a.example"}',
        '{"relays":[null]}',
        '{"relays":["wss://a.example"]}',
        '{"relays":[{}]}',
        '{"relays":[{"address":null}]}',
        '{"relays":[{"address":["wss://a.example"]}]}',
        '{"relays":[]',
        "[" * 100_000,
    ],
)
def test_content_of_another_form_is_refused(content: str) -> None:
    with pytest.raises(InvalidRegistration) as caught:
        parse_registration(registering(content))
    assert str(caught.value)


def test_another_kind_is_refused() -> None:
    with pytest.raises(InvalidRegistration, match="6666"):
        parse_registration(registering("{}", kind=1))


@property_test
@given(json_values, text)
def test_any_content_is_a_registration_or_refused(value: Any, address: str) -> None:
    for content in (json.dumps(value), json.dumps({"relays": value}), json.dumps({"relays": [{"address": address}]})):
        try:
            registration = parse_registration(registering(content))
        except InvalidRegistration:
            continue
        assert isinstance(registration, Registration)
        assert json.loads(content).get("relays") or not registration.relays
