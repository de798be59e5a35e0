"""Ids that home has saved reach the other crawling hosts, and no other ids do."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pipeline.hub.connection import HubConnection
from pipeline.hub.known_ids import KnownIdsFeed, TakenId
from pipeline.process.clock import ManualClock
from stages import hub as hub_stage
from stages import saver, uplink
from tests.factories.events import SignedEvent, authors
from tests.fakes.postgres import Hub
from tests.integration.hub.hosts import Edge, edge_of, home_of
from tests.integration.stages.support import NOW, Running, World, wait_until

ALICE, MALLORY = authors(75, 2)


def notes(count: int, first: int = 0) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", kind=1, created_at=NOW + number) for number in range(first, first + count)]


@pytest.fixture
def hosts(hub: Hub, tmp_path: Path) -> Iterator[tuple[Edge, Edge, World]]:
    one, other, home = edge_of(hub, tmp_path), edge_of(hub, tmp_path, "ams1"), home_of(hub, tmp_path)
    home.register(ALICE.pubkey)
    yield one, other, home
    for each in (one, other, home):
        each.close()


def test_saved_event_of_one_host_is_known_to_the_other(hub: Hub, hosts: tuple[Edge, Edge, World]) -> None:
    one, other, home = hosts
    unwanted = [MALLORY.sign(f"{number}", kind=1, created_at=NOW + number) for number in range(5)]
    with (
        Running(one.context("uplink"), uplink.run),
        Running(other.context("uplink"), uplink.run),
        Running(home.context("hub"), hub_stage.run),
        Running(home.context("saver", {"EVENTS_SINK": "none"}), saver.run),
    ):
        wait_until(lambda: hub.rows("SELECT count(*) FROM hub.streams") == [(2,)], "connected")
        wait_until(lambda: other.value("SELECT count(*) FROM hub_plan") == 1, "followed")
        one.accept([*unwanted, *notes(20)])
        expected = {event.id for event in notes(20)}
        wait_until(lambda: other.seen() == expected, "known")
        other.accept(notes(30))
        wait_until(lambda: len(home.seen()) == 30, "saved")
    assert other.value("SELECT sum(events) FROM parcels") == 10, "none that was known crossed the line"
    assert expected <= home.seen()
    assert not {event.id for event in unwanted} & other.seen(), "what is not saved may be wanted later"


def test_event_that_became_known_while_it_waited_is_not_sent(hub: Hub, hosts: tuple[Edge, Edge, World]) -> None:
    _, other, _ = hosts
    other.accept(notes(5))
    other.execute("INSERT INTO authors (id, public_key) VALUES (900, ?)", bytes.fromhex(ALICE.pubkey))
    for event in notes(3):
        other.execute("INSERT INTO seen VALUES (?, 0, 0, ?, 1, 900)", bytes.fromhex(event.id), event.created_at)
    with Running(other.context("uplink"), uplink.run) as running:
        wait_until(lambda: not other.inbox_size() and not other.unsent(), "sent")
        assert running.metric("event_service_stage_discarded_total", stage="uplink", reason="known") == 3
    assert other.value("SELECT sum(events) FROM parcels") == 2


def test_ids_are_told_in_bounded_rows_that_end(hub: Hub) -> None:
    url = hub.add_host("fra1")
    with HubConnection.open(url) as edge:
        assert edge.call("known_v1", -1, 20) == [(0, b"")]
        with psycopg.connect(hub.owner) as owner:
            owner.execute("INSERT INTO hub.known (host, packed) SELECT 'ams1', '\\x01' FROM generate_series(1, 30)")
            owner.execute("INSERT INTO hub.known (host, packed) VALUES ('fra1', '\\x02')")
        assert edge.call("known_v1", 0, 20) == [(20, b"\x01" * 20)]
        assert edge.call("known_v1", 20, 20) == [(31, b"\x01" * 10)], "none of its own"
        assert edge.call("known_v1", 99, 20) == [(31, b"")], "the hub went back"


def test_id_that_is_never_saved_is_not_told(hosts: tuple[Edge, Edge, World]) -> None:
    _, _, home = hosts
    clock = ManualClock()
    feed = KnownIdsFeed(clock)
    feed.add("fra1", [TakenId(bytes(32), bytes(32), NOW, 1)])
    told: list[object] = []

    class Line:
        def call(self, *arguments: object) -> None:
            told.append(arguments)

    for _ in range(50):
        clock.advance(0.5)
        feed.turn(Line(), home.database)  # type: ignore[arg-type]
    assert told == []
    assert not feed._waiting
