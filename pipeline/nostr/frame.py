"""Frames: the JSON arrays that every message is, and what is wrong with those that are none (NIP-01)."""

from enum import StrEnum
from typing import Any, Final

from pipeline.errors import EventServiceError
from pipeline.nostr import json_text
from pipeline.nostr.event import MAX_CREATED_AT, Event, InvalidEvent, Reason, parse_event

MAX_LABEL: Final = 32  # of an unknown message type, which a stranger chooses


class MessageFault(StrEnum):
    """Why a frame is no message; a closed set, fit for a metric label."""

    JSON = "json"
    SHAPE = "shape"
    SUBSCRIPTION = "subscription"
    ID = "id"
    ACCEPTED = "accepted"
    TEXT = "text"
    COUNT = "count"
    PAYLOAD = "payload"


class InvalidMessage(EventServiceError):
    """A frame that is no message; `reason` names the part at fault."""

    def __init__(self, reason: MessageFault) -> None:
        super().__init__(f"the frame is no message: {reason}")
        self.reason: Final = reason


class InvalidEventMessage(InvalidEvent):
    """An EVENT frame whose event is malformed, with what could still be read of it.

    `subscription` is "" for a frame from a client, which has none.
    """

    def __init__(self, subscription: str, reason: Reason, created_at: int | None, event_id: bytes | None) -> None:
        super().__init__(reason)
        self.subscription: Final = subscription
        self.created_at: Final = created_at
        self.id: Final = event_id


def parse_frame(raw: bytes) -> list[Any]:
    """Return the elements of a frame, the first of them text. Raises `InvalidMessage`."""
    try:
        frame = json_text.decode(raw)
    except json_text.NotJson:
        raise InvalidMessage(MessageFault.JSON) from None
    if type(frame) is not list or not frame or type(frame[0]) is not str:
        raise InvalidMessage(MessageFault.SHAPE)
    return frame


def event_at(frame: list[Any], index: int, subscription: str) -> Event:
    """Return the event among the elements. Raises `InvalidEventMessage`."""
    value = frame[index] if len(frame) > index else None
    try:
        return parse_event(value)
    except InvalidEvent as error:
        raise InvalidEventMessage(subscription, error.reason, *id_and_time(value)) from None


def text_at(frame: list[Any], index: int, fault: MessageFault) -> str:
    """Return the text among the elements. Raises `InvalidMessage` with `fault` if it is missing or no text."""
    text = frame[index] if len(frame) > index else None
    if type(text) is not str:
        raise InvalidMessage(fault)
    return text


def id_and_time(value: object) -> tuple[int | None, bytes | None]:
    """Return the `created_at` and id of what should be an event, as far as these two are well-formed."""
    if type(value) is not dict:
        return None, None
    created_at = value.get("created_at")
    if type(created_at) is not int or not 0 <= created_at <= MAX_CREATED_AT:
        created_at = None
    return created_at, bytes_32(value.get("id"))


def bytes_32(text: object) -> bytes | None:
    """Return the bytes of 64 hexadecimal digits in either case, or None."""
    if type(text) is str and len(text) == 64:
        try:
            data = bytes.fromhex(text)
        except ValueError:
            return None
        if len(data) == 32:  # blanks between digits are skipped and leave fewer
            return data
    return None
