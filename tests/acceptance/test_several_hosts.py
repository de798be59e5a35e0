"""Two hosts that crawl and one that delivers, with a real PostgreSQL between them and real relays before them."""

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

import pytest

from pipeline.process.clock import SystemClock
from pipeline.store import users
from pipeline.store.schema import open_database
from tests.factories.events import authors
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.net import pause
from tests.fakes.postgres import Hub, PostgresServer, hub_in, programs_or_skip
from tests.fakes.service import EventService, settings
from tests.support.seeds import told_seed

EVENTS = 2_000
SHARED = 400
KILLS = 24
ARRIVAL_TIMEOUT_S = 240.0
(ALICE,) = authors(511, 1)


@dataclass
class _Hosts:
    server: PostgresServer
    hub: Hub
    relays: list[IndependentRelay]
    edges: list[EventService]
    home: EventService
    expected: set[str]

    def delivered(self) -> Counter[str]:
        if not self.home.sink_path.exists():
            return Counter()
        lines = self.home.sink_path.read_bytes().split(b"\n")[:-1]
        return Counter(json.loads(line)["id"] for line in lines if line)

    def wait_delivered(self) -> Counter[str]:
        deadline = monotonic() + ARRIVAL_TIMEOUT_S
        while True:
            found = self.delivered()
            if self.expected <= found.keys():
                return found
            assert monotonic() < deadline, f"{len(self.expected - found.keys())} of {len(self.expected)} are missing"
            pause(0.2)


@contextmanager
def several_hosts(tmp_path: Path) -> Iterator[_Hosts]:
    began = int(time()) - 600
    events = [ALICE.sign(f"{number}", kind=1, created_at=began + number // 10) for number in range(EVENTS)]
    parts = [events[: (EVENTS + SHARED) // 2], events[(EVENTS - SHARED) // 2 :]]
    with ExitStack() as stack:
        server = PostgresServer(programs_or_skip())
        stack.callback(server.close)
        server.start()
        hub = stack.enter_context(hub_in(server))
        relays = [stack.enter_context(IndependentRelay()) for _ in parts]
        for relay, part in zip(relays, parts, strict=True):
            relay.load(part)
        edges = []
        for host in ("fra1", "ams1"):
            env = settings(
                EVENTS_HUB=hub.add_host(host), EVENTS_ROLE="crawler", EVENTS_HOST=host,
                EVENTS_CRAWLERS="1", EVENTS_BACKFILL="2h",
            )  # fmt: skip
            edges.append(_service(tmp_path / host, env))
        urls = [relay.url for relay in relays]
        home = _service(tmp_path / "home", settings(relays=urls, EVENTS_HUB=hub.home, EVENTS_ROLE="home"))
        with open_database(home.database, SystemClock()) as database, database.write() as tx:
            users.register(tx, bytes.fromhex(ALICE.pubkey), SystemClock().now_ms())
        for service in (home, *edges):
            stack.callback(service.close)
        yield _Hosts(server, hub, relays, edges, home, {event.id for event in events})


def _service(directory: Path, env: dict[str, str]) -> EventService:
    directory.mkdir()
    return EventService(directory, env)


@pytest.mark.timeout(900)
def test_everything_arrives_whatever_is_killed(tmp_path: Path) -> None:
    rng = random.Random(told_seed())
    with several_hosts(tmp_path) as hosts:
        for service in (hosts.home, *hosts.edges):
            service.start()
        for number in range(KILLS):
            service = rng.choice([hosts.home, *hosts.edges])
            victims = [each for each in service.stages() if each.name not in ("server", "sweeper")]
            if victims:
                with suppress(ProcessLookupError):
                    rng.choice(victims).signal(signal.SIGKILL)
            if number % 8 == 7:
                hosts.server.kill()
                hosts.server.start()
        found = hosts.wait_delivered()
        assert found.keys() == hosts.expected
