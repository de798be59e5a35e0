"""What hub, home and crawling hosts may lose, and that no event is lost by it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pipeline.hub.connection import HubRefused
from pipeline.store.database import Row
from stages import hub as hub_stage
from stages import uplink
from tests.factories.events import SignedEvent, authors
from tests.fakes.net import free_port
from tests.fakes.postgres import Hub, PostgresServer, hub_in, programs_or_skip
from tests.integration.hub.hosts import Edge, edge_of, home_of, inbox_ids
from tests.integration.stages.support import NOW, Running, World, wait_until

(ALICE,) = authors(73, 1)


def notes(first: int, last: int) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", kind=1, created_at=NOW + number) for number in range(first, last)]


@pytest.fixture
def edge(hub: Hub, tmp_path: Path) -> Iterator[Edge]:
    made = edge_of(hub, tmp_path)
    yield made
    made.close()


@pytest.fixture
def home(hub: Hub, tmp_path: Path) -> Iterator[World]:
    made = home_of(hub, tmp_path)
    yield made
    made.close()


def send(edge: Edge, events: list[SignedEvent], complete_until: int | None = None) -> None:
    """Accept the events and run the uplink until the hub has them."""
    edge.accept(events, complete_until)
    with Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: not edge.inbox_size() and not edge.unsent(), "sent")


def take(home: World, events: list[SignedEvent]) -> None:
    """Run the stage of home until it has so many."""
    with Running(home.context("hub"), hub_stage.run):
        wait_until(lambda: home.inbox_size() >= len(events), "taken")
    assert set(inbox_ids(home)) == {event.id for event in events}


def go_back(hub: Hub, number: int) -> None:
    """Let the hub have nothing beyond this parcel, as after a restore, and its connections break."""
    with psycopg.connect(hub.owner) as connection:
        connection.execute("DELETE FROM hub.parcels WHERE number > %s", (number,))
        connection.execute(
            "UPDATE hub.streams SET last = %s, taken = least(taken, %s), last_bytes = 256 * %s", (number,) * 3
        )
        connection.execute("DELETE FROM hub.cursors")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_hub_that_went_back_has_all_again(hub: Hub, edge: Edge, home: World) -> None:
    events = notes(0, 600)
    send(edge, events, complete_until=NOW)
    go_back(hub, 1)
    send(edge, notes(600, 601))
    assert hub.rows("SELECT complete_until FROM hub.cursors") == [(NOW,)], "with the cursors"
    take(home, notes(0, 601))


def test_hub_that_was_away_for_long_and_went_back_has_all_again(hub: Hub, edge: Edge, home: World) -> None:
    """What it had last may be lost with it, however long it is away."""
    send(edge, notes(0, 300))
    with edge.database.write() as tx:
        tx.execute("UPDATE parcels SET sent_at = 0")
    away = {"EVENTS_HUB": f"postgresql://x@127.0.0.1:{free_port('127.0.0.1')}/x"}
    with Running(edge.context("uplink", away), uplink.run):
        edge.accept(notes(300, 301))
        wait_until(lambda: not edge.inbox_size(), "packed")
    go_back(hub, 1)
    send(edge, notes(301, 302))
    take(home, notes(0, 302))


def test_hub_that_goes_back_behind_home_changes_nothing_there(hub: Hub, edge: Edge, home: World) -> None:
    events = notes(0, 500)
    with Running(edge.context("uplink"), uplink.run), Running(home.context("hub"), hub_stage.run):
        edge.accept(events)
        wait_until(lambda: home.inbox_size() == 500 and not edge.unsent(), "taken")
        go_back(hub, 1)
        edge.accept(notes(500, 510))
        wait_until(lambda: home.inbox_size() == 510, "taken")
    assert len(set(inbox_ids(home))) == 510


def test_lost_disk_of_an_edge_is_a_new_stream(hub: Hub, edge: Edge, home: World, tmp_path: Path) -> None:
    send(edge, notes(0, 10))
    edge.close()
    shutil.move(tmp_path / "fra1", tmp_path / "old")
    url = edge.env["EVENTS_HUB"]
    fresh = Edge(tmp_path / "fra1", url, "fra1")
    send(fresh, notes(5, 20))
    take(home, notes(0, 20))
    fresh.close()
    # The old disk may turn up again beside the new one.
    old = Edge(tmp_path / "old", url, "fra1")
    old.accept(notes(30, 31))
    with Running(old.context("uplink"), uplink.run) as running:
        error = running.wait_over()
    assert isinstance(error, HubRefused)
    assert "closed by a newer one" in str(error)
    old.close()


def test_edge_restored_from_an_older_copy_goes_on(hub: Hub, edge: Edge, home: World, tmp_path: Path) -> None:
    send(edge, notes(0, 10))
    edge.close()
    shutil.copytree(tmp_path / "fra1", tmp_path / "copy")
    edge = Edge(tmp_path / "fra1", edge.env["EVENTS_HUB"], "fra1")
    send(edge, notes(10, 20))
    edge.close()
    shutil.rmtree(tmp_path / "fra1")
    shutil.move(tmp_path / "copy", tmp_path / "fra1")
    restored = Edge(tmp_path / "fra1", edge.env["EVENTS_HUB"], "fra1")
    send(restored, notes(20, 30))
    take(home, notes(0, 30))
    restored.close()


def test_home_restored_from_an_older_copy_reads_the_log_again(
    hub: Hub, edge: Edge, home: World, tmp_path: Path
) -> None:
    send(edge, notes(0, 10))
    take(home, notes(0, 10))
    home.close()
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    home = World(tmp_path / "home", home.env)
    send(edge, notes(10, 20))
    take(home, notes(0, 20))
    home.close()
    shutil.rmtree(tmp_path / "home")
    shutil.move(tmp_path / "copy", tmp_path / "home")
    restored = World(tmp_path / "home", home.env)
    take(restored, notes(0, 20))
    restored.close()


def test_parcels_that_the_hub_dropped_are_reported(hub: Hub, edge: Edge, home: World) -> None:
    for first in range(0, 40, 10):
        send(edge, notes(first, first + 10))
    with psycopg.connect(hub.owner) as connection:
        connection.execute("DELETE FROM hub.parcels WHERE number BETWEEN 2 AND 3")
    with Running(home.context("hub"), hub_stage.run) as running:
        wait_until(lambda: running.metric("event_service_stage_errors_total", stage="hub", kind="parcels-missing") > 0)
        wait_until(lambda: home.inbox_size() == 20, "taken")


def test_home_that_is_away_holds_up_the_edges(hub: Hub, edge: Edge, home: World) -> None:
    """What is beyond the bound waits in the edge's inbox, which its crawlers look at before they read on."""
    with psycopg.connect(hub.owner) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION hub.most_untaken_bytes() RETURNS bigint LANGUAGE sql IMMUTABLE"
            " AS 'SELECT 100000::bigint'"
        )
    events = notes(0, 3_000)
    edge.accept(events)
    with Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: edge.unsent() == 8, "full")
        ((kept,),) = hub.rows("SELECT count(*) FROM hub.parcels")
        assert isinstance(kept, int)
        assert 1 <= kept <= 3
        assert edge.inbox_size() == 3_000 - 200 * (8 + kept)
        with Running(home.context("hub"), hub_stage.run):
            wait_until(lambda: home.inbox_size() == 3_000, "taken")
    assert set(inbox_ids(home)) == {event.id for event in events}


