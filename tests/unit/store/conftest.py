"""A migrated database file of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.store.database import Database
from pipeline.store.schema import open_database


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def db(path: Path, clock: ManualClock) -> Iterator[Database]:
    with open_database(path, clock) as database:
        yield database
