"""What hub, home and crawling hosts may lose, and that no event is lost by it."""

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pipeline.hub import parcel, unread_parcels
from pipeline.hub.connection import HubConnection, HubRefused
from pipeline.hub.parcel import SentEvent, encode_events
from pipeline.process.heartbeat import read_heartbeat
from pipeline.process.slots import acquire_slot
from pipeline.store.database import Row
from stages import crawler, uplink
from stages import hub as hub_stage
from tests.factories.events import SignedEvent, authors
from tests.fakes.net import free_port
from tests.fakes.postgres import Hub, PostgresServer, hub_in, programs_or_skip
from tests.integration.hub.hosts import RECEIVED_AT, RELAY, Edge, edge_of, home_of, inbox_ids
from tests.integration.stages.support import NOW, Running, World, wait_until

(ALICE,) = authors(73, 1)


def notes(first: int, last: int) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", kind=1, created_at=NOW + number) for number in range(first, last)]


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
            "UPDATE hub.streams s SET last = p.number, taken = least(taken, p.number), last_digest = p.digest,"
            " last_bytes = p.bytes_before_next FROM hub.parcels p WHERE p.stream = s.stream AND p.number = %s",
            (number,),
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
        tx.execute("UPDATE sent_parcels SET sent_at = 0, hub_at = 0")
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


def test_old_disk_of_an_edge_hands_over_what_it_has_and_ends(hub: Hub, edge: Edge, home: World, tmp_path: Path) -> None:
    send(edge, notes(0, 10))
    edge.close()
    shutil.move(tmp_path / "fra1", tmp_path / "old")
    url = edge.env["EVENTS_HUB"]
    fresh = Edge(tmp_path / "fra1", url, "fra1")
    send(fresh, notes(5, 20))
    # The old disk turns up again beside the new one, after its parcels are gone from the hub.
    take(home, notes(0, 20))
    hub.rows("DELETE FROM hub.parcels RETURNING 1")
    old = Edge(tmp_path / "old", url, "fra1")
    old.accept(notes(20, 700))
    with Running(old.context("uplink"), uplink.run) as running:
        error = running.wait_over()
    assert isinstance(error, HubRefused)
    assert "a newer database hands over" in str(error)
    assert "the hub has all that this one had" in str(error)
    assert old.inbox_size() == old.unsent() == 0
    old.close()
    send(fresh, notes(700, 701))
    take(home, notes(0, 701))
    fresh.close()


def copied(world: Edge, tmp_path: Path) -> None:
    """Let the host lose what it commits from here on, when `restored`."""
    world.database.restart_log()
    shutil.copytree(tmp_path / "fra1", tmp_path / "copy")


def restored(world: Edge, tmp_path: Path) -> Edge:
    world.close()
    shutil.rmtree(tmp_path / "fra1")
    shutil.move(tmp_path / "copy", tmp_path / "fra1")
    return Edge(tmp_path / "fra1", world.env["EVENTS_HUB"], "fra1")


def test_hub_and_edge_that_lose_the_same_commits_part_from_home(
    hub: Hub, edge: Edge, home: World, tmp_path: Path
) -> None:
    """Numbers that home has taken come again with other events."""
    send(edge, notes(0, 10))
    copied(edge, tmp_path)
    for first in range(10, 50, 10):
        send(edge, notes(first, first + 10))
    take(home, notes(0, 50))
    edge = restored(edge, tmp_path)
    go_back(hub, 1)
    # One parcel, where home has four more than the hub.
    send(edge, notes(50, 60))
    take(home, notes(0, 60))
    for first in range(60, 120, 10):
        send(edge, notes(first, first + 10))
    take(home, notes(0, 120))
    edge.close()


def test_edge_that_lost_commits_while_the_hub_was_away_begins_anew(
    hub: Hub, edge: Edge, home: World, tmp_path: Path
) -> None:
    """It has made as many parcels as the hub has by the time it comes to it, and they are others."""
    send(edge, notes(0, 10))
    copied(edge, tmp_path)
    send(edge, notes(10, 20))
    edge = restored(edge, tmp_path)
    away = {"EVENTS_HUB": f"postgresql://x@127.0.0.1:{free_port('127.0.0.1')}/x"}
    with Running(edge.context("uplink", away), uplink.run):
        edge.accept(notes(20, 30))
        wait_until(lambda: edge.unsent() == 1, "packed")
    send(edge, notes(30, 40))
    assert hub.rows("SELECT count(*) FROM hub.streams") == [(2,)]
    take(home, notes(0, 40))
    edge.close()


