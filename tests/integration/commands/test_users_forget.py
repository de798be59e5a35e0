"""`event-service users remove --forget`: beside a running saver, interrupted at each step, and repeated."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pipeline.commands.forgetting import forget
from pipeline.store import contacts
from pipeline.store.database import Database, Row, Tx
from pipeline.store.schema import open_database
from stages import saver
from tests.factories.events import authors
from tests.integration.commands.operator import Operator
from tests.integration.stages.support import NOW, Running, World

GONE, OTHER, FRIEND, STRANGER, *MANY = authors(73, 1304)
RELAYS = [["r", f"wss://relay-{number}.example"] for number in range(3)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two users; one follows 1,301 authors and has a relay list. Nothing is delivered yet."""
    made = World(tmp_path, {"EVENTS_TARGET_RELAY": "ws://127.0.0.9:9"})
    made.register(GONE.pubkey, OTHER.pubkey)
    with Running(made.context("saver"), saver.run):
        made.put([GONE.contact_list([FRIEND, *MANY], NOW), OTHER.contact_list([MANY[0]], NOW)])
        made.wait_saved()
        made.put(
            [
                GONE.sign("mine", created_at=NOW),
                GONE.sign("{}", kind=0, created_at=NOW),
                GONE.sign("", kind=10002, created_at=NOW, tags=RELAYS),
                GONE.sign("to the other", created_at=NOW, tags=[["p", OTHER.pubkey]]),
                FRIEND.sign("followed", created_at=NOW),
                MANY[0].sign("followed by both", created_at=NOW),
                STRANGER.sign("to both", created_at=NOW, tags=[["p", GONE.pubkey], ["p", OTHER.pubkey]]),
                STRANGER.sign("to one", created_at=NOW, tags=[["p", GONE.pubkey]]),
                OTHER.sign("of another", created_at=NOW),
            ]
        )
        made.wait_saved()
    yield made
    made.close()


KEPT = {"to the other", "followed by both", "to both", "of another"}


def assert_forgotten(world: World) -> None:
    """Nothing is there that was kept for the one who left alone; all else is."""
    rows: list[Row] = world.query("SELECT CAST(payload AS TEXT) ->> '$.content', event FROM payloads")
    texts = {text for text, _ in rows}
    # The other's own contact list has no text.
    assert texts == KEPT | {""}
    kept = {event for _, event in rows}
    assert {event for (event,) in world.query("SELECT event FROM events")} == kept
    assert {event for (event,) in world.query("SELECT event FROM outbox")} == kept
    with world.database.read() as tx:
        assert contacts.counts(tx, bytes.fromhex(GONE.pubkey)).followees == 0
        assert contacts.counts(tx, bytes.fromhex(OTHER.pubkey)).followees == 1
    assert world.value("SELECT count(*) FROM contact_slices") == 0
    assert world.query("SELECT writes, reads FROM relay_lists") == [("", "")]
    assert world.value("SELECT count(*) FROM relay_namers") == 0
    wanted = world.query("SELECT public_key FROM wanted JOIN authors ON authors.id = author WHERE refs > 0")
    assert {key.hex() for (key,) in wanted} == {OTHER.pubkey, MANY[0].pubkey}
    assert world.value("SELECT authors FROM wanted_budget") == 2
    assert len(world.seen()) == 11, "ids stay"


def test_it_says_what_was_dropped_and_what_stays(world: World) -> None:
    operator = Operator(world.path)
    told = operator.succeed("users", "remove", "--forget", GONE.pubkey).splitlines()
    assert told[:2] == [
        f"{GONE.pubkey} removed",
        f"{GONE.pubkey} forgotten: 6 events, 9 outbox rows, 1,301 followees, 1 relay list, 3 relay mentions",
    ]
    assert [line.partition(":")[0] for line in told[2:]] == ["stays here", "stays elsewhere"]
    assert_forgotten(world)
    again = operator.succeed("users", "remove", "--forget", GONE.pubkey).splitlines()
    assert again[:2] == [f"{GONE.pubkey} was not registered", f"{GONE.pubkey} forgotten: nothing was left"]
    assert_forgotten(world)


def test_without_the_option_everything_stays(world: World) -> None:
    Operator(world.path).succeed("users", "remove", GONE.pubkey)
    assert world.value("SELECT count(*) FROM payloads") == 11
    assert world.value("SELECT count(*) FROM contacts") == 1302


def test_one_whom_another_user_follows_keeps_events_and_relay_list(world: World) -> None:
    with Running(world.context("saver"), saver.run):
        world.put([OTHER.contact_list([MANY[0], GONE], NOW + 1)])
        world.wait_saved()
    told = Operator(world.path).succeed("users", "remove", "--forget", GONE.pubkey).splitlines()
    assert told[1] == f"{GONE.pubkey} forgotten: 2 events, 2 outbox rows, 1,301 followees"
    assert told[2] == f"{GONE.pubkey} is followed by another user, for whom events and relay list are kept"
    assert world.value("SELECT count(*) FROM relay_lists WHERE writes <> ''") == 1


def test_beside_a_running_saver_it_forgets_the_same(world: World) -> None:
    with Running(world.context("saver"), saver.run):
        Operator(world.path).succeed("users", "remove", "--forget", GONE.pubkey)
        world.wait_saved()
    assert_forgotten(world)


class Interrupted(Exception):
    """What the process dies of."""


class DyingDatabase:
    """A database whose process dies before one of its transactions that write."""

    def __init__(self, database: Database, writes: int) -> None:
        self._database = database
        self._left = writes

    def read(self) -> AbstractContextManager[Tx]:
        return self._database.read()

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Tx]:
        if self._left == 0:
            raise Interrupted
        self._left -= 1
        with self._database.write(durable=durable) as tx:
            yield tx


@pytest.mark.parametrize("writes", range(15))
def test_killed_between_two_steps_it_is_done_again(world: World, writes: int) -> None:
    """Whatever was done stays done, and the second run does the rest."""
    world.remove(GONE.pubkey)
    with open_database(world.path, world.clock) as database:
        dying: Database = DyingDatabase(database, writes)  # type: ignore[assignment]
        try:
            list(forget(dying, bytes.fromhex(GONE.pubkey)))
        except Interrupted:
            list(forget(database, bytes.fromhex(GONE.pubkey)))
    assert_forgotten(world)


def test_one_who_registers_again_in_the_midst_is_left_alone(world: World) -> None:
    world.remove(GONE.pubkey)
    with open_database(world.path, world.clock) as database:
        dying: Database = DyingDatabase(database, 3)  # type: ignore[assignment]
        with pytest.raises(Interrupted):
            list(forget(dying, bytes.fromhex(GONE.pubkey)))
        world.register(GONE.pubkey)
        before = world.value("SELECT count(*) FROM payloads")
        (line,) = forget(database, bytes.fromhex(GONE.pubkey))
        assert line == f"{GONE.pubkey} forgotten: nothing was left"
    assert world.value("SELECT count(*) FROM payloads") == before
