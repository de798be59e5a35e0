"""Parcels as bodies and notes: what is encoded comes back, what another version or a foe sends is read or refused."""

import random

import orjson
import pytest

from pipeline.hub.parcel import (
    UNKNOWN_RELAY,
    InvalidParcel,
    ParcelNotes,
    SentCursor,
    SentEvent,
    SentStatus,
    decode_events,
    decode_notes,
    encode_events,
)
from tests.support.seeds import seeds

FIRST, SECOND = "wss://one.example.com", "wss://two.example.com"
STATUS = SentStatus(FIRST, "connected", 5, 3, 0, 0, 0, "", "whole", 0, 0, 1, "192.0.2.1", '{"subscriptions": 20}')
EVENTS = (
    SentEvent(b'{"id":"a"}', SECOND, 17),
    SentEvent(b"", FIRST, 0),
    SentEvent(b'{"content":"\xc3\xa9\\n"}', SECOND, 18),
)
NOTES = ParcelNotes((SentCursor(FIRST, "authors/01", 1_700_000_000, 4),), (STATUS,))
BODY = encode_events(EVENTS)


@pytest.mark.parametrize("events", [EVENTS, ()])
def test_events_come_back_from_their_body(events: tuple[SentEvent, ...]) -> None:
    assert decode_events(encode_events(events)) == events


@pytest.mark.parametrize(
    "notes", [NOTES, ParcelNotes(), ParcelNotes(NOTES.cursors), ParcelNotes(statuses=NOTES.statuses)]
)
def test_notes_come_back_from_their_text(notes: ParcelNotes) -> None:
    assert decode_notes(notes.encode()) == notes


def _changed(**changes: object) -> bytes:
    line, _, rest = BODY.partition(b"\n")
    return orjson.dumps(orjson.loads(line) | changes) + b"\n" + rest


def _noted(**changes: object) -> bytes:
    return orjson.dumps(orjson.loads(NOTES.encode()) | changes)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "version"),
        (b"[]\n", "version"),
        (b"x" * (17 << 20), "too large"),
        (_changed(version=2), "update the home host"),
        (_changed(events=None), "missing"),
        (_changed(events=[[0, 1, 3]]), "lengths"),
        (_changed(events=[[0, 1, -3]]), "another form"),
        (_changed(events=[[0, 1, True]]), "another form"),
        (_changed(events=[[0, 1]]), "another form"),
        (_changed(events=["abc"]), "another form"),
        (BODY + b"x", "lengths"),
    ],
)
def test_body_that_cannot_be_read_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(InvalidParcel, match=why):
        decode_events(body)


def test_body_with_more_than_this_version_knows_is_read() -> None:
    rows = [[*row, "new"] for row in orjson.loads(BODY.partition(b"\n")[0])["events"]]
    assert decode_events(_changed(events=rows, of_later="x")) == EVENTS


@pytest.mark.parametrize("relays", [None, [1, 2], ["ftp://x", "?"], []])
def test_events_of_relays_that_cannot_be_read_are_kept(relays: object) -> None:
    found = decode_events(_changed(relays=relays))
    assert [each.raw for each in found] == [each.raw for each in EVENTS]
    assert {each.relay for each in found} == {UNKNOWN_RELAY}


@pytest.mark.parametrize(
    ("text", "cursors", "statuses", "unread"),
    [
        (b"[]", 0, 0, 1),
        (b"{", 0, 0, 1),
        (b"{}", 0, 0, 0),
        (_noted(cursors=[[0, "q", 1.5, 0]]), 0, 1, 1),
        (_noted(cursors=[[0, "q" * 70_000, 1, 0]]), 0, 1, 1),
        (_noted(cursors=[[0, "q", 2**63, 0], [0, "p", 1, 1]]), 1, 1, 1),
        (_noted(cursors=[[9, "q", 1, 0]]), 0, 1, 1),
        (_noted(cursors={"of": "later"}), 0, 1, 1),
        (_noted(cursors=[[0, "q", 1, 0, "of later"]], other=[1]), 1, 1, 0),
        (_noted(relays=["ftp://x"]), 0, 0, 2),
        (_noted(statuses=[[0, "gone", 5, 3, 0, 0, 0, "", "whole", 0, 0, 1, "", "{}"]]), 1, 0, 1),
        (_noted(statuses=[[0, "connected", 5, 3, 0, 0, 0, "", "whole", 0, 0, 1, "", "{"]]), 1, 0, 1),
        (_noted(statuses=[[0, "connected", 5, 3, 0, 0, 0, "", "whole", 0, 0, 1, "", "{}", "of later"]]), 1, 1, 0),
    ],
)
def test_notes_are_read_as_far_as_they_are_known(text: bytes, cursors: int, statuses: int, unread: int) -> None:
    found = decode_notes(text)
    assert (len(found.cursors), len(found.statuses), found.unread) == (cursors, statuses, unread)


def _broken(rng: random.Random, whole: bytes) -> bytes:
    body = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(body))
        match rng.randrange(3):
            case 0:
                body[place] = rng.randrange(256)
            case 1:
                del body[place : place + rng.randint(1, 20)]
            case _:
                body[place:place] = rng.choice([b"9", b"-", b'"', b"]", b"[", b"null", b"\n", b"\xff"])
    return bytes(body)


@pytest.mark.parametrize("seed", seeds(5))
def test_broken_parcel_is_refused_or_read_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(400):
        notes = decode_notes(_broken(rng, NOTES.encode()))
        again = decode_notes(notes.encode())
        assert (again.cursors, again.statuses) == (notes.cursors, notes.statuses)
        try:
            found = decode_events(_broken(rng, BODY))
        except InvalidParcel:
            continue
        assert decode_events(encode_events(found)) == found
