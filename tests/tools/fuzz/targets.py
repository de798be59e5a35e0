"""One target for each parser that strangers reach: arbitrary bytes in, and what must hold whatever they are.

A target returns, or raises `AssertionError` for a broken promise and anything else for an error that the parser was
not to raise. Its seeds are valid inputs, from which a fuzzer gets further than from nothing.
"""

import base64
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pipeline.nostr import json_text
from pipeline.nostr.address import InvalidAddress, parse_address, split_addresses
from pipeline.nostr.client_message import RequestMessage
from pipeline.nostr.event import (
    Event,
    InvalidEvent,
    event_from_json,
    event_from_stored,
    event_id,
    parse_event,
    sign,
    verify,
)
from pipeline.nostr.extract import MAX_CANDIDATES, contacts, relay_candidates
from pipeline.nostr.filter import Filter, InvalidFilter, parse_filter
from pipeline.nostr.kinds import REGISTRATION
from pipeline.nostr.message import (
    Closed,
    EventMessage,
    InvalidMessage,
    KnownEvent,
    Notice,
    OtherMessage,
    PublishMessage,
    classify_notice,
    encode_event,
    parse_client_message,
    parse_relay_message,
)
from pipeline.nostr.negentropy import MIN_FRAME_LIMIT, ItemSet, Reconciliation
from pipeline.nostr.negentropy_wire import InvalidNegentropy
from pipeline.nostr.nip19 import InvalidEncoding, decode_note, decode_npub, decode_nsec, encode_npub, encode_nsec
from pipeline.nostr.notices import PREFIXES
from pipeline.nostr.registration import InvalidRegistration, parse_registration
from pipeline.nostr.tags import expiration
from pipeline.relay.deflate import inflate, inflate_head
from pipeline.relay.frames import MAX_BATCH_MESSAGES, SKIPPED_END_BYTES, FrameReader, Received, SkippedMessage
from pipeline.relay.nip11 import InvalidInformation, parse_information
from pipeline.relay.sighting import sighting
from pipeline.settings.env_file import InvalidEnvFile, format_env, parse_env
from tests.tools.fuzz import models

