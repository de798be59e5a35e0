"""`event-service import-go PATH`: what comes over from each version of the Go service's database, and what does not."""

import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import time

import pytest

from pipeline.go_import.swap import workspace
from tests.factories.events import SignedEvent, authors, forge_content, forge_signature
from tests.factories.workload import Workload
from tests.fakes.child import Child
from tests.fakes.go_database import GoDatabase, GoSchema
from tests.fakes.net import pause
from tests.integration.commands.operator import Operator
from tests.support.seeds import seeds

WAIT_S = 60.0
NOW = int(time())
ALICE, BOB, CAROL, DAVE, ERIN = authors(61, 5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "go").mkdir()
    return tmp_path / "go" / "go.db"


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "events.db")


@dataclass(frozen=True, slots=True)
class Content:
    """What a database of ours holds, in terms that do not depend on the numbers that were given."""

    users: set[tuple[str, int, int]]
    follows: set[tuple[str, str]]
    lists: dict[str, tuple[str, int]]
    relays: set[tuple[str, str]]
    seen: dict[str, tuple[int, int, str | None]]
    inbox: set[str]
    wanted: set[str]


def content(path: Path) -> Content:
    connection = sqlite3.connect(path)
    try:
        # One moment of a database that a running saver may change.
        connection.execute("BEGIN")
        keys = {number: key.hex() for number, key in connection.execute("SELECT id, public_key FROM authors")}
        listed = connection.execute("SELECT follower, event_id, created_at FROM contact_lists")
        seen = connection.execute("SELECT event_id, created_at, kind, author FROM seen")
        users = connection.execute("SELECT author, created_at, updated_at FROM monitored WHERE removed_at IS NULL")
        return Content(
            users={(keys[author], created_at, updated_at) for author, created_at, updated_at in users},
            follows={(keys[a], keys[b]) for a, b in connection.execute("SELECT follower, followee FROM contacts")},
            lists={keys[follower]: (event_id.hex(), created_at) for follower, event_id, created_at in listed},
            relays=set(connection.execute("SELECT address, source FROM relays")),
            seen={event_id.hex(): (at, kind, keys.get(author)) for event_id, at, kind, author in seen},
            inbox={event_id.hex() for (event_id,) in connection.execute("SELECT event_id FROM inbox")},
            wanted={keys[author] for (author,) in connection.execute("SELECT author FROM wanted WHERE refs > 0")},
        )
    finally:
        connection.close()


UNDATED = ("ff" * 32, 0)
LIST = ALICE.contact_list([BOB, CAROL], NOW - 100)
DONE = BOB.sign("handed on", created_at=NOW - 90)
NOT_DONE = CAROL.sign("not handed on", created_at=NOW - 80)


def fill(database: GoDatabase) -> None:
    database.done(LIST, at=NOW - 50)
    database.done(DONE, at=NOW - 40)
    database.save(NOT_DONE, at=NOW - 30)
    database.relay("wss://Relay.Example/")
    database.relay("not an address")
    database.register(ALICE, NOW - 5000, NOW - 1000)


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "journal"])
@pytest.mark.parametrize("schema", GoSchema)
def test_every_version_of_the_schema_comes_over(source: Path, operator: Operator, schema: GoSchema, wal: bool) -> None:
    database = GoDatabase(source, schema, wal=wal)
    fill(database)
    database.leave_log()
    before = {each.name: each.read_bytes() for each in source.parent.iterdir()}
    assert ("go.db-wal" in before) is wal

    said = operator.succeed("import-go", str(source))

    assert {each.name: each.read_bytes() for each in source.parent.iterdir()} == before
    oldest = schema is GoSchema.OLDEST
    assert f"delivered events: {3 if oldest else 2} taken" in said
    assert "relays: 1 taken, 0 known already, 1 refused" in said
    found = content(operator.path)
    known: dict[str, tuple[int, int, str | None]] = {}
    for each in (LIST, DONE, *([NOT_DONE] if oldest else [])):
        known[each.id] = (each.created_at, each.kind, each.pubkey)
    assert found == Content(
        users={(ALICE.pubkey, (NOW - 5000) * 1000, (NOW - 1000) * 1000)},
        follows={(ALICE.pubkey, BOB.pubkey), (ALICE.pubkey, CAROL.pubkey)},
        lists={ALICE.pubkey: (LIST.id, LIST.created_at)},
        relays={("wss://relay.example", "go-import")},
        seen=known,
        inbox=set() if oldest else {NOT_DONE.id},
        wanted={ALICE.pubkey, BOB.pubkey, CAROL.pubkey},
    )
    assert [each.name for each in operator.path.parent.iterdir() if "import" in each.name] == []


