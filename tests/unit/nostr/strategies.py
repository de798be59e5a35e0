"""Hypothesis strategies for what travels between relays and clients, and naive models to compare with."""

import hashlib
import json
import re
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from pipeline.nostr.event import MAX_CREATED_AT, MAX_KIND, Event, InvalidEvent, Reason, sign, verify
from pipeline.nostr.filter import Filter

property_test = settings(deadline=None, print_blob=True, max_examples=150)

SECRET = bytes(31) + b"\x03"

# Characters that some JSON writer treats unlike another, besides arbitrary ones.
text = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from('"\\/\b\f\n\r\t\0\x01\x1f\x7f\x80\u2028\u2029\ufeff\uffff<>&é😀')
)
# A high surrogate just before a low one would be one character once it is written and read, so only high ones occur.
text_with_surrogates = st.text(st.characters(max_codepoint=0xFF) | st.sampled_from("\ud800\udbff😀"))
hex64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
keys = st.binary(min_size=32, max_size=32)
kinds = st.integers(0, MAX_KIND)
times = st.integers(0, MAX_CREATED_AT)
subscriptions = st.text("abcXYZ019:_-", min_size=1, max_size=64)


def tag_lists(values: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[str]]]:
    return st.lists(st.lists(values, max_size=4), max_size=6)


tags = tag_lists(st.sampled_from("epdtrq-") | text)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)

unsigned_events = st.builds(
    Event,
    id=keys,
    pubkey=keys,
    created_at=times,
    kind=kinds,
    tags=tags,
    content=text,
    sig=st.binary(min_size=64, max_size=64),
)

signed_events = st.builds(sign, st.just(SECRET), created_at=times, kind=kinds, tags=tags, content=text)

# Small domains, so that filters and events meet.
few_keys = st.sampled_from([bytes([number]) * 32 for number in range(1, 4)])
few_values = st.sampled_from(["", "a", "b"])
meeting_events = st.builds(
    Event,
    id=few_keys,
    pubkey=few_keys,
    created_at=st.integers(0, 4),
    kind=st.integers(0, 3),
    tags=st.lists(st.lists(st.sampled_from("tqx") | few_values, min_size=1, max_size=3), max_size=4),
    content=st.just(""),
    sig=st.just(bytes(64)),
)
filters = st.builds(
    Filter,
    ids=st.none() | st.frozensets(few_keys, max_size=2),
    authors=st.none() | st.frozensets(few_keys, max_size=2),
    kinds=st.none() | st.frozensets(st.integers(0, 3), max_size=3),
    tags=st.dictionaries(st.sampled_from("tqx"), st.frozensets(few_values, max_size=2), max_size=2).map(
        lambda conditions: tuple(conditions.items())
    ),
    since=st.none() | st.integers(0, 4),
    until=st.none() | st.integers(0, 4),
    limit=st.none() | st.integers(0, 500),
)


def naive_canonical(value: dict[str, Any]) -> bytes:
    """What NIP-01 hashes, by the standard library alone."""
    fields = [0, value["pubkey"], value["created_at"], value["kind"], value["tags"], value["content"]]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def naive_id(value: dict[str, Any]) -> str:
    return hashlib.sha256(naive_canonical(value)).hexdigest()


def naive_form_is_right(value: Any) -> bool:
    """The form of an event, spelled out rule by rule."""

    def is_integer(item: Any, most: int) -> bool:
        return isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= most

    def is_hex(item: Any, length: int) -> bool:
        return isinstance(item, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", item) is not None

    return (
        isinstance(value, dict)
        and is_hex(value.get("id"), 64)
        and is_hex(value.get("pubkey"), 64)
        and is_hex(str(value.get("sig")).lower(), 128)
        and is_integer(value.get("created_at"), 2**63 - 1)
        and is_integer(value.get("kind"), 65535)
        and isinstance(value.get("content"), str)
        and isinstance(value.get("tags"), list)
        and all(isinstance(tag, list) and all(isinstance(element, str) for element in tag) for tag in value["tags"])
    )


def value_of(event: Event) -> dict[str, Any]:
    """The event as a decoded JSON object, by the standard library."""
    decoded: dict[str, Any] = json.loads(event.to_json())
    return decoded


def a_value(**changes: Any) -> dict[str, Any]:
    """A valid event as a decoded JSON object, with some members replaced."""
    signed = sign(SECRET, created_at=1_700_000_000, kind=1, tags=[["t", "x"]], content="hello")
    return {**value_of(signed), **changes}


def verdict(event: Event) -> Reason | None:
    """Why the event does not verify, or None."""
    try:
        verify(event)
    except InvalidEvent as error:
        return error.reason
    return None
