"""Migrations: each applied once, recorded, all or nothing, and a database from the future left alone."""

from pathlib import Path

import apsw
import pytest

from pipeline.process.clock import ManualClock
from pipeline.store import dead, inbox, outbox
from pipeline.store.database import Database, Row
from pipeline.store.database_errors import DatabaseUnusable
from pipeline.store.dead import DeadQueue
from pipeline.store.inbox import Arrival
from pipeline.store.migrations import MIGRATIONS, Migration
from pipeline.store.schema import migrate, open_database, open_to_read
from pipeline.store.sinks import SinkName

MORE = Migration("9999-more", ("CREATE TABLE more (x INTEGER) STRICT", "INSERT INTO more VALUES (1)"))


def schema(db: Database) -> list[Row]:
    with db.read() as tx:
        return tx.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()


def recorded(db: Database) -> list[Row]:
    with db.read() as tx:
        return tx.execute("SELECT name, applied_at FROM migrations ORDER BY name").fetchall()


def test_a_fresh_database_records_every_migration_with_its_time(path: Path, clock: ManualClock) -> None:
    with Database.open(path) as db:
        assert migrate(db, clock) == [migration.name for migration in MIGRATIONS]
        assert recorded(db) == [(migration.name, clock.now_ms()) for migration in MIGRATIONS]


def test_migrating_again_changes_nothing(db: Database, clock: ManualClock) -> None:
    before = schema(db), recorded(db)
    clock.advance(60)
    assert migrate(db, clock) == []
    assert (schema(db), recorded(db)) == before


@pytest.mark.parametrize("first", range(len(MIGRATIONS) + 1))
def test_a_migrated_database_is_like_a_fresh_one(tmp_path: Path, clock: ManualClock, first: int) -> None:
    everything = (*MIGRATIONS, MORE)
    with Database.open(tmp_path / "old.db") as old, Database.open(tmp_path / "fresh.db") as fresh:
        migrate(old, clock, everything[:first])
        assert migrate(old, clock, everything) == [migration.name for migration in everything[first:]]
        migrate(fresh, clock, everything)
        assert schema(old) == schema(fresh)


def test_payloads_of_an_earlier_version_stay_where_their_events_are(tmp_path: Path, clock: ManualClock) -> None:
    """In the middle of work: pending for the saver, leased, a dead letter, owed to a sink, a dead letter there."""
    now = clock.now_ms()
    before = [migration.name for migration in MIGRATIONS].index("0030-payloads")
    payload = {number: b'{"created_at":%d}' % number for number in range(1, 8)}
    with Database.open(tmp_path / "old.db") as db:
        migrate(db, clock, MIGRATIONS[:before])
        with db.write() as tx:
            for event in (1, 2):
                tx.execute("INSERT INTO events VALUES (?, ?, ?, 1, 7, 1, NULL)", (event, id_of(event), payload[event]))
            tx.execute("INSERT INTO outbox (event, sink, ready_at) VALUES (1, 'pubsub', 0)")
            tx.execute("INSERT INTO outbox_dead VALUES (9, 2, 'pubsub', 1, 1, 'no', 8, 1)")
            tx.execute("INSERT INTO inbox_dead VALUES (3, ?, ?, 1, 7, 5, 5, 'why', 8, 1)", (id_of(3), payload[3]))
            tx.executemany(
                "INSERT INTO inbox (seq, event_id, raw, relay, received_at, ready_at) VALUES (?, ?, ?, 1, 7, ?)",
                [(seq, id_of(seq), payload[seq], now + (seq == 6) * 9999) for seq in (4, 5, 6, 7)],
            )
            tx.execute("UPDATE inbox SET raw = CAST('no JSON' AS BLOB) WHERE seq = 5")
            tx.execute("DELETE FROM inbox WHERE seq = 7")
        migrate(db, clock)
        payload[5] = b"no JSON"
        with db.write() as tx:
            claimed = inbox.claim(tx, now=now, lease=1, limit=9)
            assert [(row.receipt.seq, row.event, row.raw) for row in claimed] == [(n, n, payload[n]) for n in (4, 5)]
            (owed,) = outbox.claim(tx, SinkName.PUBSUB, now=now, lease=1, limit=9)
            assert (owed.event, owed.payload, owed.received_at) == (1, payload[1], 7)
            assert (owed.rules, owed.mentions) == (None, None), "was not noted then"
            for queue, number in ((DeadQueue.INBOX, 3), (DeadQueue(SinkName.PUBSUB), 2)):
                (letter,) = dead.find_newest(tx, queue, 9)
                assert dead.payload(tx, letter) == payload[number]
                assert dead.retry(tx, queue, [letter.seq], now) == 1
            (again,) = inbox.claim(tx, now=now, lease=1, limit=9)
            assert (again.receipt.seq, again.event, again.raw) == (8, 3, payload[3]), "no number comes back"
            (owed,) = outbox.claim(tx, SinkName.PUBSUB, now=now, lease=1, limit=9)
            assert owed.payload == payload[2]
            known = [Arrival(id_of(number), b"{}", 1, 7, number) for number in (3, 4, 6)]
            assert inbox.append(tx, [*known, Arrival(id_of(9), b"new", 1, 7, 7)]) == {id_of(9)}
            kept = {number: payload[number] for number in range(1, 7)} | {9: b"new"}
            assert dict(tx.execute("SELECT event, payload FROM payloads")) == kept


