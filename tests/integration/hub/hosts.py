"""A crawling host and a home host in folders of their own, joined by a hub."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.nostr.event import event_from_json
from pipeline.store import cursors, inbox
from pipeline.store.cursors import Cursor
from pipeline.store.inbox import Arrival
from tests.factories.events import SignedEvent
from tests.fakes.postgres import Hub
from tests.integration.stages.support import World

RELAY = "wss://relay.example.com"
RECEIVED_AT = 1_700_000_000_000


class Edge(World):
    """A host that crawls, with one known relay."""

    def __init__(self, directory: Path, url: str, host: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory, {"EVENTS_HUB": url, "EVENTS_ROLE": "crawler", "EVENTS_HOST": host})
        with self.database.write() as tx:
            tx.execute(
                "INSERT OR IGNORE INTO relays (id, address, source, first_seen, last_seen) VALUES (7, ?, 'x', 0, 0)",
                (RELAY,),
            )

    def accept(self, events: Iterable[SignedEvent], complete_until: int | None = None) -> None:
        """What the intake does: events and the cursor that they complete, in one transaction."""
        arrivals = [
            Arrival(
                bytes.fromhex(each.id), event_from_json(each.raw.encode()).to_json(), 7, RECEIVED_AT, each.created_at
            )
            for each in events
        ]
        with self.database.write() as tx:
            inbox.append(tx, arrivals)
            if complete_until is not None:
                cursors.advance(tx, [Cursor(7, "authors/0", complete_until, 3)], 2**40)

    def unsent(self) -> int:
        return self.value("SELECT coalesce(max(last - sent), 0) FROM hub_stream")


def edge_of(hub: Hub, directory: Path, host: str = "fra1") -> Edge:
    return Edge(directory / host, hub.add_host(host), host)


def home_of(hub: Hub, directory: Path) -> World:
    (directory / "home").mkdir()
    return World(directory / "home", {"EVENTS_HUB": hub.home, "EVENTS_ROLE": "home"})


def inbox_ids(world: World) -> list[str]:
    """Ids in the order of the inbox."""
    return [event_id.hex() for (event_id,) in world.query("SELECT event_id FROM inbox ORDER BY seq")]
