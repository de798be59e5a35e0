"""Completeness against a relay that we did not write: a small cap, and very many events in one hour."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from time import monotonic

from tests.factories.events import SignedEvent
from tests.factories.workload import newest_versions
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.net import pause
from tests.fakes.service import EventService
from tests.tools.completeness.run import GAPS, Row, environment, register
from tests.tools.completeness.world import World

_HAVE = "SELECT lower(hex(event_id)) FROM inbox UNION SELECT lower(hex(event_id)) FROM seen"


def run(seed: int, timeout_s: float, *, events: int, cap: int, keep: Path | None = None) -> list[Row]:
    """`events` of the last hour in a relay that returns at most `cap` of them at once."""
    world = World.make(seed)
    stored = newest_versions([*_hour(world, events), *world.contact_lists])
    wanted = {event.id for event in stored if world.is_wanted(event)}
    with tempfile.TemporaryDirectory(prefix="event-service-completeness-") as scratch:
        directory = keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        with IndependentRelay(max_limit=cap, max_reqs=100_000, lmdb=Path(scratch) / "lmdb") as relay:
            assert relay.load(stored) == len(stored)
            service = EventService(
                directory, environment([relay.url]) | {"EVENTS_RESWEEP_EVERY": "6h", "EVENTS_LOG_LEVEL": "ERROR"}
            )
            register(service.database, world)
            began = monotonic()
            with service:
                done = _wait(service, wanted, began + timeout_s)
                seconds = monotonic() - began if done else None
                return [_row(service, relay.url, f"cap {cap}, {events:,} events", wanted, seconds)]


def _hour(world: World, count: int) -> list[SignedEvent]:
    return [world.event(world.now - 3600 + world.rng.randrange(3590)) for _ in range(count)]


def have(service: EventService) -> set[str]:
    """Ids that came in."""
    with closing(sqlite3.connect(f"file:{service.database}?mode=ro", uri=True)) as database:
        return {event_id for (event_id,) in database.execute(_HAVE)}


def _wait(service: EventService, wanted: set[str], deadline: float) -> bool:
    while not wanted <= have(service):
        if monotonic() > deadline:
            return False
        pause(1.0)
    return True


def _row(service: EventService, url: str, name: str, wanted: set[str], seconds: float | None) -> Row:
    scrape = service.scrape()
    gaps = {sample.labels["reason"]: int(sample.value) for sample in scrape.samples(GAPS, address=url) if sample.value}
    pages = int(scrape.value("event_service_crawl_pages_total", address=url))
    return Row(name, len(wanted), len(wanted & have(service)), 0, gaps, pages, 1, seconds, cannot=False, loses=False)
