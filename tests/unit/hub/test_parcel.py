"""Parcels as bodies: what is encoded comes back, and what a taken-over host may send is refused in words."""

import random

import orjson
import pytest

from pipeline.hub.parcel import InvalidParcel, Parcel, SentCursor, SentEvent, SentStatus, decode
from tests.support.seeds import seeds

FIRST, SECOND = "wss://one.example.com", "wss://two.example.com"
STATUS = SentStatus(FIRST, "connected", 5, 3, 0, 0, 0, "", "whole", 0, 0, 1, "192.0.2.1", '{"subscriptions": 20}')
PARCEL = Parcel(
    (
        SentEvent(b'{"id":"a"}', SECOND, 17),
        SentEvent(b"", FIRST, 0),
        SentEvent(b'{"content":"\xc3\xa9\\n"}', SECOND, 18),
    ),
    (SentCursor(FIRST, "authors/01", 1_700_000_000, 4),),
    (STATUS,),
)


@pytest.mark.parametrize("parcel", [PARCEL, Parcel(), Parcel(PARCEL.events), Parcel(cursors=PARCEL.cursors)])
def test_parcel_comes_back_from_its_body(parcel: Parcel) -> None:
    assert decode(parcel.encode()) == parcel


def _changed(**changes: object) -> bytes:
    line, _, rest = PARCEL.encode().partition(b"\n")
    return orjson.dumps(orjson.loads(line) | changes) + b"\n" + rest


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"[]\n", "version"),
        (b"x" * (17 << 20), "too large"),
        (_changed(version=2), "update the home host"),
        (_changed(relays=None), "missing"),
        (_changed(relays=[1, 2]), "not text"),
        (_changed(relays=["ftp://x", FIRST]), "no relay"),
        (_changed(relays=[FIRST]), "by a number"),
        (_changed(events=[[0, 1, 3]]), "lengths"),
        (_changed(events=[[0, 1, -3]]), "out of range"),
        (_changed(events=[[0, 1, True]]), "another type"),
        (_changed(events=[[0, 1]]), "other columns"),
        (_changed(events=["abc"]), "other columns"),
        (_changed(cursors=[[0, "q", 1.5, 0]]), "another type"),
        (_changed(cursors=[[0, "q" * 70_000, 1, 0]]), "out of range"),
        (_changed(cursors=[[0, "q", 2**63, 0]]), "out of range"),
        (_changed(cursors=[[9, "q", 1, 0]]), "by a number"),
        (_changed(statuses=[[0, "gone", 5, 3, 0, 0, 0, "", "whole", 0, 0, 1, "", "{}"]]), "state"),
        (_changed(statuses=[[0, "connected", 5, 3, 0, 0, 0, "", "whole", 0, 0, 1, "", "{"]]), "limits"),
        (PARCEL.encode() + b"x", "lengths"),
    ],
)
def test_body_that_no_uplink_made_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(InvalidParcel, match=why):
        decode(body)


@pytest.mark.parametrize("seed", seeds(5))
def test_broken_body_is_refused_or_read_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    whole = PARCEL.encode()
    for _ in range(400):
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
        try:
            found = decode(bytes(body))
        except InvalidParcel:
            continue
        assert decode(found.encode()) == found
