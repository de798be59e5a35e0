"""What is read from each version of the Go service's schema."""

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pipeline.go_import.private_copy import SourceUnusable
from pipeline.go_import.source import GoCounts, GoWaiting
from pipeline.go_import.source import GoDatabase as Reader
from pipeline.process.clock import SystemClock
from pipeline.store.database_errors import DatabaseUnusable
from pipeline.store.schema import open_database
from tests.factories.events import authors
from tests.fakes.go_database import GoDatabase, GoSchema

NOW = 1_700_000_000
ALICE, BOB, CAROL = authors(6, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "go.db"


def filled(path: Path, schema: GoSchema) -> GoDatabase:
    """One event that was handed on, one that was not, one list, one relay, one user."""
    database = GoDatabase(path, schema)
    database.done(ALICE.contact_list([BOB, CAROL], NOW), at=NOW + 5)
    database.save(BOB.sign("later", created_at=NOW), at=NOW + 7)
    database.relay("wss://a.example")
    database.register(ALICE, NOW - 50, NOW - 20)
    return database


@pytest.mark.parametrize(
    ("schema", "done", "waiting"), [(GoSchema.NEWEST, 1, 1), (GoSchema.UNMARKED, 1, 1), (GoSchema.OLDEST, 2, 0)]
)
def test_work_is_divided_by_the_messages_that_are_left(path: Path, schema: GoSchema, done: int, waiting: int) -> None:
    """Only a message ever made that service hand an event on: where there are none, nothing is left to do."""
    filled(path, schema).close()
    with Reader(path) as reader:
        assert reader.counts() == GoCounts(done=done, relays=1, contact_lists=1, users=1, waiting=waiting)
        assert len(list(reader.done())) == done
        assert len(list(reader.waiting())) == waiting


def test_a_marked_event_is_done_though_its_message_is_left(path: Path) -> None:
    """That service was ended between its last two steps."""
    event = BOB.sign("twice?", created_at=NOW)
    with GoDatabase(path) as database:
        database.save(event)
        database.connection.execute("UPDATE events SET processed_at = 1")
    with Reader(path) as reader:
        assert [each.event_id for each in reader.done()] == [event.id.encode()]
        assert list(reader.waiting()) == []


def test_an_unmarked_event_without_message_is_done(path: Path) -> None:
    """It was handed on before marks were introduced."""
    event = BOB.sign("long ago", created_at=NOW)
    with GoDatabase(path) as database:
        database.done(event)
        database.connection.execute("UPDATE events SET processed_at = NULL")
    with Reader(path) as reader:
        assert [(each.event_id, each.processed_at) for each in reader.done()] == [(event.id.encode(), None)]


def test_messages_of_every_kind_are_told_apart(path: Path) -> None:
    event = BOB.sign("there", created_at=NOW)
    with GoDatabase(path) as database:
        database.save(event, at=NOW)
        for payload in ("{", '{"eventID":"ab"}', "[]", '{"eventID":7}', b"\xff\xfe", None, '{"eventID":null}'):
            database.message(payload, at=NOW)
        database.message(f'{{"eventID":"{"0" * 64}"}}', at=NOW, topic="something_else")
    with Reader(path) as reader:
        rows = list(reader.waiting())
    assert rows[0] == GoWaiting(event.id.encode(), True, event.raw.encode(), NOW)
    assert [each.event_id for each in rows[1:]] == [None, b"ab", None, b"7", None, None, None]
    assert not any(each.exists for each in rows[1:])


def test_contacts_come_with_the_event_that_the_database_names(path: Path) -> None:
    listed, gone, stranger = (ALICE.contact_list([BOB], NOW), BOB.contact_list([CAROL], NOW), CAROL.sign(created_at=1))
    with GoDatabase(path) as database:
        database.done(listed)
        database.done(gone)
        database.contacts(CAROL.pubkey, [ALICE.pubkey], database.save(stranger))
        database.forget(gone)
        database.connection.execute("INSERT INTO contacts_followees VALUES (77, 78)")
    with Reader(path) as reader:
        lists = {each.follower: (set(each.followees), each.payload) for each in reader.contact_lists()}
    assert lists == {
        ALICE.pubkey.encode(): ({BOB.pubkey.encode()}, listed.raw.encode()),
        BOB.pubkey.encode(): ({CAROL.pubkey.encode()}, None),
        CAROL.pubkey.encode(): ({ALICE.pubkey.encode()}, stranger.raw.encode()),
        None: ({None}, None),
    }


def test_the_first_tables_alone_are_enough(path: Path) -> None:
    """Contacts and users came later, in versions whose other tables are the same."""
    with GoDatabase(path, GoSchema.OLDEST) as database:
        for table in ("public_keys", "contacts_events", "contacts_followees", "public_keys_to_monitor"):
            database.connection.execute(f"DROP TABLE {table}")
        database.relay("wss://a.example")
    with pytest.raises(DatabaseUnusable, match="of the Go service; it must be imported first"):
        open_database(path, SystemClock())
    with Reader(path) as reader:
        assert reader.counts() == GoCounts(done=0, relays=1, contact_lists=0, users=0, waiting=0)


def test_more_rows_than_a_page_come_once_each(path: Path) -> None:
    with GoDatabase(path) as database, database.connection:
        for number in range(450):
            database.relay(f"wss://{number}.example")
    with Reader(path) as reader:
        assert list(reader.relays()) == [f"wss://{number}.example".encode() for number in range(450)]


def _nothing(path: Path) -> None:
    path.touch()


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 500)


def _foreign(path: Path) -> None:
    with apsw.Connection(str(path)) as connection:
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, title TEXT)")
    connection.close()


def _ours(path: Path) -> None:
    open_database(path, SystemClock()).close()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_nothing, "no database of the Go service"),
        (_garbage, "cannot be read"),
        (_foreign, "no database of the Go service"),
        (_ours, "of this service already"),
    ],
)
def test_what_is_no_database_of_that_service_is_refused(path: Path, make: Callable[[Path], None], why: str) -> None:
    make(path)
    with pytest.raises(SourceUnusable, match=why):
        Reader(path)


def test_a_page_that_cannot_be_read_is_said(path: Path) -> None:
    with GoDatabase(path) as database, database.connection:
        for number in range(20_000):
            database.relay(f"wss://{number}.example")
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = b"\xaa" * (len(data) // 2 - len(data) // 4)
    path.write_bytes(data)

    def read() -> Iterator[object]:
        with Reader(path) as reader:
            yield from reader.relays()
            yield from reader.done()

    with pytest.raises(SourceUnusable, match="cannot be read"):
        list(read())


def test_a_public_key_may_be_any_bytes(path: Path) -> None:
    with GoDatabase(path) as database:
        database.register("\x00weird", None, "soon")
        database.connection.execute("INSERT INTO public_keys_to_monitor VALUES (9, x'ff', 1, 2)")
    with Reader(path) as reader:
        assert [each.public_key for each in reader.users()] == [b"\x00weird", b"\xff"]
