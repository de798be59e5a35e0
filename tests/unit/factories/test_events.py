"""Events of the test world are real ones, and the same every time."""

import json
from pathlib import Path

import pytest

from tests.factories.events import (
    Author,
    assemble,
    authors,
    event_hash,
    forge_content,
    forge_signature,
    from_raw,
    is_authentic,
)
from tests.factories.workload import Workload, newest_versions, read_events, write_events

NOW = 1_700_000_000
ALICE, BOB, CAROL = authors(5, 3)
WORLD = Workload(seed=3, events=400, authors=20, since=NOW, until=NOW + 60, registered=2, size=770)


def test_ids_agree_with_a_known_vector() -> None:
    """Escapes, DEL, U+2028 and characters outside the BMP are hashed as NIP-01 says."""
    pubkey = "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"
    tags = [["t", "tab\there"], ["-"], ["client"], ["x", "\x7f\x01\u2028"]]
    content = 'line\nquote" back\\ cr\r bs\b ff\f nul\x00 é 😀 </script>'
    expected = "e6a2c7ad3df1779e6f06f0b0c6ec2ea77b11e7ffa1e48bbb20c25e0cead63da3"
    assert event_hash(pubkey, NOW, 1, tags, content) == expected


def test_a_seed_gives_the_same_bytes() -> None:
    """Keys, contents and signatures are reproducible, and differ between seeds."""
    assert [event.raw for event in WORLD.generate()] == [event.raw for event in WORLD.generate()]
    assert Author.from_seed(5, 0) == ALICE
    assert len({author.pubkey for author in (*authors(5, 3), *authors(6, 3))}) == 6


def test_generated_events_are_authentic_and_as_ordered() -> None:
    """All kinds, times within the window, mentions, distinct ids, about the wanted size."""
    events = list(WORLD.generate())
    assert all(is_authentic(event) for event in events)
    assert len({event.id for event in events}) == len(events) == WORLD.events
    assert {event.kind for event in events} == {0, 1, 3, 7, 10002}
    assert all(NOW <= event.created_at <= NOW + 60 for event in events)
    assert all(760 <= len(event.raw.encode()) <= 780 for event in events if event.kind == 1)
    assert any(event.mentioned() for event in events if event.kind == 1)
    assert WORLD.registered_users() == WORLD.people()[:2]


def test_raw_is_the_event_and_nothing_else() -> None:
    event = ALICE.sign('quote " \u2028 \ud800', created_at=NOW, tags=[["-"], ["p", BOB.pubkey]])
    assert json.loads(event.raw) == event.to_value()
    assert from_raw(event.raw) == event
    assert is_authentic(from_raw(event.raw))


@pytest.mark.parametrize("forge", [forge_content, forge_signature])
def test_forgeries_keep_the_id_and_fail(forge: object) -> None:
    assert callable(forge)
    event = ALICE.sign("true", created_at=NOW)
    forged = forge(event)
    assert forged.id == event.id
    assert is_authentic(event)
    assert not is_authentic(forged)


def test_a_foreign_signature_or_broken_hex_is_not_authentic() -> None:
    event = ALICE.sign("hers", created_at=NOW)
    stolen_id = event_hash(BOB.pubkey, NOW, 1, (), "hers")
    assert not is_authentic(assemble(stolen_id, BOB.pubkey, NOW, 1, (), "hers", event.sig))
    assert not is_authentic(assemble(event.id, ALICE.pubkey, NOW, 1, (), "hers", "zz" * 64))
    assert not is_authentic(assemble(event.id, ALICE.pubkey, NOW, 1, (), "hers", event.sig[:-2]))


def test_registrations_and_contact_lists() -> None:
    registration = ALICE.registration(NOW, ["wss://a.example"])
    assert (registration.kind, registration.content) == (6666, '{"relays":[{"address":"wss://a.example"}]}')
    assert BOB.contact_list([ALICE, CAROL.pubkey], NOW).mentioned() == {ALICE.pubkey, CAROL.pubkey}


def test_cache_files_give_the_events_back(tmp_path: Path) -> None:
    """Lines end at newlines only; a second call reads what the first has written."""
    odd = ALICE.sign("a\u2028b\x85c\r\nd", created_at=NOW)
    assert write_events(tmp_path / "x", [odd]) == 1
    assert read_events(tmp_path / "x") == [odd]
    first = WORLD.cached(tmp_path / "cache")
    assert WORLD.cached(tmp_path / "cache") == first == list(WORLD.generate())
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_newest_versions_follow_the_kind_classes() -> None:
    """Newest wins, at a tie the lowest id; addressable events by their d tag; regular ones all stay."""
    tied = sorted((ALICE.sign(str(number), kind=0, created_at=NOW + 1) for number in range(5)), key=lambda e: e.id)
    old = ALICE.sign("old", kind=0, created_at=NOW)
    notes = [ALICE.sign(str(number), created_at=NOW) for number in range(2)]
    articles = [ALICE.sign(kind=30023, created_at=NOW, tags=[["d", name]]) for name in "ab"]
    kept = newest_versions([tied[2], old, *notes, *articles, *tied])
    assert {event.id for event in kept} == {event.id for event in (tied[0], *notes, *articles)}
