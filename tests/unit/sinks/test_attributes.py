"""The attributes of a message: which there are, what they say, and that Pub/Sub takes them."""

from dataclasses import replace

import pytest

from pipeline.delivery.outbox_client import message_of
from pipeline.rules.relevance import MAX_MENTIONS, Rule
from pipeline.sinks.attributes import (
    LATE_S,
    LATER,
    MAX_ATTRIBUTES,
    MAX_KEY_BYTES,
    MAX_LISTED_MENTIONS,
    MAX_VALUE_BYTES,
    attributes,
    within_bounds,
)
from pipeline.sinks.base import Message
from pipeline.store.lease import Receipt
from pipeline.store.outbox import OutboxRow

NOW = 1_700_000_000
PAYLOAD = b'{"id":"%s","pubkey":"%s","created_at":%d,"kind":1,"tags":[],"content":"","sig":""}'
USERS = tuple(f"{number:064x}" for number in range(1, 40))


def message(created_at: int = NOW) -> Message:
    return Message(b"\1" * 32, PAYLOAD % (b"01" * 32, b"02" * 32, created_at), (NOW + 5) * 1000 + 999)


def test_everything_that_is_known_is_told() -> None:
    full = replace(
        message(), retracted="deleted", relay="wss://r.example", rules=("user", "mention"), mentions=USERS[:2]
    )
    found = attributes(full)
    assert found == {
        "_watermill_message_uuid": found["_watermill_message_uuid"],
        "event_id": "01" * 32,
        "kind": "1",
        "pubkey": "02" * 32,
        "created_at": str(NOW),
        "first_seen": str(NOW + 5),
        "late": "60",
        "schema": "1",
        "rule_user": "1",
        "rule_mention": "1",
        "relay": "wss://r.example",
        "retracted": "deleted",
        "mentions": f"{USERS[0]},{USERS[1]}",
    }


def test_row_queued_by_an_earlier_version_has_what_is_known() -> None:
    """No rule rather than a wrong one."""
    row = OutboxRow(Receipt(1, 1), 0, 0, 7, b"\1" * 32, message().payload, NOW * 1000)
    found = attributes(message_of(row))
    assert set(found) == {
        "_watermill_message_uuid", "event_id", "kind", "pubkey", "created_at", "first_seen", "late", "schema",
    }  # fmt: skip


def test_row_has_what_was_noted_when_it_was_saved() -> None:
    keys = b"".join(map(bytes.fromhex, USERS[:2]))
    row = OutboxRow(
        Receipt(1, 1), 0, 0, 7, b"\1" * 32, message().payload, NOW * 1000, "expired", "global mention", keys, 3,
        "wss://r.example",
    )  # fmt: skip
    found = message_of(row)
    assert (found.retracted, found.relay) == ("expired", "wss://r.example")
    assert (found.rules, found.mentions) == (("global", "mention"), USERS[:2])


def test_each_rule_has_an_attribute_of_its_own() -> None:
    found = attributes(replace(message(), rules=tuple(Rule)))
    assert {name for name in found if name.startswith("rule_")} == {f"rule_{rule.value}" for rule in Rule}


@pytest.mark.parametrize("most", LATE_S)
def test_late_is_the_first_bound_that_is_not_exceeded(most: int) -> None:
    seen = NOW + 5
    beyond = [str(each) for each in LATE_S if each > most] or [LATER]
    assert attributes(message(seen - most))["late"] == str(most)
    assert attributes(message(seen - most - 1))["late"] == beyond[0]


def test_event_dated_ahead_is_not_late() -> None:
    assert attributes(message(NOW + 900))["late"] == str(LATE_S[0])


@pytest.mark.parametrize("count", [1, MAX_LISTED_MENTIONS, MAX_LISTED_MENTIONS + 1, MAX_MENTIONS])
def test_mentions_are_cut_where_no_more_fit_and_it_is_said(count: int) -> None:
    found = attributes(replace(message(), mentions=USERS[:count]))
    listed = found["mentions"].split(",")
    assert listed == list(USERS[: min(count, MAX_LISTED_MENTIONS)])
    assert len(found["mentions"]) <= MAX_VALUE_BYTES
    assert found.get("mentions_cut") == ("1" if count > MAX_LISTED_MENTIONS else None)


def test_saver_keeps_more_mentions_than_are_listed() -> None:
    """Else nothing would say that the list is cut."""
    assert MAX_MENTIONS == MAX_LISTED_MENTIONS + 1


def test_what_pubsub_would_refuse_is_left_out() -> None:
    """Alone: the message itself is delivered."""
    fits = {"k" * MAX_KEY_BYTES: "v", "name": "v" * MAX_VALUE_BYTES}
    assert within_bounds(fits | {"k" * (MAX_KEY_BYTES + 1): "v", "long": "v" * (MAX_VALUE_BYTES + 1)}) == fits
    many = {f"name-{number}": "v" for number in range(MAX_ATTRIBUTES + 1)}
    assert within_bounds(many) == dict.fromkeys(list(many)[:MAX_ATTRIBUTES], "v")
    found = attributes(replace(message(), relay="wss://" + "r" * MAX_VALUE_BYTES, rules=("user",)))
    assert "relay" not in found
    assert {"event_id", "rule_user", "schema"} <= set(found)
