"""Nostr events: their fields, the bytes their id hashes, and their signature (NIP-01, BIP-340)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import coincurve

from pipeline.errors import EventServiceError
from pipeline.nostr import json_text

MAX_KIND: Final = 65_535
MAX_CREATED_AT: Final = 2**63 - 1  # what SQLite and most other software can hold

# Parsing a key costs a seventh of a verification, and authors recur: about 3 MB for the newest 8,192 of them.
_PARSED_KEYS_KEPT: Final = 8_192


class Reason(StrEnum):
    """Why an event is refused; a closed set, fit for a metric label."""

    JSON = "json"
    SHAPE = "shape"
    ID = "id"
    PUBKEY = "pubkey"
    CREATED_AT = "created_at"
    KIND = "kind"
    TAGS = "tags"
    CONTENT = "content"
    SIG = "sig"
    HASH = "hash"
    SIGNATURE = "signature"


_EXPLANATIONS: Final = {
    Reason.JSON: "the event is no JSON text",
    Reason.SHAPE: "the event is no JSON object",
    Reason.ID: "id is not 64 lowercase hexadecimal digits",
    Reason.PUBKEY: "pubkey is not 64 lowercase hexadecimal digits",
    Reason.CREATED_AT: "created_at is not a whole number of seconds from 0 up",
    Reason.KIND: "kind is not a whole number from 0 to 65535",
    Reason.TAGS: "tags is not an array of arrays of strings",
    Reason.CONTENT: "content is not a string",
    Reason.SIG: "sig is not 128 hexadecimal digits",
    Reason.HASH: "id is not the hash of the event",
    Reason.SIGNATURE: "sig is not a signature of id by pubkey",
}


class InvalidEvent(EventServiceError):
    """An event that is malformed, or whose id or signature is wrong; the message says so in words."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(_EXPLANATIONS[reason])
        self.reason: Final = reason


@dataclass(frozen=True, slots=True, repr=False)
class Event:
    """One event, well-formed but not necessarily verified.

    `id` and `pubkey` have 32 bytes, `sig` 64; `created_at` counts seconds since 1970. `tags` are the parsed lists,
    shared and never to be changed. Members that NIP-01 does not know are dropped.
    """

    id: bytes
    pubkey: bytes
    created_at: int
    kind: int
    tags: Sequence[Sequence[str]]
    content: str
    sig: bytes

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:  # short and without the content, since logs and tracebacks show it
        return f"<Event {self.id.hex()} kind {self.kind}>"

    def to_json(self) -> bytes:
        """Return the seven fields of NIP-01 as compact JSON; equal events give equal bytes."""
        return json_text.encode(
            {
                "id": self.id.hex(),
                "pubkey": self.pubkey.hex(),
                "created_at": self.created_at,
                "kind": self.kind,
                "tags": self.tags,
                "content": self.content,
                "sig": self.sig.hex(),
            }
        )


def event_from_json(raw: bytes) -> Event:
    """Parse the JSON text of an event in UTF-8. Raises `InvalidEvent`. See `parse_event` for what it accepts."""
    try:
        value = json_text.decode(raw)
    except json_text.NotJson:
        raise InvalidEvent(Reason.JSON) from None
    return parse_event(value)


def event_from_stored(raw: bytes) -> Event:
    """Return the event whose `to_json` is `raw`, at a third of the cost of reading a stranger's.

    Nothing is checked that `raw` has by its origin; what no `to_json` wrote raises `InvalidEvent`, as far as it shows.
    """
    try:
        value = json_text.decode(raw)
        return Event(
            bytes.fromhex(value["id"]), bytes.fromhex(value["pubkey"]), value["created_at"], value["kind"],
            value["tags"], value["content"], bytes.fromhex(value["sig"]),
        )  # fmt: skip
    except json_text.NotJson:
        raise InvalidEvent(Reason.JSON) from None
    except (KeyError, TypeError, ValueError):
        raise InvalidEvent(Reason.SHAPE) from None