def test_hub_that_lost_what_is_not_kept_has_it_again_from_relays(hub: Hub, edge: Edge, home: World) -> None:
    """Nothing that this host has is deleted; what it knows as seen, and cursors, give way to the hub's."""
    for first in range(0, 40, 10):
        send(edge, notes(first, first + 10), complete_until=NOW + first)
    with edge.database.write() as tx:
        tx.execute("DELETE FROM parcels WHERE number <= 3")
    go_back(hub, 1)
    edge.execute("INSERT INTO held_hosts VALUES ('relay.example.com')")
    edge.accept(notes(40, 50))
    with Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: not edge.inbox_size() and not edge.unsent(), "sent")
        wait_until(lambda: edge.value("SELECT min(is_settled) FROM hub_losses") == 1, "settled")
    known = edge.seen()
    assert {event.id for event in notes(10, 30)}.isdisjoint(known), "what was lost comes in again"
    assert known >= {event.id for event in [*notes(0, 10), *notes(30, 50)]}
    assert edge.value("SELECT count(*) FROM cursors") == 0, "they vouch for what was lost"
    assert edge.value("SELECT count(*) FROM held_hosts") == 0, "relays are taken up from the hub's cursors"
    assert edge.value("SELECT count(*) FROM doubts") == 1
    assert hub.rows("SELECT count(*) FROM hub.cursors") == [(0,)]
    send(edge, notes(10, 30), complete_until=NOW)
    assert hub.rows("SELECT complete_until FROM hub.cursors") == [(NOW,)]
    take(home, notes(0, 50))


def test_loss_waits_for_crawlers_that_remember(hub: Hub, edge: Edge) -> None:
    """A crawler that runs ends by itself, and its successor knows of the loss."""
    send(edge, notes(0, 10), complete_until=NOW)
    with edge.database.write() as tx:
        tx.execute("DELETE FROM parcels")
    hub.rows("DELETE FROM hub.parcels RETURNING 1")
    hub.rows("DELETE FROM hub.streams RETURNING 1")
    with Running(edge.context("crawler"), crawler.run) as crawling:
        wait_until(lambda: edge.value("SELECT count(*) FROM loss_followers") == 1, "crawling")
        slot = acquire_slot(edge.runtime, "crawler", 0, database=edge.path)
        with Running(edge.context("uplink"), uplink.run):
            error = crawling.wait_over()
            assert isinstance(error, crawler.EventsLost)
            assert edge.value("SELECT is_settled FROM hub_losses") == 0
            assert edge.seen(), "nothing is dropped before"
            with Running(edge.context("crawler"), crawler.run):
                wait_until(lambda: edge.value("SELECT is_settled FROM hub_losses") == 1, "settled")
                assert not edge.seen()
        slot.release()


def hand_over_raw(hub: Hub, host: str, *parcels: tuple[bytes, bytes]) -> None:
    """What an uplink of another version hands over, in a stream of its own."""
    with HubConnection.open(hub.add_host(host)) as connection:
        name, digest = secrets.token_hex(16), b""
        connection.call("open_stream_v1", name, "")
        for number, (body, notes_) in enumerate(parcels, 1):
            ((answer, _, digest, *_),) = connection.call(
                "hand_over_v1", name, number, digest, body, notes_, [], [], [], [], [], []
            )
            assert answer == "taken"


def body_of(events: list[SignedEvent]) -> bytes:
    return encode_events([SentEvent(each.raw.encode(), RELAY, RECEIVED_AT) for each in events])


def later(body: bytes) -> bytes:
    """The same as a version to come may write it."""
    return body.replace(b'"version":1', b'"version":2')


def test_events_are_taken_whatever_their_notes_say(hub: Hub, home: World) -> None:
    hand_over_raw(hub, "fra1", (body_of(notes(0, 10)), b'{"of_later": 1, "cursors": [["new"]], "relays": []}'))
    take(home, notes(0, 10))


def test_parcel_of_a_newer_version_is_kept_until_home_can_read_it(
    hub: Hub, home: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over_raw(hub, "fra1", (later(body_of(notes(0, 10))), b""), (body_of(notes(10, 20)), b""))
    with Running(home.context("hub"), hub_stage.run):
        wait_until(lambda: home.inbox_size() == 10, "the readable one is taken")
    assert home.value("SELECT count(*) FROM unread_parcels") == 1
    monkeypatch.setattr(parcel, "_VERSION", 2)
    take(home, notes(0, 20))
    assert home.value("SELECT count(*) FROM unread_parcels") == 0


def test_stream_waits_where_there_is_no_room_for_what_is_not_read(
    hub: Hub, home: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread_parcels, "MOST_BYTES", 1)
    hand_over_raw(hub, "fra1", (later(body_of(notes(0, 5))), b""))
    with Running(home.context("hub"), hub_stage.run) as running:
        wait_until(lambda: home.value("SELECT count(*) FROM unread_parcels") == 1, "set aside")
        hand_over_raw(hub, "fra1", (later(body_of(notes(5, 10))), b""), (body_of(notes(10, 20)), b""))

        def problem() -> str:
            found = read_heartbeat(home.runtime, running.ctx.slot.name, home.clock)
            return "" if found is None else found.status

        wait_until(lambda: "parcels of fra1 cannot be read and wait in the hub" in problem(), "reported")
        hand_over_raw(hub, "ams1", (body_of(notes(20, 30)), b""))
        wait_until(lambda: home.inbox_size() == 10, "others go on")
    assert set(inbox_ids(home)) == {event.id for event in notes(20, 30)}
    monkeypatch.setattr(parcel, "_VERSION", 2)
    with Running(home.context("hub"), hub_stage.run):
        wait_until(lambda: home.inbox_size() == 20, "the rest, but for what is of an older version now")
    assert home.value("SELECT count(*) FROM unread_parcels") == 1


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
        # Counts are shown behind the commit.
        wait_until(lambda: running.metric("event_service_stage_in_total", stage="hub") >= 1_500, "counted")


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