_EVENT = sign(bytes(31) + b"\x03", created_at=1_700_000_000, kind=1, tags=[["p", "ab" * 32], ["-"]], content="né\n\x7f")
_JSON = _EVENT.to_json()
_FILTER = Filter(kinds=frozenset({1}), tags=(("p", frozenset({"ab" * 32})),))
_MAX_MESSAGE = 4096
# "Hello", as RFC 7692 section 7.2.3.1 compresses it.
_PACKED = b"\xf2H\xcd\xc9\xc9\x07\x00"


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test; `check` takes any bytes."""

    check: Callable[[bytes], None]
    seeds: Sequence[bytes]


def _event(data: bytes) -> None:
    try:
        event = event_from_json(data)
    except InvalidEvent:
        return
    assert models.has_form(json_text.decode(data)), "an event that is malformed was accepted"
    raw = event.to_json()
    assert event_from_json(raw) == event, "an event changes when it is written and read"
    assert event_from_stored(raw) == event, "the quick reading of what we wrote ourselves differs"
    with contextlib.suppress(InvalidEvent):
        verify(event)
        assert models.has_right_id(raw), "an event passed whose id is not its hash"
    expiration(event)


def _canonical(data: bytes) -> None:
    """A well-formed event of any text, surrogates included: its id is the one that the standard library finds."""
    event = _made_of(data, "surrogatepass")
    event = replace(event, id=event_id(event))
    assert models.has_right_id(event.to_json())
    assert event_from_json(event.to_json()) == event


def _refused_event(data: bytes) -> None:
    """What has the form of an event is one; the other half of `_event`."""
    try:
        value = json_text.decode(data)
    except json_text.NotJson:
        return
    try:
        parse_event(value)
    except InvalidEvent:
        assert not models.has_form(value), "a well-formed event was refused"


def _relay_message(data: bytes) -> None:
    try:
        message = parse_relay_message(data)
    except InvalidEvent:
        message = None
    except InvalidMessage:
        return
    known = _known(data)
    if isinstance(message, EventMessage):
        assert known == KnownEvent(message.subscription, message.event.id, message.event.created_at)
    elif message is not None:
        assert known == message
    if isinstance(message, Notice):
        classify_notice(message.text)
    if isinstance(message, Closed):
        assert message.prefix in PREFIXES or not message.prefix


def _known(data: bytes) -> object:
    """The same frame for somebody who knows every event: nothing else may come of it."""
    try:
        return parse_relay_message(data, models.Everything())
    except InvalidEvent:
        return None


def _client_message(data: bytes) -> None:
    try:
        message = parse_client_message(data)
    except (InvalidMessage, InvalidEvent):
        return
    if isinstance(message, PublishMessage):
        assert parse_client_message(encode_event(message.event).encode()) == message
    else:
        assert isinstance(message, OtherMessage | RequestMessage)
        assert len(message.label) <= 32


def _filter(data: bytes) -> None:
    """The first line is a filter, the second an event."""
    first, _, second = data.partition(b"\n")
    try:
        wanted = parse_filter(json_text.decode(first))
    except (json_text.NotJson, InvalidFilter):
        return
    assert parse_filter(json_text.decode(wanted.encode())) == wanted
    with contextlib.suppress(InvalidEvent):
        event = event_from_json(second)
        assert wanted.matches(event) == models.matches(wanted.to_value(), json.loads(event.to_json()))


def _address(data: bytes) -> None:
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    for part in split_addresses(text):
        try:
            address = parse_address(part)
        except InvalidAddress:
            continue
        assert len(address.url) <= 255
        assert address.url.isascii()
        assert address.url.isprintable()
        assert parse_address(address.url) == address, "an address changes when it is read again"
        assert split_addresses(address.url) == [address.url]
        assert address.host_key
        assert 0 < address.port < 65_536


def _made_of(data: bytes, errors: str) -> Event:
    """An event of the kind that the first two bytes say; then its content and its tags as lines, parted by tabs."""
    try:
        text = data[2:].decode("utf-8", errors)
    except UnicodeDecodeError:
        text = data[2:].decode("latin-1")
    # Two surrogates that make a pair are one character, as in every text that was read from JSON.
    lines = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass").split("\n")
    tags = [line.split("\t") for line in lines[1:]]
    return Event(bytes(32), bytes(32), len(data), int.from_bytes(data[:2]), tags, lines[0], bytes(64))


def _extract(data: bytes) -> None:
    event = _made_of(data, "replace")
    found = contacts(event)
    assert len(found) == len(set(found))
    assert all(len(key) == 32 for key in found)
    candidates = relay_candidates(event)
    urls = [each.address.url for each in candidates]
    assert len(urls) == len(set(urls)) <= MAX_CANDIDATES
    with contextlib.suppress(InvalidRegistration):
        relays = parse_registration(replace(event, kind=REGISTRATION)).relays
        assert len(relays) == len(set(relays))


def _nip19(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for decode in (decode_npub, decode_nsec, decode_note):
        with contextlib.suppress(InvalidEncoding):
            assert len(decode(text)) == 32
    with contextlib.suppress(InvalidEncoding):
        assert encode_npub(decode_npub(text)) == text.lower()


_ITEMS = ItemSet((1_700_000_000 + number // 3, bytes([number]) * 32) for number in range(200))


def _negentropy(data: bytes) -> None:
    """Messages of a relay, each with its length in two bytes before it."""
    asking = Reconciliation(_ITEMS, frame_limit=MIN_FRAME_LIMIT, max_need=1_000)
    asking.open()
    while data:
        size = int.from_bytes(data[:2])
        message, data = data[2 : 2 + size], data[2 + size :]
        try:
            answer = asking.receive(message)
        except InvalidNegentropy:
            return
        assert len(asking.need) <= 1_000
        assert not asking.need & asking.have or message, "an id is at once wanted and ours"
        assert answer is None or 1 < len(answer) <= MIN_FRAME_LIMIT
        if answer is None:
            return


def _information(data: bytes) -> None:
    try:
        said = parse_information(data)
    except InvalidInformation:
        return
    assert said.name.isprintable()
    assert len(said.name) + len(said.software) + len(said.version) < 10_000


def _frames(data: bytes) -> None:
    """What comes out of a stream does not depend on how it was cut; the first byte is the size of the pieces.

    Its highest bit: messages may be compressed.
    """
    first, data = data[0] if data else 1, data[1:]
    size, inflates = max(1, first & 0x7F), bool(first & 0x80)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert _messages([data], inflates=inflates) == _messages(pieces, inflates=inflates)


def _messages(parts: Sequence[bytes], *, inflates: bool) -> tuple[list[Received], object]:
    reader = FrameReader(_MAX_MESSAGE, inflates=inflates)
    messages: list[Received] = []
    for part in parts:
        reader.feed(part)
        while taken := reader.take():
            assert len(taken) <= MAX_BATCH_MESSAGES
            messages += taken
    for message in messages:
        if isinstance(message, SkippedMessage):
            assert max(len(message.head), len(message.tail)) <= SKIPPED_END_BYTES
            sighting(message)
        else:
            assert len(message) <= _MAX_MESSAGE
    return messages, reader.ended


def _deflate(data: bytes) -> None:
    """A compressed message: what comes of it is what websockets' own extension makes of it."""
    inflated = inflate(data, _MAX_MESSAGE)
    assert inflated is None or len(inflated) <= _MAX_MESSAGE
    inflate_head(data, SKIPPED_END_BYTES)
    if (expected := models.inflated(data, _MAX_MESSAGE)) is not None:
        assert inflated == expected


