"""Just enough of the protobuf wire format to be a Pub/Sub server without the client library's own code."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One Pub/Sub message as it was published."""

    data: bytes
    attributes: dict[str, str]
    ordering_key: str = ""


def varint(value: int) -> bytes:
    """`value` in base 128, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message; others are skipped. Raises `ValueError` on what is no protobuf."""
    at = 0
    end = len(raw)
    while at < end:
        tag, at = _read_varint(raw, at)
        match tag & 7:
            case 0:
                _, at = _read_varint(raw, at)
            case 1:
                at += 8
            case 2:
                length, at = _read_varint(raw, at)
                if at + length > end:
                    raise ValueError("truncated field")
                yield tag >> 3, raw[at : at + length]
                at += length
            case 5:
                at += 4
            case _:
                raise ValueError(f"wire type {tag & 7}")


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(raw) or shift > 63:
            raise ValueError("truncated varint")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def first_field(raw: bytes, number: int) -> bytes:
    """The first length-delimited field `number`, empty when there is none."""
    return next((payload for found, payload in fields(raw) if found == number), b"")


def publish_request(raw: bytes) -> tuple[str, list[bytes]]:
    """Topic and raw messages of a `PublishRequest`."""
    topic = ""
    messages = []
    for number, payload in fields(raw):
        if number == 2:
            messages.append(payload)
        elif number == 1:
            topic = payload.decode()
    return topic, messages


def message(raw: bytes) -> Message:
    """Read a raw `PubsubMessage`."""
    data = b""
    ordering_key = ""
    attributes = {}
    for number, payload in fields(raw):
        match number:
            case 1:
                data = payload
            case 2:
                attributes[first_field(payload, 1).decode()] = first_field(payload, 2).decode()
            case 5:
                ordering_key = payload.decode()
    return Message(data, attributes, ordering_key)


def publish_response(ids: list[bytes]) -> bytes:
    """A `PublishResponse` with these message ids."""
    return b"".join(field(1, message_id) for message_id in ids)
