"""The messages that a client sends (NIP-01, 42, 45, 77): written as a client, read and answered as a relay."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard

from pipeline.nostr import json_text
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.frame import MAX_LABEL, InvalidEventMessage, event_at, parse_frame

MAX_SUBSCRIPTION: Final = 64  # characters (NIP-01)
MAX_ID: Final = 128  # characters, of what a client calls an event or a subscription, that are sent back to it


@dataclass(frozen=True, slots=True)
class PublishMessage:
    """A client publishes an event, well-formed but not verified."""

    event: Event


@dataclass(frozen=True, slots=True)
class RequestMessage:
    """A client asks for events (REQ) or their number (COUNT), under a subscription id."""

    label: str
    subscription: str


@dataclass(frozen=True, slots=True)
class OtherMessage:
    """A client wants something else; the label is cut short."""

    label: str


ClientMessage: TypeAlias = PublishMessage | RequestMessage | OtherMessage


class InvalidPublish(InvalidEventMessage):
    """An EVENT from a client whose event is malformed.

    `id_text`: what it calls its id, None if that is no short text.
    """

    def __init__(self, error: InvalidEventMessage, id_text: str | None) -> None:
        super().__init__("", error.reason, error.created_at, error.id)
        self.id_text: Final = id_text


def parse_client_message(raw: bytes) -> ClientMessage:
    """Read a client's frame. Raises `InvalidMessage`, or `InvalidPublish` if only the event is at fault.

    Some clients write an EVENT as relays do, with a subscription before the event.
    """
    frame = parse_frame(raw)
    if frame[0] == "EVENT":
        return PublishMessage(_published(frame))
    if frame[0] in ("REQ", "COUNT") and len(frame) > 1 and _is_short_text(frame[1]):
        return RequestMessage(frame[0], frame[1])
    return OtherMessage(frame[0][:MAX_LABEL])


def _published(frame: list[Any]) -> Event:
    index = 2 if len(frame) == 3 and type(frame[2]) is dict else 1
    value = frame[index] if len(frame) > index else None
    if type(value) is dict:
        # Go writes a list without elements as null.
        value["tags"] = [] if value.get("tags") is None else value["tags"]
    try:
        return event_at(frame, index, "")
    except InvalidEventMessage as error:
        id_text = value.get("id") if type(value) is dict else None
        raise InvalidPublish(error, id_text if _is_short_text(id_text) else None) from None


def _is_short_text(value: object) -> TypeGuard[str]:
    """Return True if it can be sent back as it came."""
    if type(value) is not str or len(value) > MAX_ID:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def encode_req(subscription: str, filters: Iterable[Filter]) -> str:
    """Open a subscription, or replace the one of that name."""
    return _encode("REQ", _checked(subscription), *(item.to_value() for item in filters))


def encode_count(subscription: str, filters: Iterable[Filter]) -> str:
    """Ask how many events match any of the filters (NIP-45)."""
    return _encode("COUNT", _checked(subscription), *(item.to_value() for item in filters))


def encode_close(subscription: str) -> str:
    """End a subscription."""
    return _encode("CLOSE", _checked(subscription))


def encode_event(event: Event) -> str:
    """Publish an event."""
    return f'["EVENT",{event.to_json().decode()}]'


def encode_auth(event: Event) -> str:
    """Answer a challenge (NIP-42)."""
    return f'["AUTH",{event.to_json().decode()}]'


def encode_neg_open(subscription: str, query: Filter, payload: bytes) -> str:
    """Begin a reconciliation (NIP-77)."""
    return _encode("NEG-OPEN", _checked(subscription), query.to_value(), payload.hex())


def encode_neg_msg(subscription: str, payload: bytes) -> str:
    """Continue a reconciliation (NIP-77)."""
    return _encode("NEG-MSG", _checked(subscription), payload.hex())


def encode_neg_close(subscription: str) -> str:
    """End a reconciliation (NIP-77)."""
    return _encode("NEG-CLOSE", _checked(subscription))


def encode_ok(id_hex: str, accepted: bool, reason: str) -> str:
    """Answer EVENT: the verdict on the event with that id."""
    return _encode("OK", id_hex, accepted, reason)


def encode_closed(subscription: str, reason: str) -> str:
    """Answer a request: it is not served, and why."""
    return _encode("CLOSED", subscription, reason)


def encode_notice(text: str) -> str:
    """Tell the client something in prose."""
    return _encode("NOTICE", text)


def _checked(subscription: str) -> str:
    """`subscription` itself, if every relay takes it: strfry forbids controls, quotes, backslashes and non-ASCII."""
    if not (0 < len(subscription) <= MAX_SUBSCRIPTION and subscription.isascii() and subscription.isprintable()):
        raise ValueError("a subscription has 1 to 64 printable ASCII characters")
    if '"' in subscription or "\\" in subscription:
        raise ValueError("a subscription has no quotes or backslashes")
    return subscription


def _encode(*elements: Any) -> str:
    return json_text.encode(elements).decode()