def test_home_with_a_full_inbox_takes_no_more(hub: Hub, edge: Edge, home: World) -> None:
    send(edge, notes(0, 1_500))
    marks = {"EVENTS_BACKPRESSURE_HIGH": "300", "EVENTS_BACKPRESSURE_LOW": "100", "EVENTS_SINK": "none"}
    with Running(home.context("hub", marks), hub_stage.run) as running:
        wait_until(lambda: home.inbox_size() > 300, "full")
        assert home.inbox_size() <= 1_000, "what one look brings is beyond the mark at most"
        taken: set[bytes] = set()

        def save() -> bool:
            with home.database.write() as tx:
                rows: list[Row] = tx.execute("DELETE FROM inbox RETURNING event_id").fetchall()
            taken.update(event_id for (event_id,) in rows)
            return len(taken) == 1_500

        wait_until(save, "taken")
        assert running.metric("event_service_stage_in_total", stage="hub") >= 1_500


def _restart(server: PostgresServer) -> None:
    server.kill()
    server.start()


def _stop_and_start(server: PostgresServer) -> None:
    server.stop()
    server.start()


@pytest.mark.parametrize("interrupt", [_restart, _stop_and_start])
def test_hub_that_dies_or_restarts_loses_nothing(tmp_path: Path, interrupt: Callable[[PostgresServer], None]) -> None:
    server = PostgresServer(programs_or_skip())
    try:
        server.start()
        with hub_in(server) as hub:
            edge, home = edge_of(hub, tmp_path), home_of(hub, tmp_path)
            with Running(edge.context("uplink"), uplink.run), Running(home.context("hub"), hub_stage.run):
                edge.accept(notes(0, 1_000))
                wait_until(lambda: home.inbox_size() > 0, "under way")
                interrupt(server)
                edge.accept(notes(1_000, 1_200))
                wait_until(lambda: home.inbox_size() == 1_200 and not edge.unsent(), "taken")
            assert set(inbox_ids(home)) == {event.id for event in notes(0, 1_200)}
            edge.close()
            home.close()
    finally:
        server.close()
