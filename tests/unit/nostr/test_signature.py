"""Ids and signatures: known values, strfry's spelling of DEL, lengths, and agreement with another implementation."""

import hashlib
import json
from typing import Any

import coincurve
import nostr_sdk
import pytest
from hypothesis import assume, given

from pipeline.nostr import event as event_module
from pipeline.nostr.event import (
    Event,
    Reason,
    event_from_json,
    event_id,
    is_signature,
    parse_event,
    public_key,
    sign,
    verify,
)
from pipeline.nostr.nip19 import encode_note, encode_npub, encode_nsec
from tests.unit.nostr.strategies import (
    SECRET,
    a_value,
    naive_canonical,
    naive_id,
    property_test,
    signed_events,
    value_of,
    verdict,
)

PUBKEY = "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"
ODD = {
    "pubkey": PUBKEY,
    "created_at": 1_700_000_000,
    "kind": 1,
    "tags": [["t", "tab\there"], ["-"], ["client"], ["x", "\x7f\x01\u2028"]],
    "content": 'line\nquote" back\\ cr\r bs\b ff\f nul\x00 é 😀 </script>',
}
ODD_ID = "e6a2c7ad3df1779e6f06f0b0c6ec2ea77b11e7ffa1e48bbb20c25e0cead63da3"


def resigned(value: dict[str, Any], event_id_hex: str) -> Event:
    """The event under another id, with a signature of that id."""
    sig = coincurve.PrivateKey(SECRET).sign_schnorr(bytes.fromhex(event_id_hex)).hex()
    return parse_event({**value, "pubkey": PUBKEY, "id": event_id_hex, "sig": sig})


def test_the_known_id_of_an_event_with_every_special_character() -> None:
    event = sign(SECRET, created_at=1_700_000_000, kind=1, tags=ODD["tags"], content=ODD["content"])  # type: ignore[arg-type]  # a dict of mixed values
    assert event.id.hex() == ODD_ID
    assert event.pubkey.hex() == PUBKEY
    assert verdict(event) is None


def test_an_id_with_del_escaped_as_strfry_does_is_right() -> None:
    text = naive_canonical(ODD).replace(b"\x7f", b"\\u007f")
    strfry_id = hashlib.sha256(text).hexdigest()
    assert strfry_id.startswith("deed6b7c")
    event = resigned(ODD, strfry_id)
    assert verdict(event) is None
    assert event_id(event).hex() == ODD_ID
    assert event_from_json(event.to_json()) == event


def test_other_escapes_in_the_hashed_text_are_wrong() -> None:
    """Only DEL has two spellings: an id over HTML escapes, or over escaped non-ASCII, is refused."""
    value = {**ODD, "content": "<é>"}
    for text in (
        naive_canonical(value).replace(b"<", b"\\u003c").replace(b">", b"\\u003e"),
        naive_canonical(value).replace("é".encode(), b"\\u00e9"),
        json.dumps([0, PUBKEY, value["created_at"], 1, value["tags"], value["content"]], ensure_ascii=False).encode(),
    ):
        assert verdict(resigned(value, hashlib.sha256(text).hexdigest())) is Reason.HASH


def test_signing_is_deterministic_and_bound_to_every_field() -> None:
    event = sign(SECRET, created_at=5, kind=1, tags=[["t", "x"]], content="hello")
    assert event == sign(SECRET, created_at=5, kind=1, tags=[["t", "x"]], content="hello")
    value = value_of(event)
    other = value_of(sign(bytes(31) + b"\x05", created_at=6, kind=2, tags=[], content="bye"))
    for name in ("pubkey", "created_at", "kind", "tags", "content", "id"):
        assert verdict(parse_event({**value, name: other[name]})) is Reason.HASH, name
    assert verdict(parse_event({**value, "sig": other["sig"]})) is Reason.SIGNATURE


@pytest.mark.parametrize("bit", [0, 7, 255, 256, 300, 511])
def test_a_flipped_bit_spoils_the_signature(bit: int) -> None:
    event = parse_event(a_value())
    flipped = bytearray(event.sig)
    flipped[bit // 8] ^= 1 << bit % 8
    assert verdict(parse_event(a_value(sig=flipped.hex()))) is Reason.SIGNATURE


def test_a_key_off_the_curve_is_a_wrong_signature() -> None:
    off_curve = "eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34"
    value = a_value(pubkey=off_curve)
    event = parse_event({**value, "id": naive_id(value)})
    assert verdict(event) is Reason.SIGNATURE


@pytest.mark.parametrize(("sig", "message", "pubkey"), [(63, 32, 32), (65, 32, 32), (64, 31, 32), (64, 33, 32)])
def test_lengths_never_reach_the_c_library_unchecked(sig: int, message: int, pubkey: int) -> None:
    assert not is_signature(bytes(sig), bytes(message), bytes(pubkey))


@pytest.mark.parametrize("length", [0, 1, 31, 33])
def test_a_short_or_long_key_is_no_key(length: int) -> None:
    event = parse_event(a_value())
    assert not is_signature(event.sig, event.id, (event.pubkey * 2)[:length])
    with pytest.raises(ValueError, match="32 bytes"):
        public_key((SECRET * 2)[:length])


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_a_secret_out_of_range_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match=r"[Ss]ecret"):
        public_key(secret)
    with pytest.raises(ValueError, match=r"[Ss]ecret"):
        sign(secret, created_at=1, kind=1, tags=[], content="")


def test_parsed_keys_are_not_kept_without_bound() -> None:
    assert event_module._parsed_key.cache_info().maxsize == 8192


@property_test
@given(signed_events)
def test_what_is_signed_verifies(event: Event) -> None:
    verify(event_from_json(event.to_json()))


@property_test
@given(signed_events)
def test_rust_nostr_agrees(event: Event) -> None:
    """Id, signature and bech32 forms, by an implementation that shares no code with this one; it refuses empty tags."""
    assume(all(event.tags))
    theirs = nostr_sdk.Event.from_json(event.to_json().decode())
    assert theirs.verify()
    assert theirs.id().to_hex() == event.id.hex()
    assert theirs.id().to_bech32() == encode_note(event.id)
    assert theirs.author().to_bech32() == encode_npub(event.pubkey)
    assert event_from_json(theirs.as_json().encode()) == event
    assert nostr_sdk.SecretKey.parse(SECRET.hex()).to_bech32() == encode_nsec(SECRET)
