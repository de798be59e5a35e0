"""The published schemas fit what is sent and nothing that is no event; they know every attribute."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, validation
from jsonschema import Draft202012Validator

from pipeline.nostr.event import event_from_json
from pipeline.process.trace_context import deliver, traceparent
from pipeline.rules.relevance import MAX_MENTIONS, Rule
from pipeline.sinks.attributes import LATE_S, LATER, SCHEMA, attributes
from pipeline.sinks.base import Message
from pipeline.store.retractions import Retracted
from tests.factories.events import SignedEvent, authors
from tests.factories.workload import Workload

SCHEMAS = Path(__file__).resolve().parents[3] / "pipeline/docs/consumers"
JSON_SCHEMA = json.loads((SCHEMAS / "message.schema.json").read_text())
AVRO = json.loads((SCHEMAS / "event.avsc").read_text())
VALIDATOR = Draft202012Validator(JSON_SCHEMA)
NOW = 1_700_000_000
(ALICE,) = authors(67, 1)
ODD = ALICE.sign('"\\\u2028\ud83d\x00', kind=65_535, created_at=2**63 - 1, tags=[["-"], ["p", ""], ["x", "y", "z"]])
FULL = {
    "relay": "wss://relay.example.com/path",
    "rules": tuple(Rule),
    "mentions": (ALICE.pubkey,) * MAX_MENTIONS,
    "retracted": "expired",
    "is_replay": True,
    "traceparent": traceparent(b"\1" * 32, deliver("pubsub")),
}


def message(event: SignedEvent, **known: Any) -> Message:
    payload = event_from_json(event.raw.encode()).to_json()
    return replace(Message(bytes.fromhex(event.id), payload, NOW * 1000), **known)


def decoded(sent: Message) -> dict[str, Any]:
    return {"data": json.loads(sent.payload), "attributes": attributes(sent)}


def faults(value: dict[str, Any]) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(value)]


def test_schemas_are_schemas() -> None:
    Draft202012Validator.check_schema(JSON_SCHEMA)
    parse_schema(AVRO)


@pytest.mark.parametrize("known", [{}, FULL], ids=["nothing known", "everything known"])
def test_what_is_sent_fits_both_schemas(known: dict[str, Any]) -> None:
    work = Workload(seed=1, events=200, authors=20, since=NOW - 3600, until=NOW, registered=5, mentions=0.3)
    for event in [*work.generate(), ODD]:
        value = decoded(message(event, **known))
        assert faults(value) == []
        assert validation.validate(value["data"], AVRO, strict=True)


@pytest.mark.parametrize(
    "change",
    [
        {"id": ALICE.pubkey.upper() + "A"}, {"pubkey": "ab"}, {"created_at": -1}, {"created_at": 1.5},
        {"created_at": 2**63}, {"kind": 65_536}, {"kind": "1"}, {"tags": [[1]]}, {"tags": {}},
        {"content": None}, {"sig": "ab" * 63}, {"more": 1},
    ],
)  # fmt: skip
def test_what_is_no_event_does_not_fit(change: dict[str, Any]) -> None:
    value = decoded(message(ODD))
    value["data"] |= change
    assert faults(value)


def test_event_without_a_field_fits_neither_schema() -> None:
    for name in ("id", "pubkey", "created_at", "kind", "tags", "content", "sig"):
        value = decoded(message(ODD))
        del value["data"][name]
        assert faults(value)
        assert not validation.validate(value["data"], AVRO, strict=True, raise_errors=False)


@pytest.mark.parametrize("change", [{"late": "61"}, {"rule_user": "0"}, {"retracted": ""}, {"first_seen": "now"}])
def test_wrong_attribute_does_not_fit(change: dict[str, str]) -> None:
    value = decoded(message(ODD, **FULL))
    value["attributes"] |= change
    assert faults(value)


def test_schema_has_every_attribute_and_every_value() -> None:
    known = JSON_SCHEMA["$defs"]["attributes"]["properties"]
    assert set(known) == set(attributes(message(ODD, **FULL)))
    assert set(known["late"]["enum"]) == {*map(str, LATE_S), LATER}
    assert set(known["retracted"]["enum"]) == {each.value for each in Retracted}
    assert known["schema"]["const"] == SCHEMA
    assert set(JSON_SCHEMA["$defs"]["attributes"]["required"]) == set(attributes(message(ODD)))
