"""Signed Nostr events made from a seed, independent of the project's own protocol code.

The same seed always gives the same bytes: keys, contents, times and signatures. Everything is NIP-01 by stdlib `json`
and BIP-340 by coincurve, written here a second time on purpose.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coincurve import PrivateKey, PublicKeyXOnly

REGISTRATION_KIND = 6666
Tags = Sequence[Sequence[str]]
_FIXED_AUX = bytes(32)
"""BIP-340 auxiliary randomness; fixed so that a seed reproduces signatures."""


@dataclass(frozen=True, slots=True)
class SignedEvent:
    """One event with its NIP-01 fields (hex in lowercase) and `raw`, the JSON object as relays hold it."""

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: tuple[tuple[str, ...], ...]
    content: str
    sig: str
    raw: str = field(compare=False, repr=False)

    def to_value(self) -> dict[str, Any]:
        """The decoded JSON object."""
        return {
            "id": self.id,
            "pubkey": self.pubkey,
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": [list(tag) for tag in self.tags],
            "content": self.content,
            "sig": self.sig,
        }

    def mentioned(self) -> set[str]:
        """The first values of its `p` tags, as they stand."""
        return {tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == "p"}


@dataclass(frozen=True, slots=True)
class Author:
    """A key pair; `pubkey` is lowercase hex."""

    secret: bytes = field(repr=False)
    pubkey: str
    _key: PrivateKey = field(compare=False, repr=False)

    @classmethod
    def from_seed(cls, seed: int, index: int) -> "Author":
        """The author number `index` of the world `seed`."""
        return cls.from_secret(hashlib.sha256(f"author {seed} {index}".encode()).digest())

    @classmethod
    def from_secret(cls, secret: bytes) -> "Author":
        """The author with this 32-byte secret."""
        key = PrivateKey(secret)
        return cls(secret, key.public_key_xonly.format().hex(), key)

    def sign(
        self,
        content: str = "",
        *,
        kind: int = 1,
        created_at: int,
        tags: Tags = (),
        size: int | None = None,
    ) -> SignedEvent:
        """A valid event; `size` pads the content with blanks and letters until `raw` has about that many bytes."""
        if size is not None:
            missing = size - _EMPTY_BYTES - len(compact(tags)) - len(compact(content))
            content += ("lorem ipsum " * (missing // 12 + 1))[: max(missing, 0)]
        event_id = event_hash(self.pubkey, created_at, kind, tags, content)
        signature = self._key.sign_schnorr(bytes.fromhex(event_id), _FIXED_AUX)
        return assemble(event_id, self.pubkey, created_at, kind, tags, content, signature.hex())

    def sign_id(self, event_id: str) -> str:
        """The signature, in hexadecimal, of an id that a test made by itself."""
        signature: bytes = self._key.sign_schnorr(bytes.fromhex(event_id), _FIXED_AUX)
        return signature.hex()

    def registration(self, created_at: int, relays: Iterable[str] = ()) -> SignedEvent:
        """The event that registers this author with the service and names its relays."""
        content = compact({"relays": [{"address": address} for address in relays]})
        return self.sign(content.decode(), kind=REGISTRATION_KIND, created_at=created_at)

    def contact_list(self, followees: Iterable["Author | str"], created_at: int) -> SignedEvent:
        """A kind 3 event that follows `followees`."""
        keys = (followee if isinstance(followee, str) else followee.pubkey for followee in followees)
        return self.sign(kind=3, created_at=created_at, tags=[("p", key) for key in keys])


def authors(seed: int, count: int) -> list[Author]:
    """The first `count` authors of the world `seed`."""
    return [Author.from_seed(seed, index) for index in range(count)]


def compact(value: object) -> bytes:
    """`value` as JSON without blanks, nothing escaped that NIP-01 leaves as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


_EMPTY_BYTES = 2 * 64 + 128 + len('{"id":"","pubkey":"","created_at":1700000000,"kind":1,"tags":,"content":,"sig":""}')


def event_hash(pubkey: str, created_at: int, kind: int, tags: Tags, content: str) -> str:
    """The id of NIP-01 as hex."""
    return hashlib.sha256(compact([0, pubkey, created_at, kind, tags, content])).hexdigest()


def assemble(event_id: str, pubkey: str, created_at: int, kind: int, tags: Tags, content: str, sig: str) -> SignedEvent:
    """An event of these fields as they stand, which need not be valid: forgeries are made with it."""
    frozen = tuple(tuple(tag) for tag in tags)
    fields = (event_id, pubkey, created_at, kind, frozen, content, sig)
    raw = compact(dict(zip(("id", "pubkey", "created_at", "kind", "tags", "content", "sig"), fields, strict=True)))
    return SignedEvent(*fields, raw=raw.decode())


def from_raw(raw: str | bytes) -> SignedEvent:
    """Read a well-formed event object; nothing is verified. Raises `KeyError`, `TypeError` or `ValueError`."""
    value = json.loads(raw)
    return SignedEvent(
        id=value["id"],
        pubkey=value["pubkey"],
        created_at=value["created_at"],
        kind=value["kind"],
        tags=tuple(tuple(tag) for tag in value["tags"]),
        content=value["content"],
        sig=value["sig"],
        raw=raw if isinstance(raw, str) else raw.decode(),
    )


def is_authentic(event: SignedEvent) -> bool:
    """Whether the id is the hash of the fields and the signature is the author's (NIP-01, BIP-340)."""
    try:
        expected = event_hash(event.pubkey, event.created_at, event.kind, event.tags, event.content)
        if expected != event.id or len(event.pubkey) != 64 or len(event.sig) != 128:
            return False
        key = PublicKeyXOnly(bytes.fromhex(event.pubkey))
        return bool(key.verify(bytes.fromhex(event.sig), bytes.fromhex(event.id)))
    except ValueError:
        return False


def forge_signature(event: SignedEvent) -> SignedEvent:
    """The same event under a signature that is not its author's."""
    broken = f"{int(event.sig[0], 16) ^ 1:x}{event.sig[1:]}"
    return assemble(event.id, event.pubkey, event.created_at, event.kind, event.tags, event.content, broken)


def malform(event: SignedEvent, field_name: str) -> SignedEvent:
    """The same event with one field as text, as a relay sends it that does not decode what it stored."""
    value = event.to_value()
    text = value[field_name] if isinstance(value[field_name], str) else json.dumps(value[field_name])
    return replace(event, raw=compact(value | {field_name: text}).decode())


def forge_content(event: SignedEvent, content: str = "forged") -> SignedEvent:
    """Another content under the id and signature of `event`, so that the id is not the hash."""
    return assemble(event.id, event.pubkey, event.created_at, event.kind, event.tags, content, event.sig)