def id_of(number: int) -> bytes:
    return bytes([number]) * 32


def test_what_was_seen_and_taken_back_stays_so(tmp_path: Path, clock: ManualClock) -> None:
    """Through the migrations that give those tables another shape."""
    ids = [(bytes([number]) * 32, number, 7, 1000 - number % 5, 1, 3) for number in range(100)]
    with Database.open(tmp_path / "old.db") as db:
        migrate(db, clock, MIGRATIONS[:3])
        with db.write() as tx:
            tx.executemany("INSERT INTO seen VALUES (?, ?, ?, ?, ?, ?)", ids)
            tx.execute("INSERT INTO deletions VALUES (?, 4)", (bytes(32),))
            tx.execute("INSERT INTO vanished VALUES (5, 60)")
        migrate(db, clock)
        with db.read() as tx:
            assert tx.execute("SELECT * FROM seen ORDER BY event").fetchall() == ids
            assert tx.execute("SELECT event_id, author, at > 1.7e12 FROM deletions").fetchall() == [(bytes(32), 4, 1)]
            assert tx.execute("SELECT author, until, at > 1.7e12 FROM vanished").fetchall() == [(5, 60, 1)]


def test_names_are_distinct_and_in_order() -> None:
    names = [migration.name for migration in MIGRATIONS]
    assert names == sorted(set(names))


def test_a_database_from_the_future_is_refused_and_left_as_it_was(path: Path, clock: ManualClock) -> None:
    with Database.open(path) as db:
        migrate(db, clock, (*MIGRATIONS, MORE))
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    with pytest.raises(DatabaseUnusable, match="newer event-service \\(9999-more\\)"):
        open_database(path, clock)
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before


def test_looking_at_an_older_or_newer_database_leaves_it_as_it_was(tmp_path: Path, clock: ManualClock) -> None:
    """A service of that version may be running on it."""
    for name, migrations, said in (
        ("older.db", MIGRATIONS[:-1], f"older event-service \\(without {MIGRATIONS[-1].name}\\)"),
        ("newer.db", (*MIGRATIONS, MORE), "newer event-service \\(9999-more\\)"),
    ):
        with Database.open(tmp_path / name) as db:
            migrate(db, clock, migrations)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(DatabaseUnusable, match=said):
            open_to_read(tmp_path / name, clock)
        assert (tmp_path / name).read_bytes() == before


def test_looking_at_a_database_of_this_version_or_at_none_yet(path: Path, clock: ManualClock) -> None:
    with open_to_read(path, clock) as db:
        before = recorded(db)
    assert [name for name, _ in before] == [migration.name for migration in MIGRATIONS]
    clock.advance(60)
    with open_to_read(path, clock) as db:
        assert recorded(db) == before


def test_a_migration_that_fails_leaves_the_old_schema(db: Database, clock: ManualClock) -> None:
    """As a process does that is killed in the middle of one."""
    before = schema(db), recorded(db)
    broken = Migration("9999-broken", ("CREATE TABLE half (x INTEGER) STRICT", "CREATE TABLE half (x INTEGER) STRICT"))
    with pytest.raises(apsw.SQLError):
        migrate(db, clock, (*MIGRATIONS, MORE, broken))
    assert (schema(db), recorded(db)) == before
    assert migrate(db, clock, (*MIGRATIONS, MORE)) == [MORE.name]


def test_every_table_is_strict(db: Database) -> None:
    """A text in a column of numbers would come up only where it is read."""
    with db.read() as tx:
        lax = tx.execute("SELECT name FROM pragma_table_list WHERE NOT strict AND name NOT LIKE 'sqlite_%'").fetchall()
    assert lax == []
