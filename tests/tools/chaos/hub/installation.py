"""The installation under test: a hub, a home and crawling hosts, in the network and environment of one run."""

import os
import random
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from websocket import WebSocketException

from tests.fakes.host_network import Address, HostNetwork, HostPlace
from tests.fakes.postgres import Hub, PostgresServer, find_programs, hub_in
from tests.fakes.service import EventService, StageProcess, settings
from tests.tools.chaos.environment import REACH_S, Environment
from tests.tools.chaos.patched_source import PatchedSource

HOSTS = ("ams1", "fra1", "nyc1")
START_LIMIT_S = 240.0
_LOOK_S = 0.1
# Stages of a host that are killed; its server and sweeper carry no events.
EDGE_VICTIMS = ("crawler", "uplink")
HOME_VICTIMS = ("hub", "saver", "forwarder")
POSTGRES = "postgres"


class NoPostgres(Exception):
    """The programs of PostgreSQL are not installed."""


@dataclass
class Edge:
    """One crawling host."""

    name: str
    place: HostPlace
    service: EventService

    def connected(self) -> set[Address]:
        """Return where it has open connections to, the hub aside."""
        return self.place.connected(self.service.child.pid) if self.service.running else set()

    def pids(self, stage: str) -> list[int]:
        """Return the processes of a stage."""
        return [one.pid for one in self.service.stages(stage)] if self.service.running else []


@dataclass
class Installation:
    """All hosts of one run. Used by one thread, but for what watchers look at."""

    environment: Environment
    server: PostgresServer
    hub: Hub
    home: EventService
    edges: list[Edge]
    directory: Path
    rng: random.Random
    lease_s: float
    kills: Counter[str] = field(default_factory=Counter)
    """How many processes were killed, by stage."""
    disks_lost: list[int] = field(default_factory=list)
    """How many events waited on each disk that was lost."""

    @classmethod
    @contextmanager
    def start(
        cls,
        environment: Environment,
        network: HostNetwork,
        directory: Path,
        tree: PatchedSource,
        rng: random.Random,
        *,
        hosts: int,
        lease_s: float,
    ) -> "Iterator[Self]":
        """Start everything; raises `NoPostgres`."""
        programs = find_programs()
        if programs is None:
            raise NoPostgres("PostgreSQL is not installed")
        with ExitStack() as stack:
            server = PostgresServer(
                programs, listen=[] if network.hub == "127.0.0.1" else [network.hub],
                access=[f"host all all {network.clients} scram-sha-256"],
            )  # fmt: skip
            stack.callback(server.close)
            server.start()
            hub = stack.enter_context(hub_in(server))
            common = {
                "EVENTS_BACKFILL": f"{REACH_S}s", "EVENTS_NEW_AUTHOR_LOOKBACK": f"{REACH_S}s",
                "EVENTS_RESWEEP_EVERY": "0s", **tree.env(),
            }  # fmt: skip
            edges = []
            for name in HOSTS[:hosts]:
                place = network.add_host()
                env = settings(
                    EVENTS_HUB=place.hub_url(hub.add_host(name)), EVENTS_ROLE="crawler", EVENTS_HOST=name,
                    EVENTS_CRAWLERS="1", **common,
                )  # fmt: skip
                edges.append(Edge(name, place, EventService.placed(directory / name, env, place.command, place.listen)))
            home = EventService(
                directory / "home",
                settings(
                    relays=environment.urls, target=environment.target.url, pubsub=environment.pubsub.address,
                    EVENTS_HUB=hub.home, EVENTS_ROLE="home", **common,
                ),
            )  # fmt: skip
            for service in (home, *(edge.service for edge in edges)):
                stack.callback(service.close)
            made = cls(environment, server, hub, home, edges, directory, rng, lease_s)
            home.start(timeout_s=START_LIMIT_S)
            for edge in edges:
                edge.service.start(wait=False)
            yield made

    def edge(self) -> Edge:
        """Return one by chance."""
        return self.rng.choice(self.edges)

    def kill_one(self) -> None:
        """Kill a process of those that events pass through; PostgreSQL is started again at once."""
        choice = self.rng.choice((*EDGE_VICTIMS, *HOME_VICTIMS, POSTGRES))
        if choice == POSTGRES:
            self.kill_server()
            self.server.start()
            return
        services = [self.home] if choice in HOME_VICTIMS else [edge.service for edge in self.edges]
        victims = [one for each in services if each.running for one in each.stages(choice)]
        if victims:
            self._kill(self.rng.choice(sorted(victims, key=lambda one: one.pid)))

    def _kill(self, victim: StageProcess) -> None:
        with suppress(ProcessLookupError):
            victim.signal(signal.SIGKILL)
            self.kills[victim.name] += 1

    def kill_server(self) -> None:
        """End PostgreSQL as a crash would."""
        self.server.kill()
        self.kills[POSTGRES] += 1

    def kill_host(self, service: EventService) -> None:
        """End all processes of a host at once, as a loss of power would."""
        for one in service.stages():
            self.kills[one.name] += 1
        service.close()

    @contextmanager
    def frozen(self, pids: list[int]) -> Iterator[None]:
        """Let processes stand still for the time of the block."""
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)

    def waiting(self, edge: Edge) -> int:
        """Return how many events wait on a host, in its inbox and in parcels that the hub does not have."""
        statement = (
            "SELECT (SELECT count(*) FROM inbox) + (SELECT coalesce(sum(events), 0) FROM parcels, hub_stream"
            " WHERE number > sent)"
        )
        return _value(edge.service.database, statement)

    def back_up_home(self, copy: Path) -> None:
        """Copy home's database, as the command does it."""
        command = EventService(self.directory / "home", self.home.env, arguments=("backup", str(copy)))
        command.start(wait=False)
        code = command.wait_exit(START_LIMIT_S)
        assert code == 0, command.log_text()[-2_000:]
        command.close()

    def restore_home(self, copy: Path) -> None:
        """Lose home's database, and start it with the copy in its place."""
        self.kill_host(self.home)
        for suffix in ("", "-wal", "-shm"):
            self.home.database.with_name(self.home.database.name + suffix).unlink(missing_ok=True)
        shutil.copy(copy, self.home.database)
        self.home.start(wait=False)

    def register_again(self) -> bool:
        """Register all users once more; False if home does not answer yet."""
        try:
            self.environment.register_again(self.home)
        except (OSError, WebSocketException, AssertionError):
            return False
        return True

    def lose_disk(self, edge: Edge) -> None:
        """End a host and everything that it had stored, and let it begin again."""
        self.kill_host(edge.service)
        shutil.rmtree(edge.service.directory)
        edge.service.start(wait=False)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _value(path: Path, statement: str) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            return int(connection.execute(statement).fetchone()[0])
    except sqlite3.Error:
        return 0
