"""A PostgreSQL for all tests of a worker, and a hub in it for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.postgres import Hub, PostgresServer, hub_in, programs_or_skip
from tests.integration.hub.hosts import Edge, edge_of, home_of
from tests.integration.stages.support import World


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running server, which tests leave as it is; those that kill it make one of their own."""
    server = PostgresServer(programs_or_skip())
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def hub(postgres: PostgresServer) -> Iterator[Hub]:
    """An empty hub."""
    with hub_in(postgres) as found:
        yield found


@pytest.fixture
def edge(hub: Hub, tmp_path: Path) -> Iterator[Edge]:
    """A crawling host of the hub."""
    made = edge_of(hub, tmp_path)
    yield made
    made.close()


@pytest.fixture
def home(hub: Hub, tmp_path: Path) -> Iterator[World]:
    """Its home host."""
    made = home_of(hub, tmp_path)
    yield made
    made.close()