def parse_event(value: object) -> Event:
    """Make an `Event` of a decoded JSON value, checking the form of each field but neither hash nor signature.

    Raises `InvalidEvent` with the first field at fault. What independent relays hold and pass on is accepted, as far as
    every consumer can decode it:

    - hexadecimal in lowercase only, as NIP-01 has it, but capitals in `sig`, which no hash covers: relays on khatru
      hold such events, and what leaves here is in lowercase;
    - `kind` and `created_at` are integers: no booleans, no `1.0`, no `1e0`, which other JSON libraries would hash as 1;
    - `created_at` is at least 0, and below 2**63 since that is what databases hold; milliseconds and far futures are a
      matter of policy, not of form;
    - each element of a tag is a string: relays and clients in Go, Rust and Swift cannot decode a number there, so that
      handing such an event on would only move the failure;
    - a tag may be empty, `[]`: NIP-01 wants one element at least and strfry refuses it, but relays in Go and Rust
      (khatru, nostr-rs-relay) hold and send such events, and it names and indexes nothing;
    - tag names and values are free: one-element tags are legal, and a malformed `p` or `e` value spoils only itself.

    Of equal keys the last counts, where strfry refuses the event: id and signature cover exactly the values that are
    kept and delivered, and finding out would cost a second reading of every event.
    """
    if type(value) is not dict:
        raise InvalidEvent(Reason.SHAPE)
    get = value.get
    created_at, kind, content = get("created_at"), get("kind"), get("content")
    event_id = _binary(get("id"), 32, Reason.ID)
    pubkey = _binary(get("pubkey"), 32, Reason.PUBKEY)
    if type(created_at) is not int or not 0 <= created_at <= MAX_CREATED_AT:
        raise InvalidEvent(Reason.CREATED_AT)
    if type(kind) is not int or not 0 <= kind <= MAX_KIND:
        raise InvalidEvent(Reason.KIND)
    tags = _checked_tags(get("tags"))
    if type(content) is not str:
        raise InvalidEvent(Reason.CONTENT)
    return Event(event_id, pubkey, created_at, kind, tags, content, _any_case(get("sig")))


def canonical(event: Event) -> bytes:
    """Return the bytes whose SHA-256 is the event's id, as every common implementation writes them.

    NIP-01 is silent on control characters without a short escape; all write them as lowercase `\\u00xx`.
    """
    return json_text.encode((0, event.pubkey.hex(), event.created_at, event.kind, event.tags, event.content))


def event_id(event: Event) -> bytes:
    """Return the id that the event ought to have: SHA-256 of `canonical(event)`."""
    return sha256(canonical(event)).digest()


def verify(event: Event) -> None:
    """Check the id against the hash, then the BIP-340 signature. Raises `InvalidEvent`, reason `hash` or `signature`.

    strfry hashes U+007F as `\\u007f` where everybody else leaves it raw, so an id made either way is right.
    """
    text = canonical(event)
    if sha256(text).digest() != event.id and sha256(text.replace(b"\x7f", b"\\u007f")).digest() != event.id:
        raise InvalidEvent(Reason.HASH)
    if not is_signature(event.sig, event.id, event.pubkey):
        raise InvalidEvent(Reason.SIGNATURE)


def is_signature(sig: bytes, message: bytes, pubkey: bytes) -> bool:
    """Return True if `sig` is a BIP-340 signature of `message`, 32 bytes, by `pubkey`. Thread-safe, outside the GIL."""
    if len(sig) != 64 or len(message) != 32 or len(pubkey) != 32:
        return False  # the C library does not check lengths and would read past the end
    try:
        return bool(_parsed_key(pubkey).verify(sig, message))
    except ValueError:  # no point on the curve
        return False


def public_key(secret: bytes) -> bytes:
    """Return the 32-byte public key of a 32-byte secret key. Raises `ValueError` for one that is out of range."""
    if len(secret) != 32:
        raise ValueError("a secret key has 32 bytes")
    key: bytes = coincurve.PublicKeyXOnly.from_secret(secret).format()
    return key


def sign(secret: bytes, *, created_at: int, kind: int, tags: Sequence[Sequence[str]], content: str) -> Event:
    """Return a valid event by the owner of `secret`; the same arguments give the same event."""
    unsigned = Event(b"", public_key(secret), created_at, kind, tags, content, b"")
    digest = event_id(unsigned)
    sig: bytes = coincurve.PrivateKey(secret).sign_schnorr(digest, aux_randomness=bytes(32))
    return Event(digest, unsigned.pubkey, created_at, kind, tags, content, sig)


def _binary(text: object, length: int, reason: Reason) -> bytes:
    """Return the bytes of lowercase hexadecimal; `bytes.fromhex` alone would accept capitals and blanks."""
    if type(text) is str and len(text) == 2 * length:
        try:
            data = bytes.fromhex(text)
        except ValueError:
            raise InvalidEvent(reason) from None
        if data.hex() == text:
            return data
    raise InvalidEvent(reason)


def _any_case(sig: object) -> bytes:
    """Return the bytes of a signature; one with capitals is the same signature."""
    return _binary(sig.lower() if type(sig) is str and len(sig) == 128 else sig, 64, Reason.SIG)


def _checked_tags(tags: object) -> list[list[str]]:
    if type(tags) is not list:
        raise InvalidEvent(Reason.TAGS)
    join = "".join
    try:
        for tag in tags:
            if type(tag) is not list:
                raise InvalidEvent(Reason.TAGS)
            join(tag)  # the cheapest check that all are strings
    except TypeError:
        raise InvalidEvent(Reason.TAGS) from None
    return tags


@lru_cache(_PARSED_KEYS_KEPT)
def _parsed_key(pubkey: bytes) -> Any:
    return coincurve.PublicKeyXOnly(pubkey)
