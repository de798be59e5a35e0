"""The messages between relay and client (NIP-01, 42, 45, 67, 77), in both directions."""

import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from pipeline.nostr.client_message import (
    OtherMessage,
    PublishMessage,
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
from pipeline.nostr.event import Event
from pipeline.nostr.frame import (
    MAX_LABEL,
    InvalidEventMessage,
    InvalidMessage,
    MessageFault,
    bytes_32,
    event_at,
    id_and_time,
    parse_frame,
    text_at,
)
from pipeline.nostr.notices import NoticeType, classify_notice, is_rate_limit, reason_prefix

__all__ = [
    "AuthChallenge",
    "Closed",
    "Count",
    "Eose",
    "EventMessage",
    "InvalidEventMessage",
    "InvalidMessage",
    "KnownEvent",
    "MessageFault",
    "NegError",
    "NegMessage",
    "Notice",
    "NoticeType",
    "Ok",
    "OtherMessage",
    "PublishMessage",
    "RelayMessage",
    "Unknown",
    "classify_notice",
    "encode_auth",
    "encode_close",
    "encode_count",
    "encode_event",
    "encode_neg_close",
    "encode_neg_msg",
    "encode_neg_open",
    "encode_notice",
    "encode_ok",
    "encode_req",
    "is_rate_limit",
    "parse_client_message",
    "parse_relay_message",
]

MAX_CHALLENGE: Final = 1_024  # characters; relays send some sixty

_HEX: Final = re.compile("(?:[0-9a-fA-F]{2})+")


class EventMessage(NamedTuple):
    """An event for a subscription, well-formed but not verified."""

    subscription: str
    event: Event


class KnownEvent(NamedTuple):
    """An event for a subscription that was recognised by its id and not read any further."""

    subscription: str
    id: bytes
    created_at: int


@dataclass(frozen=True, slots=True)
class Eose:
    """The end of a subscription's stored events; `finished`: there are no more (NIP-67), None if not said."""

    subscription: str
    finished: bool | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The relay ended or refused a subscription; `prefix` is one of `notices.PREFIXES` or ""."""

    subscription: str
    reason: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Ok:
    """The relay's verdict on a published event; `prefix` is one of `notices.PREFIXES` or ""."""

    event_id: bytes
    accepted: bool
    reason: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Prose from the relay, about anything."""

    text: str


@dataclass(frozen=True, slots=True)
class AuthChallenge:
    """What the next AUTH event must contain (NIP-42)."""

    challenge: str


@dataclass(frozen=True, slots=True)
class Count:
    """The answer to COUNT (NIP-45)."""

    subscription: str
    count: int


@dataclass(frozen=True, slots=True)
class NegMessage:
    """One negentropy message, decoded from hexadecimal (NIP-77)."""

    subscription: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class NegError:
    """The relay ended or refused a reconciliation (NIP-77); `prefix` is one of `notices.PREFIXES` or ""."""

    subscription: str
    reason: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a type that is none of ours; the label is cut short."""

    label: str


RelayMessage: TypeAlias = (
    EventMessage | KnownEvent | Eose | Closed | Ok | Notice | AuthChallenge | Count | NegMessage | NegError | Unknown
)


def parse_relay_message(raw: bytes, seen: Container[bytes] | None = None) -> RelayMessage:
    """Read a frame that a relay sent. Raises `InvalidMessage`, or `InvalidEventMessage` if only the event is at fault.

    Surplus elements and surrounding whitespace are tolerated; a reason that is missing or no text reads as "".
    An event whose id is in `seen` becomes a `KnownEvent`, whatever else is wrong with it, at about half the cost.

    Cutting the id out of the bytes would save a quarter of that, but could take that of an object within the event for
    its own; a check that there is no other costs more than the JSON parser.
    """
    frame = parse_frame(raw)
    if frame[0] == "EVENT":
        subscription = _subscription(frame)
        if seen is not None and (known := _known(frame, subscription, seen)):
            return known
        return EventMessage(subscription, event_at(frame, 2, subscription))
    parser = _PARSERS.get(frame[0])
    return Unknown(frame[0][:MAX_LABEL]) if parser is None else parser(frame)


def _known(frame: list[Any], subscription: str, seen: Container[bytes]) -> KnownEvent | None:
    created_at, event_id = id_and_time(frame[2]) if len(frame) > 2 else (None, None)
    if created_at is None or event_id is None or event_id not in seen:
        return None
    return KnownEvent(subscription, event_id, created_at)


def _eose(frame: list[Any]) -> Eose:
    hints = frame[2] if len(frame) > 2 and type(frame[2]) is list else []
    finish, more = "finish" in hints, "more" in hints
    return Eose(_subscription(frame), None if finish == more else finish)


def _closed(frame: list[Any]) -> Closed:
    reason = _reason(frame, 2)
    return Closed(_subscription(frame), reason, reason_prefix(reason))


def _neg_error(frame: list[Any]) -> NegError:
    reason = _reason(frame, 2)
    return NegError(_subscription(frame), reason, reason_prefix(reason))


def _ok(frame: list[Any]) -> Ok:
    event_id = bytes_32(text_at(frame, 1, MessageFault.ID))
    if event_id is None:
        raise InvalidMessage(MessageFault.ID)
    if len(frame) < 3 or type(frame[2]) is not bool:
        raise InvalidMessage(MessageFault.ACCEPTED)
    reason = _reason(frame, 3)
    return Ok(event_id, frame[2], reason, reason_prefix(reason))


def _challenge(text: str) -> AuthChallenge:
    # It is signed and sent back.
    if len(text) > MAX_CHALLENGE:
        raise InvalidMessage(MessageFault.TEXT)
    return AuthChallenge(text)


def _count(frame: list[Any]) -> Count:
    subscription = _subscription(frame)
    count = frame[2].get("count") if len(frame) > 2 and type(frame[2]) is dict else None
    if type(count) is not int or count < 0:
        raise InvalidMessage(MessageFault.COUNT)
    return Count(subscription, count)


def _neg_message(frame: list[Any]) -> NegMessage:
    subscription = _subscription(frame)
    if len(frame) < 3 or type(frame[2]) is not str or not _HEX.fullmatch(frame[2]):
        raise InvalidMessage(MessageFault.PAYLOAD)
    return NegMessage(subscription, bytes.fromhex(frame[2]))


_PARSERS: Final[dict[str, Callable[[list[Any]], RelayMessage]]] = {
    "EOSE": _eose,
    "CLOSED": _closed,
    "OK": _ok,
    "NOTICE": lambda frame: Notice(text_at(frame, 1, MessageFault.TEXT)),
    "AUTH": lambda frame: _challenge(text_at(frame, 1, MessageFault.TEXT)),
    "COUNT": _count,
    "NEG-MSG": _neg_message,
    "NEG-ERR": _neg_error,
}


def _subscription(frame: list[Any]) -> str:
    return text_at(frame, 1, MessageFault.SUBSCRIPTION)


def _reason(frame: list[Any], index: int) -> str:
    return frame[index] if len(frame) > index and type(frame[index]) is str else ""
