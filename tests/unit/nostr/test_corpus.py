"""Events and messages of both corpora: those of our own making, and real ones where they are at hand."""

import base64
import csv
import json
import re
from collections import Counter
from typing import Any

import pytest

from pipeline.nostr.event import (
    Event,
    InvalidEvent,
    Reason,
    canonical,
    event_from_json,
    event_id,
    is_signature,
    verify,
)
from pipeline.nostr.message import (
    AuthChallenge,
    Closed,
    Count,
    Eose,
    EventMessage,
    InvalidMessage,
    MessageFault,
    NegError,
    Notice,
    Ok,
    PublishMessage,
    RelayMessage,
    classify_notice,
    parse_client_message,
    parse_relay_message,
)
from pipeline.nostr.tags import supersedes
from tests.corpus import DATA, OURS, REAL, Corpus, corpus, needs_real, real
from tests.corpus import make as corpus_making
from tests.unit.nostr.strategies import naive_canonical, naive_id
from tests.unit.nostr.test_notices import naive_notice_type

__all__ = ["corpus"]


def judged(raw: bytes) -> Reason | None:
    try:
        verify(event_from_json(raw))
    except InvalidEvent as error:
        return error.reason
    return None


def test_our_corpus_is_what_its_makers_make() -> None:
    made = corpus_making.files()
    assert {path.name for path in DATA.iterdir()} == set(made)
    assert {name for name, text in made.items() if (DATA / name).read_text() != text} == set()


def test_every_event_is_accepted_and_reproduced(corpus: Corpus) -> None:
    """But three real ones: strfry, Go, Rust and Swift refuse numbers in tags, so sending is no help."""
    refused = {}
    for line in corpus.event_lines():
        value = json.loads(line)
        try:
            event = event_from_json(line)
        except InvalidEvent as error:
            refused[value["id"]] = error.reason
            continue
        verify(event)
        assert event.id.hex() == value["id"] == event_id(event).hex() == naive_id(value)
        assert json.loads(event.to_json()) == value
        assert event_from_json(event.to_json()) == event
        assert parse_relay_message(b'\n["EVENT","s",%s]' % line) == EventMessage("s", event)
    assert refused == dict.fromkeys(corpus.refused, Reason.TAGS)


@needs_real
def test_the_three_refused_events_would_otherwise_be_valid() -> None:
    """They are refused for their tags alone; this is the price of the rule."""
    lines = [line for line in real().event_lines() if json.loads(line)["id"] in real().refused]
    assert len(lines) == 3
    for value in map(json.loads, lines):
        assert naive_id(value) == value["id"]
        assert is_signature(*(bytes.fromhex(value[name]) for name in ("sig", "id", "pubkey")))


# In this order: an event with several faults is refused for the first.
REASONS = [
    ("not parseable|truncated", Reason.JSON),
    ("duplicate JSON keys", Reason.ID),  # of which the last, "y", is no id
    ("missing content", Reason.ID),  # whose id is a word
    ("^id (bad hex|not string)|missing id", Reason.ID),
    ("^pubkey bad hex", Reason.PUBKEY),
    ("missing tags|tags not array", Reason.TAGS),
    ("content not string|content is a JSON object", Reason.CONTENT),
    ("id mismatch", Reason.HASH),
    ("bad signature", Reason.SIGNATURE),
]


def judged_frame(raw: bytes) -> Reason | None:
    """The verdict on an event, wherever it stands: alone, or in a frame from a relay or a client."""
    if not raw.startswith(b"["):
        return judged(raw)
    try:
        message = parse_client_message(raw) if raw.startswith(b'["EVENT",{') else parse_relay_message(raw)
        assert isinstance(message, EventMessage | PublishMessage)
        verify(message.event)
    except InvalidMessage as error:
        return Reason(error.reason)
    except InvalidEvent as error:
        return error.reason
    return None


@pytest.mark.parametrize("row", OURS.rows("cases.jsonl"), ids=lambda row: str(row["name"]))
def test_case_of_ours_is_judged_as_expected(row: dict[str, Any]) -> None:
    raw = base64.b64decode(row["raw_b64"])
    assert judged(raw) == row["reason"]
    if row["reason"] is None:
        event = event_from_json(raw)
        assert event_from_json(event.to_json()) == event


