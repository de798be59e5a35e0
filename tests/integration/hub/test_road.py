"""From a crawling host's inbox over the hub to home's inbox, the stages in threads."""

from pathlib import Path

from stages import hub as hub_stage
from stages import uplink
from tests.factories.events import Author, SignedEvent, authors
from tests.fakes.postgres import Hub
from tests.integration.hub.hosts import RELAY, Edge, edge_of, inbox_ids
from tests.integration.stages.support import NOW, Running, World, wait_until

(ALICE,) = authors(71, 1)


def notes(count: int, *, first: int = 0, author: Author = ALICE) -> list[SignedEvent]:
    return [author.sign(f"{number}", kind=1, created_at=NOW + number) for number in range(first, first + count)]


def test_events_and_cursor_of_an_edge_arrive_at_home(hub: Hub, edge: Edge, home: World) -> None:
    events = notes(450)
    edge.accept(events, complete_until=NOW)
    with Running(edge.context("uplink"), uplink.run), Running(home.context("hub"), hub_stage.run):
        wait_until(lambda: home.inbox_size() == 450 and not edge.unsent(), "all at home")
    assert inbox_ids(home) == [event.id for event in events], "in the order of arrival"
    assert edge.inbox_size() == 0
    assert edge.value("SELECT count(*) FROM payloads") == 0
    assert edge.seen() == {event.id for event in events}, "crawlers know them as seen"
    assert hub.rows("SELECT relay, query, complete_until, generation FROM hub.cursors") == [
        (RELAY, "authors/0", NOW, 3)
    ]
    found = home.query(
        "SELECT address, query, complete_until, generation FROM cursors JOIN relays ON relays.id = cursors.relay"
    )
    assert found == [(RELAY, "authors/0", NOW, 3)]
    assert home.query("SELECT DISTINCT address FROM inbox JOIN relays ON relays.id = inbox.relay") == [(RELAY,)]


def test_event_of_two_hosts_is_saved_once(hub: Hub, edge: Edge, home: World, tmp_path: Path) -> None:
    other = edge_of(hub, tmp_path, "ams1")
    events = notes(30)
    edge.accept(events[:20])
    other.accept(events[10:])
    with (
        Running(edge.context("uplink"), uplink.run),
        Running(other.context("uplink"), uplink.run),
        Running(home.context("hub"), hub_stage.run) as taking,
    ):
        wait_until(lambda: home.inbox_size() == 30 and taking.metric("event_service_stage_in_total", stage="hub") == 40)
        duplicates = taking.metric("event_service_stage_discarded_total", stage="hub", reason="duplicate")
    assert duplicates == 10
    other.close()
