"""A database as an earlier version of the service has left it, in the middle of its work."""

from pathlib import Path

from pipeline.process.clock import SystemClock
from pipeline.store import inbox
from pipeline.store.database import Database
from pipeline.store.inbox import Arrival
from pipeline.store.migrations import MIGRATIONS
from pipeline.store.schema import migrate
from tests.factories.events import SignedEvent

HOLDER = "queue of an earlier version"
"""Where the oracle says that such events are: nowhere else."""
# By the tables of the very first version, which every later one still had to take over, up to that of payloads.
_PUT_RELAY = "INSERT INTO relays (id, address, source, first_seen, last_seen) VALUES (1, ?1, 'bootstrap', ?2, ?2)"
_PUT_EVENT = "INSERT INTO inbox (event_id, raw, relay, received_at, ready_at) VALUES (?, ?, 1, ?, ?)"

_OF_PAYLOADS = "0030-payloads"


def leave_behind(path: Path, steps: int, relay: str, events: list[SignedEvent]) -> None:
    """Make a database with the first `steps` migrations alone, in whose inbox these events of `relay` wait."""
    clock = SystemClock()
    now = clock.now_ms()
    with Database.open(path) as database:
        migrate(database, clock, MIGRATIONS[:steps])
        with database.write() as tx:
            tx.execute(_PUT_RELAY, (relay, now))
            if _OF_PAYLOADS in [migration.name for migration in MIGRATIONS[:steps]]:
                inbox.append(tx, (Arrival(bytes.fromhex(e.id), e.raw.encode(), 1, now, e.created_at) for e in events))
            else:
                rows = ((bytes.fromhex(event.id), event.raw.encode(), now, now) for event in events)
                tx.executemany(_PUT_EVENT, rows)


def versions() -> int:
    """How many schemas there have been."""
    return len(MIGRATIONS)
