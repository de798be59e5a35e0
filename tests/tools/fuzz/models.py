"""What the parsers must agree with: written anew from NIP-01 in the plainest way, or another library's work."""

import hashlib
import json
import re
from typing import Any

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode


class Everything:
    """A set of ids that holds every one."""

    def __contains__(self, _: object) -> bool:
        return True


def has_form(value: Any) -> bool:
    """Whether a decoded JSON value is formed as an event must be."""
    return (
        isinstance(value, dict)
        and all(_is_hex(value.get(name), size) for name, size in (("id", 64), ("pubkey", 64), ("sig", 128)))
        and _is_integer(value.get("created_at"), 2**63 - 1)
        and _is_integer(value.get("kind"), 65535)
        and isinstance(value.get("content"), str)
        and isinstance(value.get("tags"), list)
        and all(isinstance(tag, list) and tag and all(isinstance(item, str) for item in tag) for tag in value["tags"])
    )


def has_right_id(raw: bytes) -> bool:
    """Whether an event's id is its hash, in either way of writing U+007F."""
    value = json.loads(raw)
    fields = [0, value["pubkey"], value["created_at"], value["kind"], value["tags"], value["content"]]
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return value["id"] in {hashlib.sha256(each).hexdigest() for each in (text, text.replace(b"\x7f", b"\\u007f"))}


def matches(wanted: dict[str, Any], event: dict[str, Any]) -> bool:
    """Whether an event fulfils a filter, both as decoded JSON."""
    return all(_fulfils(event, name, condition) for name, condition in wanted.items())


def _fulfils(event: dict[str, Any], name: str, condition: Any) -> bool:
    match name:
        case "since":
            return bool(event["created_at"] >= condition)
        case "until":
            return bool(event["created_at"] <= condition)
        case "limit":
            return True
        case "ids" | "authors" | "kinds":
            return event[_FIELDS[name]] in condition
        case _:
            return any(len(tag) > 1 and tag[0] == name[1:] and tag[1] in condition for tag in event["tags"])


_FIELDS = {"ids": "id", "authors": "pubkey", "kinds": "kind"}


def _is_hex(item: Any, length: int) -> bool:
    return isinstance(item, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", item) is not None


def _is_integer(item: Any, most: int) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= most


def inflated(message: bytes, most: int) -> bytes | None:
    """A compressed message as websockets reads it; `None` where it objects, or leaves off at the sender's own end."""
    extension = PerMessageDeflate(False, False, 15, 15)
    try:
        data = bytes(extension.decode(Frame(Opcode.TEXT, message, rsv1=True), max_size=most + 1).data)
    except (PayloadTooBig, ProtocolError):
        return None
    return None if extension.decoder.eof or len(data) > most else data