def _gone(database: GoDatabase) -> None:
    database.forget(LIST)


def _strangers(database: GoDatabase) -> None:
    """The number was given anew to what came next."""
    number = database.number_of(LIST)
    database.forget(LIST)
    stranger = DAVE.contact_list([ERIN], NOW - 10)
    database.save(stranger)
    database.connection.execute("UPDATE events SET id = ? WHERE event_id = ?", (number, stranger.id))


def _another_kind(database: GoDatabase) -> None:
    number = database.number_of(LIST)
    database.forget(LIST)
    other = ALICE.sign("a note", created_at=NOW - 10)
    database.save(other)
    database.connection.execute("UPDATE events SET id = ? WHERE event_id = ?", (number, other.id))


def _replaced_payload(payload: str | bytes | None) -> Callable[[GoDatabase], None]:
    def replace(database: GoDatabase) -> None:
        database.connection.execute("UPDATE events SET payload = ? WHERE event_id = ?", (payload, LIST.id))

    return replace


def _of_the_future(database: GoDatabase) -> None:
    _replaced_payload(ALICE.contact_list([ERIN], NOW + 5000).raw)(database)


@pytest.mark.parametrize(
    "spoil",
    [
        _gone, _strangers, _another_kind, _of_the_future, _replaced_payload(None), _replaced_payload(b"\xff{"),
        _replaced_payload(forge_signature(LIST).raw), _replaced_payload(forge_content(LIST).raw),
    ],
    ids=["gone", "stranger", "kind", "future", "null", "garbage", "signature", "hash"],
)  # fmt: skip
def test_contacts_whose_event_cannot_be_trusted_give_way_to_any_list(
    source: Path, operator: Operator, spoil: Callable[[GoDatabase], None]
) -> None:
    with GoDatabase(source) as database:
        fill(database)
        spoil(database)
        database.save(ALICE.contact_list([DAVE], 0))
    said = operator.succeed("import-go", str(source))
    assert "1 without a time" in said
    found = content(operator.path)
    assert found.lists[ALICE.pubkey] == UNDATED
    assert {followee for follower, followee in found.follows if follower == ALICE.pubkey} == {BOB.pubkey, CAROL.pubkey}
    assert found.wanted >= {ALICE.pubkey, BOB.pubkey, CAROL.pubkey}

    with Child(operator.command("stage", "saver"), env=operator.env) as saver:
        _wait(lambda: not content(operator.path).inbox, saver)
    found = content(operator.path)
    assert {followee for follower, followee in found.follows if follower == ALICE.pubkey} == {DAVE.pubkey}
    assert found.lists[ALICE.pubkey][1] == 0
    assert BOB.pubkey not in found.wanted


def test_a_signed_list_counts_for_what_it_says_itself(source: Path, operator: Operator) -> None:
    """The number in `contacts_events` was given anew, to another list of the same author."""
    with GoDatabase(source) as database:
        database.done(LIST)
        database.contacts(ALICE.pubkey, [DAVE.pubkey, ERIN.pubkey], database.number_of(LIST))
    operator.succeed("import-go", str(source))
    found = content(operator.path)
    assert found.lists == {ALICE.pubkey: (LIST.id, LIST.created_at)}
    assert found.follows == {(ALICE.pubkey, BOB.pubkey), (ALICE.pubkey, CAROL.pubkey)}


def test_the_newest_list_that_is_there_counts(source: Path, operator: Operator) -> None:
    """That service let an older one win once the newer one's event was gone, or its own wrong number said so."""
    newest, future = ALICE.contact_list([ERIN], NOW - 20), ALICE.contact_list([CAROL], NOW + 5000)
    forged = forge_signature(ALICE.contact_list([CAROL], NOW - 10))
    others = BOB.contact_list([DAVE], NOW - 60)
    with GoDatabase(source) as database:
        database.done(newest)
        database.done(LIST)
        for event in (forged, future):
            database.done(event)
        database.done(others)
        database.contacts(ALICE.pubkey, [BOB.pubkey, CAROL.pubkey], database.number_of(LIST))
        database.contacts(BOB.pubkey, [ERIN.pubkey], 999_999)
        database.register(ALICE, NOW - 9000, NOW - 9000)
    said = operator.succeed("import-go", str(source))
    assert "  2 contact lists among them, each newer than the one before" in said.splitlines()
    found = content(operator.path)
    assert found.lists == {ALICE.pubkey: (newest.id, newest.created_at), BOB.pubkey: (others.id, others.created_at)}
    assert found.follows == {(ALICE.pubkey, ERIN.pubkey), (BOB.pubkey, DAVE.pubkey)}
    assert found.wanted == {ALICE.pubkey, ERIN.pubkey}


