"""What hostile relays send: whole events as JSON, each different, made as they are needed."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from time import time

from tests.factories.events import Author, Tags, assemble, compact, event_hash, forge_signature

_MIB = 1 << 20
# Below the default of EVENTS_MAX_EVENT_BYTES, so that the event is valid.
_LARGE = 1_000_000
HOSTILE_TEXT = "\x1b[2J\x1b[H\x1b]0;owned\x07\u202egnp.exe\u2066\x9b31m\r\n\x00<script>alert(1)</script>"
"""Clears the screen, renames the window, turns the writing direction, sets colours by C1, and is HTML."""


def profiles(seed: int) -> Iterator[str]:
    """Valid kind-0 events of nearly the largest size, each of a new author."""
    for number in itertools.count():
        author = Author.from_seed(seed, number)
        yield author.sign(f"{number} ", kind=0, created_at=int(time()), size=_LARGE).raw


def large_tags(seed: int) -> Iterator[str]:
    """Valid kind-0 events whose size is one tag, or one value of it."""
    for number in itertools.count():
        author = Author.from_seed(seed, number)
        tag = ["x", "y" * _LARGE] if number % 2 else ["x", *("y" * 4 for _ in range(_LARGE // 8))]
        yield author.sign(str(number), kind=0, created_at=int(time()), tags=[tag]).raw


def tiny_tags(seed: int) -> Iterator[str]:
    """Events of 4 MB that are nothing but the smallest tags; nobody signed them."""
    body = b"[]," * (4_000_000 // 3)
    for number in itertools.count():
        event = assemble(f"{seed:032x}{number:032x}", "ab" * 32, int(time()), 0, (), "", "cd" * 64)
        yield event.raw.replace('"tags":[]', f'"tags":[{body[:-1].decode()}]')


def oversize(seed: int) -> Iterator[str]:
    """Events of 5 to 80 MiB."""
    for size in itertools.cycle((5, 20, 80)):
        yield _unsigned(seed, "z" * (size * _MIB))


def escapes(seed: int) -> Iterator[str]:
    """Events just below the bound of messages, of characters that JSON writes in six bytes each."""
    for _ in itertools.count():
        yield _unsigned(seed, "").replace('"content":""', '"content":"' + "\\u0001" * 690_000 + '"')


def forgeries(seed: int) -> Iterator[str]:
    """Small kind-0 events with right ids under signatures that are not their authors'."""
    author = Author.from_seed(seed, 0)
    signature = forge_signature(author.sign("", kind=0, created_at=1)).sig
    for number in itertools.count():
        content, at = str(number), int(time())
        event_id = event_hash(author.pubkey, at, 0, (), content)
        yield assemble(event_id, author.pubkey, at, 0, (), content, signature).raw


def hostile_texts(seed: int) -> Iterator[str]:
    """Valid kind-0 and kind-3 events with text that a terminal would obey."""
    for number in itertools.count():
        author = Author.from_seed(seed, number)
        tags: Tags = [("p", author.pubkey, "wss://x.example", HOSTILE_TEXT), ("alt", HOSTILE_TEXT)]
        yield author.sign(f"{HOSTILE_TEXT}{number}", kind=(0, 3)[number % 2], created_at=int(time()), tags=tags).raw


def _unsigned(seed: int, content: str) -> str:
    value = {
        "id": f"{seed:064x}", "pubkey": "ab" * 32, "created_at": int(time()), "kind": 0, "tags": [],
        "content": content, "sig": "cd" * 64,
    }  # fmt: skip
    return compact(value).decode()


PAYLOADS: Mapping[str, Callable[[int], Iterator[str]]] = {
    "profiles": profiles,
    "large-tags": large_tags,
    "tiny-tags": tiny_tags,
    "oversize": oversize,
    "escapes": escapes,
    "forgeries": forgeries,
    "hostile-texts": hostile_texts,
}


def notice(text: str) -> str:
    """A NOTICE."""
    return json.dumps(["NOTICE", text])


def closed(subscription: str, text: str) -> str:
    """A CLOSED."""
    return json.dumps(["CLOSED", subscription, text])
