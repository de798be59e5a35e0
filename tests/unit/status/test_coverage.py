"""What the crawl records of one user, put together."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.status.coverage import LATE_S, Coverage, coverage
from pipeline.store import contacts, cursors, events, gaps, relay_lists, relay_mentions, relay_status, relays, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database, Tx
from pipeline.store.events import Accepted
from pipeline.store.gaps import GapChanges, OpenGap
from pipeline.store.relay_lists import RelayList
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.schema import open_database

NOW = 1_700_000_000
# Its first bits are 1010.
ALICE, BOB, STRANGER = b"\xa0" + bytes(31), b"\x0a" + bytes(31), b"\xff" * 32
ONE, TWO, AWAY = "wss://one.example", "wss://two.example", "wss://away.example"
UNTIL = NOW + 5_000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "events.db", SystemClock()) as database:
        with database.write() as tx:
            users.register(tx, ALICE, NOW * 1000)
            alice, bob = numbers(tx)
            contacts.replace(tx, ContactList(alice, b"c" * 32, NOW - 50, [bob]), NOW * 1000)
            relays.set_bootstrap(tx, [ONE, TWO, AWAY], 1)
            for address, state in ((ONE, RelayState.CONNECTED), (TWO, RelayState.CONNECTED)):
                relay_status.start_crawling(tx, [number_of(tx, address)], (NOW - 900) * 1000)
                status = RelayStatus(number_of(tx, address), address, state, 1, 1, 0, 0, 0, "")
                relay_status.put_statuses(tx, [status])
        yield database


def numbers(tx: Tx) -> list[int]:
    known = Authors()
    return [known.intern(tx, key) for key in (ALICE, BOB)]


def number_of(tx: Tx, address: str) -> int:
    number = relays.find(tx, address)
    assert number is not None
    return number


def put_cursor(tx: Tx, address: str, query: str, until: int, generation: int = 1_000) -> None:
    cursors.advance(tx, [Cursor(number_of(tx, address), query, until, generation)], UNTIL)


def of(database: Database, key: bytes = ALICE) -> Coverage:
    with database.read() as tx:
        found = coverage(tx, key)
    assert found is not None
    return found


def complete(found: Coverage, address: str) -> list[int | None]:
    """Of authors, mentions and profiles."""
    (relay,) = [each for each in found.relays if each.address == address]
    return [each.complete_until for each in relay.queries]


def test_author_who_is_not_wanted_has_none(db: Database) -> None:
    with db.read() as tx:
        assert coverage(tx, STRANGER) is None


def test_user_and_followee_are_wanted_for_their_reasons(db: Database) -> None:
    user, followee = of(db), of(db, BOB)
    assert (user.registered_at, user.followers, user.contacts, user.contacts_dated) == (NOW * 1000, 0, 1, NOW - 50)
    assert (followee.registered_at, followee.followers, followee.contacts_dated) == (None, 1, None)
    words = {line.subject: line.text for line in followee.lines()}
    assert words["wanted"].endswith("followed by 1 registered user")
    assert words["contacts"] == "no list is known"


def test_relays_that_the_user_names_come_first_though_away(db: Database) -> None:
    with db.write() as tx:
        alice, _ = numbers(tx)
        relay_mentions.record_mention(tx, AWAY, source="hint", author=alice, is_user=True, now=1)
        relay_lists.replace(tx, RelayList(alice, b"l" * 32, NOW, (number_of(tx, TWO),), (number_of(tx, TWO),)))
    found = of(db)
    # Those that are connected are the best.
    assert [(each.address, each.named) for each in found.relays] == [
        (TWO, ("read", "write")), (AWAY, ("mention",)), (ONE, ())
    ]  # fmt: skip
    assert found.relays_named == 2


def test_cursor_of_the_own_chunk_counts_and_no_other(db: Database) -> None:
    with db.write() as tx:
        put_cursor(tx, ONE, "authors/101", NOW + 10)
        put_cursor(tx, ONE, "authors/11", NOW + 99)
        put_cursor(tx, ONE, "authors/1.1", NOW + 99)
        put_cursor(tx, ONE, "mentions/", NOW + 20)
        put_cursor(tx, TWO, "authors/1010", NOW + 30)
        put_cursor(tx, TWO, "authors/10", NOW + 40, generation=0)
    assert complete(of(db), ONE) == [NOW + 10, NOW + 20, None]
    assert complete(of(db), TWO) == [NOW + 30, None, None]


def test_cursor_from_before_the_user_was_wanted_does_not_count(db: Database) -> None:
    with db.write() as tx:
        put_cursor(tx, ONE, "authors/", NOW + 10, generation=0)
    assert complete(of(db), ONE) == [None, None, None]
    assert {each.until for each in of(db).relays[0].queries} == {"never complete"}


def test_cursor_for_everything_covers_all_but_profiles(db: Database) -> None:
    with db.write() as tx:
        put_cursor(tx, ONE, "whole/", NOW + 10)
    assert complete(of(db), ONE) == [NOW + 10, NOW + 10, None]


def test_gaps_of_what_is_asked_about_the_user_are_named(db: Database) -> None:
    with db.write() as tx:
        number = number_of(tx, ONE)
        opened = [
            OpenGap(number, form, "dense-second", NOW, NOW, NOW) for form in ("authors/1", "authors/0", "global/")
        ]
        gaps.put(tx, [GapChanges(opened=tuple(opened))])
    (shown,) = of(db).relays[0].gaps
    assert shown.startswith("events by followed authors (chunk 1) at ")


def test_late_arrivals_are_counted_from_when_the_user_was_wanted(db: Database) -> None:
    with db.write() as tx:
        alice, bob = numbers(tx)
        rows = [
            (1, alice, NOW - 100, NOW + LATE_S * 9), (2, alice, NOW + 1, NOW + LATE_S * 2),
            (3, alice, NOW + 2, NOW + 3), (4, bob, NOW + 9, NOW + 9),
        ]  # fmt: skip
        for number, author, created_at, seen_at in rows:
            accepted = Accepted(number, bytes([number]) * 32, created_at, 1, author, b"", 1, 1, 1)
            events.accept(tx, [accepted], seen_at * 1000)
    arrivals = of(db).arrivals
    assert (arrivals.events, arrivals.late, arrivals.counted, arrivals.since) == (3, 1, 2, NOW - 100)
    assert arrivals.newest is not None
    assert (arrivals.newest.created_at, arrivals.newest.seen_at) == (NOW + 2, (NOW + 3) * 1000)
