"""A topic with the published Avro schema takes what the service sends; so Google's emulator says."""

import json
from typing import Any

import pytest
from google.pubsub_v1 import SchemaServiceClient
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport

from pipeline.sinks.base import DELIVERED, SinkDown
from pipeline.sinks.pubsub import PubsubSettings, PubsubSink
from tests.fakes.child import ROOT
from tests.fakes.emulator import PROJECT, READY_TIMEOUT_S, PubSubEmulator, pubsub_emulator
from tests.integration.delivery.support import message, notes

SCHEMA = (ROOT / "pipeline/docs/consumers/event.avsc").read_text()
TOPIC_ID = "with-schema"
emulator = pubsub_emulator
"""The fixture, as pytest finds it."""


def create_topic(emulator: PubSubEmulator, definition: str) -> None:
    schemas: Any = SchemaServiceClient(transport=SchemaServiceGrpcTransport(channel=emulator.channel))
    made = schemas.create_schema(
        parent=f"projects/{PROJECT}", schema={"type_": "AVRO", "definition": definition}, schema_id="nostr-event",
        timeout=READY_TIMEOUT_S,
    )  # fmt: skip
    emulator.create_topic(TOPIC_ID, {"schema": made.name, "encoding": "JSON"})


@pytest.fixture
def sink(emulator: PubSubEmulator, monkeypatch: pytest.MonkeyPatch) -> PubsubSink:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
    return PubsubSink(PubsubSettings(PROJECT, TOPIC_ID, None))


def test_topic_with_the_schema_takes_every_event(emulator: PubSubEmulator, sink: PubsubSink) -> None:
    create_topic(emulator, SCHEMA)
    batch = [message(event) for event in notes(50)]
    assert sink.deliver(batch) == [DELIVERED] * 50
    sink.close()


def test_topic_with_another_schema_takes_none(emulator: PubSubEmulator, sink: PubsubSink) -> None:
    """So that taking says something."""
    other = json.loads(SCHEMA)
    other["fields"].append({"name": "relay", "type": "string"})
    create_topic(emulator, json.dumps(other))
    with pytest.raises(SinkDown, match="the schema of the topic"):
        sink.deliver([message(event) for event in notes(3)])
    sink.close()
