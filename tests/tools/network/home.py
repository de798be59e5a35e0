"""What home has of what is due, and who is registered there."""

import sqlite3
from contextlib import closing
from pathlib import Path
from time import time

from pipeline.process.clock import SystemClock
from pipeline.store import users
from pipeline.store.schema import open_database
from tests.fakes.service import EventService
from tests.tools.network.world import Network

_HAVE = "SELECT lower(hex(event_id)) FROM seen UNION SELECT lower(hex(event_id)) FROM inbox"


def register(service: EventService, network: Network) -> None:
    """Register the users of the network before the service starts."""
    service.directory.mkdir(parents=True, exist_ok=True)
    with open_database(service.database, SystemClock()) as opened, opened.write() as tx:
        for person in network.people[: network.users]:
            users.register(tx, bytes.fromhex(person.author.pubkey), round(time() * 1000))


def due(expected: Path) -> set[str]:
    """Return the ids of what any relay holds and the service wants."""
    return set(expected.read_text().split())


def have(path: Path) -> set[str]:
    """Return the ids that a database has."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {event_id for (event_id,) in database.execute(_HAVE)}
