"""What was taken back stays away, whatever arrives later."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.store import contacts, retractions, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.database import Database
from pipeline.store.retractions import Identity, Retracted
from pipeline.store.schema import open_database
from tests.support.wanted_changes import changes_since

USER = b"\x01" * 32
FOLLOWEE = b"\x02" * 32


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "events.db", ManualClock()) as opened:
        yield opened


def follow(database: Database, created_at: int, event_id: bytes = b"\x05" * 32) -> bool:
    with database.write() as tx:
        follower, followee = Authors().intern(tx, USER), Authors().intern(tx, FOLLOWEE)
        return contacts.replace(tx, ContactList(follower, event_id, created_at, frozenset({followee})), 1)


def take_back(database: Database, *, event_ids: frozenset[bytes] = frozenset(), until: int | None = None) -> None:
    with database.write() as tx:
        contacts.retract(tx, Authors(), Authors().intern(tx, USER), event_ids, until, 2)


def followees(database: Database) -> int:
    with database.read() as tx:
        return contacts.counts(tx, USER).followees


def test_a_deleted_list_is_forgotten_and_cannot_come_again(database: Database) -> None:
    follow(database, 100)
    take_back(database, until=100)
    assert followees(database) == 0
    assert not follow(database, 100, bytes(31) + b"\x01")
    assert not follow(database, 99)
    assert follow(database, 101)
    assert followees(database) == 1


def test_a_list_newer_than_its_deletion_stays(database: Database) -> None:
    follow(database, 100)
    take_back(database, until=99)
    assert followees(database) == 1


def test_a_deletion_that_comes_first_keeps_the_list_away(database: Database) -> None:
    take_back(database, until=100)
    assert not follow(database, 100)


def test_a_list_deleted_by_its_id_is_forgotten_and_cannot_come_again(database: Database) -> None:
    follow(database, 100, b"\x05" * 32)
    take_back(database, event_ids=frozenset({b"\x06" * 32}))
    assert followees(database) == 1
    take_back(database, event_ids=frozenset({b"\x05" * 32}))
    assert followees(database) == 0
    assert not follow(database, 100, b"\x05" * 32)


def test_followees_of_a_deleted_list_are_wanted_no_longer(database: Database) -> None:
    with database.write() as tx:
        users.register(tx, USER, 1)
    follow(database, 100)
    take_back(database, until=100)
    with database.read() as tx:
        wants = {change.public_key for change in changes_since(tx, 0).authors if change.wanted}
    assert wants == {USER}


def test_only_the_author_deletes_an_event(database: Database) -> None:
    with database.write() as tx:
        retractions.delete(tx, [b"\x05" * 32], 1, 1)
        events = [Identity(b"\x05" * 32, 2, 100), Identity(b"\x06" * 32, 1, 100), Identity(b"\x05" * 32, 1, 100)]
        assert retractions.retracted(tx, events) == {b"\x05" * 32: Retracted.DELETED}
        assert not retractions.retracted(tx, events[:2])


def test_an_address_is_deleted_up_to_its_time_and_never_goes_back(database: Database) -> None:
    here, elsewhere = "30023:key:\ud800", "30023:key:other"
    with database.write() as tx:
        retractions.delete_versions(tx, [here], 1, 100, 1)
        retractions.delete_versions(tx, [here], 1, 50, 2)
        identities = [(1, 100, here), (1, 101, here), (1, 100, elsewhere), (2, 100, here), (1, 100, None)]
        events = [Identity(bytes([number] * 32), *identity) for number, identity in enumerate(identities)]
        assert retractions.retracted(tx, events) == {bytes(32): Retracted.DELETED}


def test_deletions_are_forgotten_in_slices(database: Database) -> None:
    """Of one id by several authors too; those that are young stay, wherever the slices end."""
    with database.write() as tx:
        for number in range(50):
            retractions.delete(tx, [bytes(31) + bytes([number // 3])], number, 100 + number % 2)
        after, looked_at = retractions.FIRST_DELETION, 0
        while (done := retractions.forget_deletions(tx, after=after, before=101, limit=7)).looked_at:
            looked_at += done.looked_at
            after = done.last
        left = [author for (author,) in tx.execute("SELECT author FROM deletions ORDER BY author")]
    assert looked_at == 50
    assert left == list(range(1, 50, 2))


def test_vanishing_counts_up_to_its_time_and_never_goes_back(database: Database) -> None:
    with database.write() as tx:
        retractions.vanish(tx, 1, 100, 1)
        retractions.vanish(tx, 1, 50, 2)
        events = [Identity(b"\x05" * 32, 1, 100), Identity(b"\x06" * 32, 1, 101), Identity(b"\x07" * 32, 2, 100)]
        assert retractions.retracted(tx, events) == {b"\x05" * 32: Retracted.VANISHED}
        retractions.delete(tx, [b"\x05" * 32], 1, 1)
        assert retractions.retracted(tx, events) == {b"\x05" * 32: Retracted.DELETED}
