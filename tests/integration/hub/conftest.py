"""A PostgreSQL for all tests of a worker, and a hub in it for each."""

from collections.abc import Iterator

import pytest

from tests.fakes.postgres import Hub, PostgresServer, hub_in, programs_or_skip


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