def _env(data: bytes) -> None:
    try:
        values = parse_env(data.decode("utf-8", "replace"))
    except InvalidEnvFile:
        return
    assert parse_env(format_env(values)) == values


def _json(data: bytes) -> None:
    try:
        value = json_text.decode(data)
    except json_text.NotJson:
        return
    again = json_text.decode(json_text.encode(value))
    assert again == value or repr(again) == repr(value)


def _seed_messages() -> list[bytes]:
    texts = [
        '["EOSE","L1",["finish"]]', '["CLOSED","P1","ERROR: auth-required: why"]', '["NOTICE","rate limited"]',
        f'["OK","{"ab" * 32}",false,"pow: 20"]', '["AUTH","c"]', '["COUNT","x",{"count":3}]',
        '["NEG-MSG","n","6100000200"]', '["NEG-ERR","n","blocked: too many",5]',
    ]  # fmt: skip
    added = b'{"x":{"id":"' + b"ab" * 32 + b'","created_at":3},' + _JSON[1:]
    return [b'["EVENT","P1",' + _JSON + b"]", b'["EVENT","P1",' + added + b"]", *(text.encode() for text in texts)]


def _seed_frames() -> list[bytes]:
    text = b'\x81\x05["x"]'
    frames = [
        text,
        b"\x01\x02[1\x80\x01]",
        b"\x89\x01p" + text,
        b"\x82\x02xx",
        b"\x88\x02\x03\xe8",
        b"\x81\x7e\x00\x80",
    ]
    packed = [
        bytes([0x83]) + frame
        for frame in (b"\xc1\x07\xf2H\xcd\xc9\xc9\x07\x00", b"A\x03\xf2H\xcd\x80\x04\xc9\xc9\x07\x00")
    ]
    return [*packed, *(bytes([size]) + frame for size in (1, 3) for frame in frames)]


def _seed_reconciliation() -> bytes:
    ours = Reconciliation(ItemSet([(1_700_000_000, b"\x01" * 32), (1_700_000_009, b"\x77" * 32)])).open()
    return len(ours).to_bytes(2) + ours


TARGETS: Mapping[str, Target] = {
    "event": Target(_event, [_JSON, _JSON.replace(b"\\n", b"\\ud800")]),
    "canonical": Target(_canonical, [b"\0\1" + "né\x7f\u2028\0\np\tx\n-\n\n".encode(), b"\0\1\xed\xa0\x80\nt\tx"]),
    "refused-event": Target(_refused_event, [_JSON, _JSON.replace(b'"-"', b"1"), _JSON.replace(b":1,", b":1.0,")]),
    "relay-message": Target(_relay_message, _seed_messages()),
    "client-message": Target(_client_message, [b'["EVENT",' + _JSON + b"]", b'["REQ","x",{}]']),
    "filter": Target(_filter, [_FILTER.encode() + b"\n" + _JSON]),
    "address": Target(_address, [b"wss://Relay.Example.com:443/p%61th?q=1 , ww://x.io", "ws://bücher.example".encode()]),
    "extract": Target(_extract, [b"\x27\x12\nr\twss://a.example", b'\0\3{"wss://a.example":{}}\np\t' + b"ab" * 32]),
    "nip19": Target(_nip19, [encode_npub(bytes(range(32))).encode(), encode_nsec(bytes(range(32))).encode()]),
    "negentropy": Target(_negentropy, [_seed_reconciliation(), b"\0\5" + bytes.fromhex("6100000200")]),
    "information": Target(_information, [b'{"name":"x","supported_nips":[1,77],"limitation":{"max_limit":500}}']),
    "frames": Target(_frames, _seed_frames()),
    "deflate": Target(_deflate, [_PACKED, b"\xf3" + _PACKED[1:] + b"\x00", b"\x00\x05\x00\xfa\xffHello\x00"]),
    "env": Target(_env, [b"# c\nA=1\nB=\"x \\\" y\"'z'\\\nmore\n"]),
    "json": Target(_json, [b'{"a":[1,2.5,"\\ud800x",null]}', base64.b64encode(_JSON), b"[" * 100]),
}  # fmt: skip
"""By name, in the order in which they run."""


def shortened(seed: bytes) -> list[bytes]:
    """Every truncation of `seed`, and it with each byte gone: what a test can try without a fuzzer."""
    cuts = [seed[:end] for end in range(len(seed) + 1)]
    gaps = [seed[:at] + seed[after:] for at, after in pairwise(range(len(seed) + 1))]
    return [*cuts, *gaps]
