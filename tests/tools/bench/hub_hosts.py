"""Hosts of the parts `hub` and `hub-plan`: databases that are filled by hand, with stages as processes of their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit, urlunsplit

from pipeline.process.clock import SystemClock
from pipeline.store import inbox
from pipeline.store.database import Database
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database
from tests.fakes.net import pause
from tests.fakes.postgres import Hub, PostgresServer, find_programs, hub_in
from tests.fakes.procs import process
from tests.fakes.proxy import CountingProxy
from tests.fakes.service import EventService, settings

APPENDED_AT_ONCE = 200
_RELAY = "INSERT OR IGNORE INTO relays (id, address, source, first_seen, last_seen) VALUES (1, ?, 'x', 0, 0)"
_PARTS_S = 600.0
_STEP_S = 0.005
# More than is ever waiting, so that no host has to wait.
_HIGH = "10000000"


@dataclass
class BenchHost:
    """One host: its database, open here too, and the stage that speaks to the hub, if it runs."""

    name: str
    directory: Path
    env: dict[str, str]
    database: Database
    stage: EventService | None = None

    def append(self, arrivals: Sequence[Arrival]) -> None:
        """Accept events as an ingester does, some at once."""
        for first in range(0, len(arrivals), APPENDED_AT_ONCE):
            with self.database.write() as tx:
                inbox.append(tx, arrivals[first : first + APPENDED_AT_ONCE])

    def value(self, statement: str) -> int:
        """Return the number that a statement finds."""
        with self.database.read() as tx:
            ((found,),) = tx.execute(statement).fetchall()
        return int(str(found))

    @contextmanager
    def running(self, stage: str) -> Iterator[int]:
        """Run the stage for the time of the block; its process."""
        self.stage = EventService.stage(stage, self.directory, self.env)
        self.stage.start(wait=False)
        try:
            yield self.stage.child.pid
        finally:
            self.stage.close()


def wait(enough: Callable[[], bool], what: str, *, step_s: float = _STEP_S) -> None:
    """Look until `enough()`; raises `TimeoutError`."""
    deadline = monotonic() + _PARTS_S
    while not enough():
        if monotonic() > deadline:
            raise TimeoutError(what)
        pause(step_s)


def cpu_s(pid: int) -> float:
    """Return the processor seconds of a process; 0 when it is gone."""
    found = process(pid)
    return 0.0 if found is None else found.cpu_s


@contextmanager
def hub_of_bench() -> Iterator[Hub | None]:
    """A hub on a PostgreSQL of its own; None where none is installed."""
    programs = find_programs()
    if programs is None:
        yield None
        return
    server = PostgresServer(programs)
    try:
        server.start()
        with hub_in(server) as hub:
            yield hub
    finally:
        server.close()


@contextmanager
def far_away(url: str, round_trip_s: float) -> Iterator[str]:
    """The hub's address as it is behind a line with this round trip."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with CountingProxy(parts.hostname, parts.port, delay_s=round_trip_s) as proxy:
        login = parts.netloc.rpartition("@")[0]
        yield urlunsplit(parts._replace(netloc=f"{login}@{proxy.url.removeprefix('ws://')}"))


@contextmanager
def host(directory: Path, name: str, url: str) -> Iterator[BenchHost]:
    """A host with an empty database, by its name: `home` or a crawling host."""
    role = {"EVENTS_ROLE": "home"} if name == "home" else {"EVENTS_ROLE": "crawler", "EVENTS_HOST": name}
    env = settings(EVENTS_HUB=url, EVENTS_BACKPRESSURE_HIGH=_HIGH, **role)
    folder = directory / name
    folder.mkdir()
    with open_database(folder / "events.db", SystemClock()) as database:
        with database.write() as tx:
            tx.execute(_RELAY, ("wss://relay.example.com",))
        yield BenchHost(name, folder, env, database)