@needs_real
def test_every_invalid_event_is_refused_for_the_right_reason() -> None:
    counts: Counter[str] = Counter()
    for row in real().rows("invalid.jsonl"):
        expected = next(reason for pattern, reason in REASONS if re.search(pattern, row["why"]))
        assert judged_frame(row["raw"].encode()) is expected, row["why"]
        counts[expected] += 1
    assert counts == {"hash": 161, "pubkey": 12, "id": 10, "json": 6, "signature": 5, "tags": 3, "content": 2}


AMBIGUOUS: dict[str, Reason | None] = {
    "BOM before the JSON text": Reason.JSON,  # RFC 8259 forbids it; strfry wants `[` first
    "lone surrogate, id over JS well-formed stringify (\\ud800)": None,  # what JavaScript clients sign
    "lone surrogate, id over U+FFFD replacement": Reason.HASH,  # the id of another text
    "empty tag []": None,  # strfry refuses it; khatru and nostr-rs-relay hold and send it
    "kind 1.0": Reason.KIND,  # strfry: not an unsigned integer
    "kind 1e0": Reason.KIND,
    "created_at float": Reason.CREATED_AT,
    "created_at exponent": Reason.CREATED_AT,
    "created_at 1700000000000": None,  # form allows it; what is too far in the future is policy
    "created_at 9007199254740991": None,
    "created_at 9007199254740993": None,  # exact, where a float would round it
    "created_at 9223372036854775807": None,
    "created_at 9223372036854775808": Reason.CREATED_AT,  # no database integer holds it
    "tag nesting bomb in unknown key": Reason.JSON,  # deeper than any reader recurses
}
# All implementations write controls without a short escape as \u00xx, though NIP-01 could be read otherwise.
for _name in ("NUL", "U+0001", "VT", "U+001F"):
    AMBIGUOUS[f"{_name} in content, id over JSON.stringify form (\\u00XX)"] = None
    AMBIGUOUS[f"{_name} in content, id over verbatim byte (literal NIP-01 reading)"] = Reason.HASH

# strfry refuses equal keys. Here the last one counts, for what is verified, kept and handed on alike: the event that
# leaves has each key once and a valid signature, so refusing would only lose it.
# No hash covers the letters of a signature, and relays hold events that have capitals there.
ACCEPTED_THOUGH_STRICTLY_WRONG = {"duplicate content key", "duplicate id key", "uppercase sig"}


def synthetic() -> list[Any]:
    if REAL is None:
        return []
    return [pytest.param(row, id=row["name"]) for row in real().rows("synthetic-edge.jsonl")]


@pytest.mark.parametrize("row", synthetic())
def test_a_constructed_case_is_judged_as_expected(row: dict[str, Any]) -> None:
    raw = row["raw"].encode() if "raw" in row else base64.b64decode(row["raw_b64"])
    verdict = judged(raw)
    if row["expect"] == "ambiguous":
        assert verdict is AMBIGUOUS[row["name"]]
    else:
        accepted = row["expect"] == "accept" or row["name"] in ACCEPTED_THOUGH_STRICTLY_WRONG
        assert (verdict is None) is accepted, verdict
    if verdict is None:
        event = event_from_json(raw)
        assert event_from_json(event.to_json()) == event


@needs_real
def test_the_case_names_are_those_of_the_corpus() -> None:
    names = {row["name"]: row["expect"] for row in real().rows("synthetic-edge.jsonl")}
    assert {name for name, expect in names.items() if expect == "ambiguous"} == set(AMBIGUOUS)
    assert {names[name] for name in ACCEPTED_THOUGH_STRICTLY_WRONG} == {"reject"}


def test_of_a_tie_the_lowest_id_wins() -> None:
    tied = [event for event in map(event_from_json, OURS.event_lines()) if event.content.startswith("tie ")]
    winner = tied[0]
    for event in reversed(tied):
        winner = event if supersedes(event, winner) else winner
    assert len({event.created_at for event in tied}) == 1 < len(tied)
    assert winner.id == min(event.id for event in tied)


