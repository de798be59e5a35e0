"""The attributes of a Pub/Sub message: what subscription filters and consumers can tell of an event without its JSON.

They follow from what was noted when the event was saved, so that a redelivery has the same. A name never changes its
meaning; `SCHEMA` counts the versions of the whole.
"""

from itertools import islice
from typing import Any, Final

from pipeline.nostr import json_text
from pipeline.sinks.base import Message
from pipeline.sinks.ulid import ulid

SCHEMA: Final = "1"
# Pub/Sub's own bounds; the emulator checks none of them.
MAX_ATTRIBUTES: Final = 100
MAX_KEY_BYTES: Final = 256
MAX_VALUE_BYTES: Final = 1_024
# The name by W3C, which OpenTelemetry's propagators look for, and the one that Google's clients read and write.
TRACE_CONTEXT: Final = ("traceparent", "googclient_traceparent")
# Filters know no numbers greater or smaller: few values, each to be compared with.
LATE_S: Final = (60, 600, 3_600, 86_400, 604_800)
LATER: Final = "more"
# As many keys of 64 characters as one value holds, with commas between.
MAX_LISTED_MENTIONS: Final = (MAX_VALUE_BYTES + 1) // 65
# Tags and lengths in the protobuf, at most.
_FRAMING_BYTES: Final = 10
_MESSAGE_FRAMING_BYTES: Final = 16


def attributes(message: Message) -> dict[str, str]:
    """Return the attributes of a message. Its uuid comes from the event alone, and so survives any crash."""
    event: dict[str, Any] = json_text.decode(message.payload)
    created_at, first_seen = event["created_at"], message.received_at // 1000
    found = {
        "_watermill_message_uuid": ulid(created_at * 1000, message.event_id[:10]),
        "event_id": message.event_id.hex(),
        "kind": str(event["kind"]),
        "pubkey": event["pubkey"],
        "created_at": str(created_at),
        "first_seen": str(first_seen),
        "late": late(first_seen - created_at),
        "schema": SCHEMA,
    }
    for rule in message.rules:
        found[f"rule_{rule}"] = "1"
    if message.relay:
        found["relay"] = message.relay
    if message.retracted is not None:
        found["retracted"] = message.retracted
    if message.is_replay:
        found["replay"] = "true"
    if message.mentions:
        found["mentions"] = ",".join(message.mentions[:MAX_LISTED_MENTIONS])
        if len(message.mentions) > MAX_LISTED_MENTIONS:
            found["mentions_cut"] = "1"
    if message.traceparent:
        found |= dict.fromkeys(TRACE_CONTEXT, message.traceparent)
    return within_bounds(found)


def late(seconds: int) -> str:
    """Return the first of `LATE_S` that is not exceeded, as text, else `LATER`."""
    for most in LATE_S:
        if seconds <= most:
            return str(most)
    return LATER


def within_bounds(found: dict[str, str]) -> dict[str, str]:
    """Return what Pub/Sub takes of `found`, in ASCII: one value too long would have the whole batch refused."""
    if len(found) <= MAX_ATTRIBUTES and max(map(len, found.values())) <= MAX_KEY_BYTES >= max(map(len, found)):
        return found
    fitting = (
        (name, value) for name, value in found.items() if len(name) <= MAX_KEY_BYTES and len(value) <= MAX_VALUE_BYTES
    )
    return dict(islice(fitting, MAX_ATTRIBUTES))


def size_in_call(payload: bytes, with_attributes: dict[str, str]) -> int:
    """Return at most how many bytes a message takes in a call."""
    texts = len("".join(with_attributes)) + len("".join(with_attributes.values()))
    return len(payload) + texts + _FRAMING_BYTES * len(with_attributes) + _MESSAGE_FRAMING_BYTES