def test_who_named_a_relay_comes_over(source: Path, operator: Operator) -> None:
    """From the events that are still there: signed ones, each author once; a user's count as a user's."""
    named = [("r", "wss://named.example"), ("r", "wss://new.example")]
    with GoDatabase(source) as database:
        database.relay("wss://named.example")
        database.relay("wss://unnamed.example")
        for author in (ALICE, BOB):
            database.done(author.sign("", kind=10002, created_at=NOW - 60, tags=named[:1]))
        database.done(BOB.sign("", kind=10002, created_at=NOW - 50, tags=named))
        database.done(forge_signature(CAROL.sign("", kind=10002, created_at=NOW - 50, tags=named)))
        database.register(ALICE.pubkey.upper(), NOW - 9000, NOW - 9000)
    for _ in range(2):
        operator.succeed("import-go", str(source))
        connection = sqlite3.connect(operator.path)
        rows = connection.execute("SELECT address, source = 'go-import', namers, named_by_user FROM relays").fetchall()
        connection.close()
        assert sorted(rows) == [
            ("wss://named.example", 1, 2, 1),
            ("wss://new.example", 0, 1, 0),
            ("wss://unnamed.example", 1, 0, 0),
        ]


def test_rows_that_nobody_can_read_are_counted_and_harm_nothing(source: Path, operator: Operator) -> None:
    good = BOB.sign("good", created_at=NOW - 5)
    with GoDatabase(source) as database:
        execute = database.connection.execute
        for payload in ("{", '{"eventID":"ab"}', None, b"\xff", f'{{"eventID":"{"0" * 64}"}}'):
            database.message(payload, at=NOW)
        for number, payload in enumerate((None, b"", b"[]", b"\xff\xfe", NOT_DONE.raw)):
            database.save(BOB.sign(f"spoiled {number}", created_at=NOW - 9), spoiled=(payload,))
        database.save(forge_signature(BOB.sign("forged", created_at=NOW - 8)))
        database.save(forge_content(BOB.sign("changed", created_at=NOW - 8)))
        database.save(good)
        execute("INSERT INTO events (event_id, processed_at) VALUES ('short', 1), (NULL, 1), (x'ff', 'soon')")
        execute("INSERT INTO events (event_id, processed_at) VALUES (?, 'soon')", ("ab" * 32,))
        database.register("nobody", 1, 1)
        execute("INSERT INTO public_keys_to_monitor (public_key, created_at) VALUES (?, 'x')", (ALICE.pubkey.upper(),))
        database.relay(b"\xff\xfe")
        database.relay(None)
        database.relay("https://")
        database.contacts(DAVE.pubkey, ["no key", ERIN.pubkey], 999_999)
        database.contacts("junk", [ERIN.pubkey], None)
        execute("INSERT INTO contacts_followees VALUES (777, 778), ('x', 'y')")
    said = operator.succeed("import-go", str(source))
    found = content(operator.path)
    assert found.inbox == {good.id}
    assert found.seen == {"ab" * 32: (0, -1, None)}
    assert [(user, updated_at >= NOW * 1000) for user, _, updated_at in found.users] == [(ALICE.pubkey, True)]
    assert found.relays == set()
    assert found.follows == {(DAVE.pubkey, ERIN.pubkey)}
    lines = said.splitlines()
    assert "delivered events: 1 taken, 0 known already, 3 refused" in lines
    assert "relays: 0 taken, 0 known already, 3 refused" in lines
    assert "contact lists: 1 taken, 0 known already, 2 refused" in lines
    assert "  1 followees left out, being no public keys" in lines
    assert "registered users: 1 taken, 0 known already, 1 refused" in lines
    assert "pending events: 1 taken, 0 known already, 12 refused" in lines
    assert "  1 refused: the event is missing" in lines
    assert "  1 refused: the payload is another event's" in lines
    assert "  1 refused: sig is not a signature of id by pubkey" in lines


