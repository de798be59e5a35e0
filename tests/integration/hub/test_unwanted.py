"""Events that home did not want when they came, and wants later: crawling hosts take them in again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.hub import unwanted_ids as exchange
from pipeline.hub.connection import HubConnection
from pipeline.hub.unwanted_ids import UnwantedSync
from pipeline.store import unwanted_ids, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.unwanted_ids import UnwantedId
from stages import hub as hub_stage
from stages import saver, uplink
from tests.factories.events import authors
from tests.fakes.postgres import Hub
from tests.integration.hub.hosts import Edge
from tests.integration.stages.support import NOW, Running, World, wait_until

ALICE, BOB = authors(72, 2)
NOTES = [ALICE.sign(f"{number}", kind=1, created_at=NOW + number) for number in range(20)]
OTHERS = [BOB.sign(f"{number}", kind=1, created_at=NOW + number) for number in range(20)]


def want(home: World, key: str) -> None:
    with home.database.write() as tx:
        wanted_authors.acquire(tx, Authors().intern_all(tx, [bytes.fromhex(key)]), NOW * 1000)


def generation(world: World) -> int:
    with world.database.read() as tx:
        return wanted_authors.latest_generation(tx)


def test_new_authors_are_crawled_with_nothing_known_that_home_dropped(edge: Edge, home: World) -> None:
    want(home, BOB.pubkey)
    edge.accept([*NOTES, *OTHERS])
    with (
        Running(edge.context("uplink"), uplink.run),
        Running(home.context("hub"), hub_stage.run),
        Running(home.context("saver"), saver.run),
    ):
        # In the order in which they were accepted, so that hers were dropped before.
        wait_until(lambda: home.seen() == {event.id for event in OTHERS} and not home.inbox_size(), "all are decided")
        want(home, ALICE.pubkey)
        wait_until(lambda: generation(edge) == generation(home), "followed")
        assert edge.seen() == {event.id for event in OTHERS}, "before the change is followed"
        assert home.value("SELECT count(*) FROM unwanted_ids") == 0
        # What a look-back brings.
        edge.accept(NOTES)
        wait_until(lambda: home.seen() == {event.id for event in (*NOTES, *OTHERS)}, "all are saved")


def test_one_host_alone_notes_nothing(tmp_path: Path) -> None:
    alone = World(tmp_path, {})
    alone.put(NOTES)
    with Running(alone.context("saver"), saver.run):
        wait_until(lambda: alone.inbox_size() == 0, "all are dropped")
    assert alone.value("SELECT count(*) FROM unwanted_ids") == 0
    alone.close()


class Exchange:
    """Home and a crawling host that knows the ids of all notes, without any stage."""

    def __init__(self, hub: Hub, edge: Edge, home: World) -> None:
        self.edge, self.home = edge, home
        self.from_home = HubConnection.open(hub.home)
        self.to_edge = HubConnection.open(hub.add_host("fra1"))
        self.sync = UnwantedSync()

    def know(self) -> None:
        with self.edge.database.write() as tx:
            tx.executemany(
                "INSERT OR IGNORE INTO seen (event_id, event, seen_at, created_at, kind, author) VALUES (?,1,1,?,1,1)",
                ((bytes.fromhex(each.id), each.created_at) for each in NOTES),
            )

    def drop(self, first: int, last: int) -> None:
        with self.home.database.write() as tx:
            unwanted_ids.add(tx, (UnwantedId(bytes.fromhex(each.id), each.created_at) for each in NOTES[first:last]))

    def hand_over(self) -> None:
        exchange.hand_over(self.from_home, self.home.database)

    def follow(self) -> None:
        while self.sync.turn(self.to_edge, self.edge.database):
            pass

    def close(self) -> None:
        self.from_home.close()
        self.to_edge.close()


@pytest.fixture
def between(hub: Hub, edge: Edge, home: World) -> Iterator[Exchange]:
    made = Exchange(hub, edge, home)
    made.know()
    yield made
    made.close()


def test_each_note_is_forgotten_once(between: Exchange) -> None:
    between.drop(0, 5)
    between.hand_over()
    between.drop(5, 7)
    between.hand_over()
    between.follow()
    assert between.edge.seen() == {event.id for event in NOTES[7:]}
    between.know()
    between.follow()
    assert between.edge.seen() == {event.id for event in NOTES}, "known again, for good"


def test_a_host_forgets_all_ids_when_too_many_were_unwanted(between: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwanted_ids, "MOST", 4)
    monkeypatch.setattr(exchange, "_SLICE", 3)
    for first in range(3):
        between.drop(first, first + 3)
    between.hand_over()
    between.follow()
    assert between.edge.seen() == set()
    between.know()
    between.drop(0, 1)
    between.hand_over()
    between.follow()
    assert between.edge.seen() == {event.id for event in NOTES[1:]}, "by their ids again"


def test_a_host_that_was_away_for_long_forgets_all_ids(between: Exchange, hub: Hub) -> None:
    between.drop(0, 1)
    between.hand_over()
    between.follow()
    assert len(between.edge.seen()) == len(NOTES) - 1
    for _ in range(1_002):
        between.from_home.call("put_unwanted_v1", b"", False)
    assert hub.rows("SELECT count(*) FROM hub.unwanted") == [(1_000,)]
    between.follow()
    assert between.edge.seen() == set()
