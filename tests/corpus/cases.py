"""Borderline and broken events of our own making, each with the reason it is refused for; None: it is accepted."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from coincurve import PrivateKey

from tests.corpus.events import PEOPLE, T0
from tests.factories.events import assemble, compact, event_hash, forge_content, forge_signature


@dataclass(frozen=True, slots=True)
class Case:
    """An event as bytes."""

    name: str
    reason: str | None
    raw: bytes


GOOD = PEOPLE[5].sign("a good one", created_at=T0, tags=[["t", "x"]])
_DROP = object()


def make() -> Iterator[Case]:
    """All of them, in the order of their file."""
    yield from _texts()
    yield from _fields()
    yield from _forged()
    yield from _hashed()


def _value(**changes: Any) -> dict[str, Any]:
    value = GOOD.to_value() | changes
    return {name: each for name, each in value.items() if each is not _DROP}


def _texts() -> Iterator[Case]:
    raw = GOOD.raw.encode()
    yield Case("as it is", None, raw)
    yield Case("keys in reverse order", None, compact(dict(reversed(GOOD.to_value().items()))))
    yield Case("blanks between all tokens", None, json.dumps(GOOD.to_value(), indent=2).encode())
    yield Case("characters escaped that need not be", None, raw.replace(b"a good", b"\\u0061 good"))
    yield Case("unknown keys", None, compact(_value(extra={"a": [1, None]}, relay="wss://x")))
    yield Case("a key twice, the last one good", None, raw.replace(b'{"id"', b'{"content":"y","id"'))
    yield Case("empty", "json", b"")
    yield Case("cut off", "json", raw[:-1])
    yield Case("two values", "json", raw + raw)
    yield Case("byte order mark", "json", b"\xef\xbb\xbf" + raw)
    yield Case("bytes that are no UTF-8", "json", raw.replace(b"a good", b"\xff good"))
    yield Case("a control character unescaped", "json", raw.replace(b"a good", b"a\x01good"))
    yield Case("NaN", "json", raw.replace(b'"kind":1', b'"kind":NaN'))
    yield Case("nested too deep", "json", b"[" * 3_000)
    for name, text in (("array", b"[]"), ("text", b'"x"'), ("null", b"null"), ("number", b"1")):
        yield Case(f"{name} instead of an object", "shape", text)


def _fields() -> Iterator[Case]:
    wrong: dict[str, tuple[object, ...]] = {
        "id": (_DROP, None, 1, "", GOOD.id[:-1], GOOD.id + "0", GOOD.id.upper(), "g" * 64),
        "pubkey": (_DROP, None, "", GOOD.pubkey[:-1], "02" + GOOD.pubkey, GOOD.pubkey.upper()),
        "created_at": (_DROP, None, True, "1700000000", 1_700_000_000.0, -1, 2**63),
        "kind": (_DROP, None, True, "1", 1.0, -1, 65_536),
        "tags": (_DROP, None, {}, "x", ["x"], [[], 1], [["x"], None], [[1]], [["x", None]], [["x", ["y"]]]),
        "content": (_DROP, None, 1, {}, ["x"]),
        "sig": (_DROP, None, "", GOOD.sig[:-1], GOOD.sig + "0", GOOD.sig[:-1] + "g"),
    }
    for name, values in wrong.items():
        for number, value in enumerate(values):
            what = "missing" if value is _DROP else f"wrong in form {number}"
            yield Case(f"{name} {what}", name, compact(_value(**{name: value})))
    yield Case("created_at with an exponent", "created_at", GOOD.raw.replace("1700000000", "17e8").encode())


def _forged() -> Iterator[Case]:
    other = PEOPLE[6]
    yield Case("another content", "hash", forge_content(GOOD).raw.encode())
    yield Case("another signature", "signature", forge_signature(GOOD).raw.encode())
    yield Case("another author", "hash", compact(_value(pubkey=other.pubkey)))
    yield Case("another time", "hash", compact(_value(created_at=T0 + 1)))
    yield Case("another kind", "hash", compact(_value(kind=2)))
    yield Case("another tag", "hash", compact(_value(tags=[["t", "y"]])))
    yield Case("the id of another event", "hash", compact(_value(id=other.sign("x", created_at=T0).id)))
    yield Case("the signature of another event", "signature", compact(_value(sig=other.sign("x", created_at=T0).sig)))
    yield Case("a signature of zeros", "signature", compact(_value(sig="0" * 128)))
    yield Case("a key that is on no curve", "signature", _signed_nowhere())


def _signed_nowhere() -> bytes:
    key = "f" * 64
    return assemble(event_hash(key, T0, 1, (), "x"), key, T0, 1, (), "x", "0" * 128).raw.encode()


def _hashed() -> Iterator[Case]:
    """Ids over other bytes than those that NIP-01 means."""
    for name, content in (("a control character", "\x01"), ("a lone surrogate", "\ud800")):
        yield Case(f"{name}, hashed as JavaScript does", None, PEOPLE[7].sign(content, created_at=T0).raw.encode())
    yield Case("hashed with blanks", "hash", _hashed_as(lambda value: json.dumps(value, ensure_ascii=False)))
    yield Case("hashed with escapes", "hash", _hashed_as(lambda value: json.dumps(value, separators=(",", ":"))))


def _hashed_as(write: Callable[[object], str]) -> bytes:
    author, content = PEOPLE[8], "é"
    event_id = hashlib.sha256(write([0, author.pubkey, T0, 1, [], content]).encode()).digest()
    signature = PrivateKey(author.secret).sign_schnorr(event_id, bytes(32))
    return assemble(event_id.hex(), author.pubkey, T0, 1, (), content, signature.hex()).raw.encode()