def test_a_second_import_takes_what_is_new_and_nothing_twice(source: Path, operator: Operator) -> None:
    with GoDatabase(source) as database:
        fill(database)
        database.contacts(DAVE.pubkey, [ERIN.pubkey], None)
    operator.succeed("import-go", str(source))
    first = content(operator.path)
    said = operator.succeed("import-go", str(source))
    assert [line for line in said.splitlines() if " taken" in line and " 0 taken" not in line] == []
    assert content(operator.path) == first

    newer = ALICE.contact_list([ERIN], NOW - 5)
    with GoDatabase(source) as database:
        database.finish(NOT_DONE, at=NOW)
        database.done(newer)
        database.contacts(DAVE.pubkey, [BOB.pubkey], None)
        database.register(CAROL, NOW, NOW)
        database.register(ERIN, NOW, NOW)
    operator.succeed("users", "remove", ALICE.pubkey)
    operator.succeed("users", "block", ERIN.pubkey)
    said = operator.succeed("import-go", str(source))
    assert "2 refused: the registration was ended here" in said
    found = content(operator.path)
    assert found.lists[ALICE.pubkey] == (newer.id, newer.created_at)
    assert found.follows == {(ALICE.pubkey, ERIN.pubkey), (DAVE.pubkey, BOB.pubkey)}
    assert {user for user, _, _ in found.users} == {CAROL.pubkey}
    assert set(found.seen) == {LIST.id, DONE.id, NOT_DONE.id, newer.id}


def _large(source: Path, seed: int, events: int) -> list[SignedEvent]:
    """A database with something of everything, enough for an import of some hundred milliseconds."""
    workload = Workload(seed=seed, events=events, authors=80, since=NOW - 3000, until=NOW - 60, registered=3)
    made = list(workload.generate())
    with GoDatabase(source) as database, database.connection:
        for number, event in enumerate(made):
            (database.done if number % 3 else database.save)(event)
        for user in workload.registered_users():
            database.register(user, NOW - 9000, NOW - 9000)
        for number in range(events // 10):
            database.relay(f"wss://relay-{number}.example")
    return made


@pytest.mark.parametrize("seed", seeds(2))
def test_an_import_that_is_killed_again_and_again_ends_up_the_same(tmp_path: Path, source: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    _large(source, seed, 3000)
    whole, killed = Operator(tmp_path / "whole.db"), Operator(tmp_path / "killed.db")
    whole.succeed("import-go", str(source))
    for _ in range(6):
        with Child(killed.command("import-go", str(source)), env=killed.env) as child:
            if rng.random() < 0.8:
                child.wait_line(rng.choice(("^delivered events", "^relays", "^contact lists", "^registered")), WAIT_S)
            pause(rng.uniform(0, 0.3))
            child.kill()
    killed.succeed("import-go", str(source))
    assert content(killed.path) == content(whole.path)
    assert [each.name for each in tmp_path.iterdir() if "import" in each.name] == []


@pytest.mark.parametrize("mode", ["wal", "journal"])
def test_a_source_at_work_is_imported_and_not_disturbed(source: Path, operator: Operator, mode: str) -> None:
    """Its events bear no signatures, so that what is not handed on is refused, and all of it counted."""
    with Child.module("tests.fakes.go_writer", str(source), mode) as writer:
        writer.wait_line("^working$", WAIT_S)
        said = [operator.succeed("import-go", str(source))]

        def imports_more() -> bool:
            said.append(operator.succeed("import-go", str(source)))
            return "delivered events: 0 taken" not in said[-1]

        _wait(imports_more, writer)
        names = {each.name for each in source.parent.iterdir()}
    assert names <= {"go.db", "go.db-wal", "go.db-shm", "go.db-journal"}
    assert all("refused: id is not the hash of the event" in each for each in said)
    assert content(operator.path).inbox == set()


def test_two_imports_at_once_do_not_meet(source: Path, operator: Operator) -> None:
    with GoDatabase(source) as database:
        fill(database)
    with workspace(operator.path):
        assert "another import is at work" in operator.fail("import-go", str(source))
    operator.succeed("import-go", str(source))


def test_what_cannot_be_imported_says_so_in_one_line(tmp_path: Path, source: Path, operator: Operator) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("somebody's notes\n" * 500)
    for arguments, why in (
        ((str(tmp_path / "missing.db"),), "there is no file"),
        ((str(notes),), "cannot be read"),
        ((str(operator.path),), "use --in-place"),
    ):
        (line,) = [line for line in operator.fail("import-go", *arguments).splitlines() if "cannot import" in line]
        assert why in line
    assert "either PATH or --in-place" in operator.fail("import-go", code=2)
    assert not operator.path.exists()


def _wait(enough: Callable[[], bool], child: Child) -> None:
    for _ in range(round(WAIT_S / 0.05)):
        if enough():
            return
        assert child.running, child.tail()
        pause(0.05)
    raise TimeoutError("it did not come to that")
