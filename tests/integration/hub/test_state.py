"""How crawling hosts stand, as home knows it, and home's backfill jobs on their way to them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store import backfills, drops, gaps, host_counts, hosts
from pipeline.store.backfills import BackfillProgress
from pipeline.store.database import Tx
from pipeline.store.drops import Drop
from pipeline.store.gaps import GapChanges, OpenGap
from stages import hub as hub_stage
from stages import uplink
from tests.fakes.postgres import Hub
from tests.integration.hub.hosts import RELAY, Edge, edge_of, home_of
from tests.integration.hub.test_road import notes
from tests.integration.stages.support import NOW, Running, World, wait_until

HOST_KEY = "relay.example.com"


@pytest.fixture
def home(hub: Hub, tmp_path: Path) -> Iterator[World]:
    made = home_of(hub, tmp_path)
    with made.database.write() as tx:
        tx.execute(
            "INSERT INTO relays (id, address, source, first_seen, last_seen, operator, state)"
            " VALUES (70, ?, 'x', 0, 0, 'added', 'connected')",
            (RELAY,),
        )
    yield made
    made.close()


def count(home: World, stage: str, what: str) -> int:
    """What home shows of one stage of all hosts."""
    with home.database.read() as tx:
        found = [(dict(each.labels), each.value) for each in host_counts.counters(tx) if each.name == "tally"]
    return sum(int(value) for labels, value in found if labels["slot"].startswith(stage) and labels["what"] == what)


def holder(home: World) -> str:
    with home.database.read() as tx:
        found = hosts.holder(tx, HOST_KEY)
    return "" if found is None else found.holder


def test_job_of_home_reaches_the_holder_and_its_end_follows_its_events(hub: Hub, edge: Edge, home: World) -> None:
    with home.database.write() as tx:
        job = backfills.add(tx, NOW - 100, NOW, [], [70], 5_000)
    with Running(home.context("hub"), hub_stage.run), Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: edge.query("SELECT id, since, until, created_at FROM backfills") == [
            (job, NOW - 100, NOW, 5_000)
        ], "job at the edge")  # fmt: skip
        wait_until(lambda: edge.value("SELECT count(*) FROM backfill_relays WHERE relay = 7") == 1)
        with edge.database.write() as tx:
            backfills.put_progress(tx, [BackfillProgress(job, 7, parts=4, done=1, events=9)])
        wait_until(lambda: _progress(home, job) == [BackfillProgress(job, 70, 4, 1, 0, 9)], "progress at home")
    # The end is noted with events that the hub does not have.
    edge.accept(notes(3), complete_until=NOW)
    with edge.database.write() as tx:
        backfills.put_progress(tx, [BackfillProgress(job, 7, parts=4, done=4, incomplete=1, events=12, is_over=True)])
    with Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: hub.rows("SELECT count(*) FROM hub.parcels") != [(0,)] and not edge.unsent())
    assert not any(each.is_over for each in _progress(home, job)), "home has nothing of it yet"
    with Running(home.context("hub"), hub_stage.run), Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: all(each.is_over for each in _progress(home, job)), "end at home")
        assert home.inbox_size() == 3, "its events are here"
        wait_until(lambda: edge.value("SELECT count(*) FROM backfills") == 0, "forgotten at the edge")
    assert hub.rows("SELECT count(*) FROM hub.backfills") == [(0,)]
    assert _progress(home, job) == [BackfillProgress(job, 70, 4, 4, 1, 12, is_over=True)]


def test_cancelled_job_leaves_the_edge(hub: Hub, edge: Edge, home: World) -> None:
    with home.database.write() as tx:
        job = backfills.add(tx, NOW - 100, NOW, [b"\1" * 32], [70], 5_000)
    with Running(home.context("hub"), hub_stage.run), Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: edge.query("SELECT authors FROM backfills") == [(b"\1" * 32,)], "job at the edge")
        with home.database.write() as tx:
            assert backfills.cancel(tx, job, 6_000)
        wait_until(lambda: edge.value("SELECT count(*) FROM backfills") == 0, "gone")


def test_job_moves_with_its_relay_to_the_next_holder(hub: Hub, edge: Edge, home: World, tmp_path: Path) -> None:
    with home.database.write() as tx:
        job = backfills.add(tx, NOW - 100, NOW, [], [70], 5_000)
    other = edge_of(hub, tmp_path, "ams1")
    with (
        Running(home.context("hub"), hub_stage.run),
        Running(edge.context("uplink"), uplink.run),
        Running(other.context("uplink"), uplink.run),
    ):
        wait_until(lambda: holder(home) != "", "held")
        first, second = (edge, other) if holder(home) == "fra1" else (other, edge)
        wait_until(lambda: first.value("SELECT count(*) FROM backfill_relays") == 1, "job at the holder")
        assert second.value("SELECT count(*) FROM backfill_relays") == 0
        hub.rows("UPDATE hub.hosts SET is_draining = true WHERE host = %s RETURNING host", holder(home))
        wait_until(lambda: second.value("SELECT count(*) FROM backfill_relays") == 1, "job at the next holder")
        wait_until(lambda: first.value("SELECT count(*) FROM backfill_relays") == 0, "gone from the first")
        with second.database.write() as tx:
            backfills.put_progress(tx, [BackfillProgress(job, 7, parts=2, done=2, is_over=True)])
        wait_until(lambda: all(each.is_over for each in _progress(home, job)), "end at home")
    other.close()


def test_counts_of_two_hosts_add_up_to_the_event(hub: Hub, edge: Edge, home: World, tmp_path: Path) -> None:
    other = edge_of(hub, tmp_path, "ams1")
    events = notes(60)
    edge.accept(events[:40])
    other.accept(events[30:])
    with (
        Running(home.context("hub"), hub_stage.run) as taking,
        Running(edge.context("uplink"), uplink.run),
        Running(other.context("uplink"), uplink.run),
    ):
        wait_until(lambda: home.inbox_size() == 60 and count(home, "uplink", "handed-on") == 70, "counts at home")
        assert count(home, "uplink", "taken") == 70
        taken = taking.metric("event_service_stage_in_total", stage="hub")
        duplicates = taking.metric("event_service_stage_discarded_total", stage="hub", reason="duplicate")
        assert (taken, duplicates) == (70, 10)
        # Neither a process nor a hub that begins again changes a sum.
    with Running(home.context("hub"), hub_stage.run), Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: hub.rows("SELECT count(*) FROM hub.states") == [(10,)], "said by both")
        assert count(home, "uplink", "handed-on") == 70
    with home.database.read() as tx:
        bringers = {hosts.bringer(tx, number) for number in range(1, 61)}
    assert bringers == {"fra1", "ams1"}, "each event has the host that brought it first"
    other.close()


def test_lost_disk_of_an_edge_does_not_lower_its_counts(hub: Hub, edge: Edge, home: World, tmp_path: Path) -> None:
    edge.accept(notes(5))
    with Running(home.context("hub"), hub_stage.run), Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: count(home, "uplink", "handed-on") == 5)
    fresh = Edge(tmp_path / "fresh", edge.env["EVENTS_HUB"], "fra1")
    fresh.accept(notes(3, first=5))
    with Running(home.context("hub"), hub_stage.run), Running(fresh.context("uplink"), uplink.run):
        wait_until(lambda: count(home, "uplink", "handed-on") == 8, "those of both databases")
    fresh.close()


def test_gaps_and_drops_of_an_edge_are_known_at_home(hub: Hub, edge: Edge, home: World) -> None:
    gap = OpenGap(7, "ids", "cap", NOW - 50, NOW - 40, NOW)
    dropped = Drop(b"\7" * 32, "too-large", 7)

    def write(tx: Tx) -> None:
        gaps.put(tx, [GapChanges(opened=(gap,))])
        drops.append(tx, [dropped], 77)

    with Running(home.context("hub"), hub_stage.run), Running(edge.context("uplink"), uplink.run):
        wait_until(lambda: holder(home) == "fra1", "held")
        wait_until(lambda: edge.value("SELECT crawled_since IS NOT NULL FROM relays WHERE id = 7") == 1, "ordered")
        with edge.database.write() as tx:
            write(tx)
        wait_until(lambda: home.value("SELECT count(*) FROM gaps WHERE relay = 70 AND reason = 'cap'") == 1, "gap")
        with home.database.read() as tx:
            (found,) = drops.of_event(tx, dropped.event_id)
        assert (found.reason, found.relay, found.at, found.host) == ("too-large", RELAY, 77, "fra1")
        with edge.database.write() as tx:
            gaps.put(tx, [GapChanges(closed=(gap,))])
        wait_until(lambda: home.value("SELECT count(*) FROM gaps") == 0, "closed")
        assert home.value("SELECT count(*) FROM drops") == 1, "said again, it is one"


def _progress(home: World, job: int) -> list[BackfillProgress]:
    with home.database.read() as tx:
        return backfills.progress(tx, job)
