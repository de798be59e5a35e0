"""Frames made to hurt whoever reads them: each is a message or refused as such, whatever parser it reaches."""

import contextlib

import pytest

from pipeline.errors import EventServiceError
from pipeline.nostr.event import InvalidEvent, sign, verify
from pipeline.nostr.extract import MAX_CANDIDATES, contacts, relay_candidates
from pipeline.nostr.message import EventMessage, Notice, classify_notice, parse_client_message, parse_relay_message
from pipeline.nostr.notices import is_concurrency_limit, is_rate_limit, is_too_large
from pipeline.nostr.tags import expiration
from pipeline.relay.nip11 import parse_information

COUNT = 100_000
SURROGATE = b"\\ud800"
EVENT = sign(bytes(31) + b"\3", created_at=1, kind=1, tags=[["p", "a"]], content="x").to_json()


def frame(event: bytes) -> bytes:
    return b'["EVENT","s",' + event + b"]"


def with_tags(tags: bytes) -> bytes:
    return frame(EVENT.replace(b'[["p","a"]]', b"[" + tags + b"]"))


def with_time(digits: bytes, other: bytes = b"") -> bytes:
    return frame(EVENT.replace(b'"created_at":1', other + b'"created_at":' + digits))


DEEP = b"[" * COUNT + b"]" * COUNT
LONG = b"9" * COUNT
# A text that holds a lone surrogate is read by the slower of the two parsers.
SLOWLY = b'"y":"' + SURROGATE + b'",'
HOSTILE = {
    "open brackets": b"[" * COUNT,
    "open braces": b'{"a":' * COUNT,
    "nested": DEEP,
    "nested beside a surrogate": b'["' + SURROGATE + b'",' + DEEP + b"]",
    "nested in a member": frame(b'{"x":' + DEEP + b"," + EVENT[1:]),
    "many tags": with_tags(b",".join([b'["p","a"]'] * COUNT)),
    "many tags and a surrogate": with_tags(b",".join([b'["p","' + SURROGATE + b'"]'] * COUNT)),
    "a long tag": with_tags(b"[" + b",".join([b'"p"'] * COUNT) + b"]"),
    "a long time": with_time(LONG),
    "a long time, read slowly": with_time(LONG, SLOWLY),
    "a long fraction, read slowly": with_time(b"0." + LONG, SLOWLY),
    "a long exponent, read slowly": with_time(b"1e" + LONG, SLOWLY),
    "a long count": b'["COUNT","x",{"count":' + LONG + b"}]",
    "one key over and over": frame(b"{" + b'"id":"x",' * COUNT + EVENT[1:]),
    "a byte order mark": b"\xef\xbb\xbf" + frame(EVENT),
    "backslashes": b'["' + b"\\\\" * COUNT + SURROGATE,
    "quotes": b'["' + SURROGATE + b'"' * COUNT,
    "surrogates": frame(EVENT.replace(b'"x"', b'"' + SURROGATE * COUNT + b'"')),
    "a long notice": b'["NOTICE","' + b"slow rate\\n" * COUNT + b'"]',
    "a long reason": b'["CLOSED","s","' + b"error:" * COUNT + b'"]',
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_frame_raises_nothing_but_our_own_errors(raw: bytes) -> None:
    for read in (read_as_from_a_relay, parse_client_message, parse_information):
        with contextlib.suppress(EventServiceError):
            read(raw)


def read_as_from_a_relay(raw: bytes) -> None:
    message = parse_relay_message(raw)
    if isinstance(message, Notice):
        classify_notice(message.text)
        for asks in (is_rate_limit, is_concurrency_limit, is_too_large):
            asks(message.text)
    if isinstance(message, EventMessage):
        event = message.event
        assert len(relay_candidates(event)) <= MAX_CANDIDATES
        contacts(event)
        expiration(event)
        if raw != HOSTILE["one key over and over"]:
            with pytest.raises(InvalidEvent):
                verify(event)