@needs_real
def test_of_a_real_tie_the_lowest_id_wins() -> None:
    group = [row for row in real().rows("synthetic-edge.jsonl") if row["name"].startswith("tie group A")]
    winner: Event | None = None
    for row in reversed(group):
        event = event_from_json(row["raw"].encode())
        winner = event if winner is None or supersedes(event, winner) else winner
    assert len(group) == 4
    assert winner is not None
    assert group[0]["note"] == f"lowest id wins: {winner.id.hex()}"


TYPES: dict[str, type[RelayMessage]] = {
    "EVENT": EventMessage,
    "EOSE": Eose,
    "CLOSED": Closed,
    "OK": Ok,
    "NOTICE": Notice,
    "AUTH": AuthChallenge,
    "COUNT": Count,
    "NEG-ERR": NegError,
}


def is_hex(value: Any, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", value) is not None


def expected_fault(frame: list[Any]) -> MessageFault | None:
    """What is wrong with a frame, as a person would say; an EVENT's event is not looked at."""
    label, first, second = (*frame, None, None)[:3]
    text_faults = {"OK": MessageFault.ID, "NOTICE": MessageFault.TEXT, "AUTH": MessageFault.TEXT}
    rules = [
        (not isinstance(first, str), text_faults.get(label, MessageFault.SUBSCRIPTION)),
        (label == "OK" and not is_hex(first, 64), MessageFault.ID),
        (label == "OK" and not isinstance(second, bool), MessageFault.ACCEPTED),
        (label == "COUNT" and not (isinstance(second, dict) and "count" in second), MessageFault.COUNT),
    ]
    return next((fault for broken, fault in rules if broken), None)


def test_every_message_of_ours_is_what_it_is_said_to_be() -> None:
    for row in OURS.rows("relay-messages.jsonl"):
        try:
            found = type(parse_relay_message(row["raw"].encode())).__name__
        except (InvalidMessage, InvalidEvent) as error:
            found = f"!{error.reason}"
        assert found == row["is"], row["raw"]


@needs_real
def test_every_frame_of_a_relay_is_classified() -> None:
    outcomes: Counter[str] = Counter()
    for row in real().rows("relay-messages.jsonl"):
        frame = json.loads(row["raw"])
        fault: MessageFault | None = None
        try:
            message = parse_relay_message(row["raw"].encode())
        except InvalidMessage as error:
            fault = error.reason
        assert fault is expected_fault(frame), row["raw"]
        outcomes["invalid" if fault else frame[0]] += 1
        if fault is None:
            assert type(message) is TYPES[frame[0]], row["raw"]
            if isinstance(message, Notice):
                assert classify_notice(message.text) == naive_notice_type(message.text)
    assert outcomes == {
        "OK": 105,
        "NOTICE": 50,
        "invalid": 44,
        "CLOSED": 33,
        "EOSE": 15,
        "AUTH": 14,
        "NEG-ERR": 12,
        "COUNT": 2,
        "EVENT": 1,
    }


@needs_real
def test_the_official_vectors_of_bip_340() -> None:
    with (real().folder / "bip340-vectors.csv").open() as file:
        vectors = list(csv.DictReader(file))
    assert len(vectors) == 19
    used = 0
    for vector in vectors:
        message = bytes.fromhex(vector["message"])
        if len(message) != 32:  # an event id always has 32 bytes, and nothing else is ever verified
            assert not is_signature(bytes.fromhex(vector["signature"]), message, bytes.fromhex(vector["public key"]))
            continue
        used += 1
        expected = vector["verification result"] == "TRUE"
        args = (bytes.fromhex(vector["signature"]), message, bytes.fromhex(vector["public key"]))
        assert is_signature(*args) is expected, vector["comment"]
    assert used == 15


def test_the_hashed_bytes_are_those_of_the_standard_library(corpus: Corpus) -> None:
    for line in corpus.event_lines():
        value = json.loads(line)
        if value["id"] not in corpus.refused:
            assert canonical(event_from_json(line)) == naive_canonical(value)
