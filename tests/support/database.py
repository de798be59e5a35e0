"""A migrated database file of its own for each test, and what opening a file says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.store.database import Database
from pipeline.store.database_errors import DatabaseUnusable
from pipeline.store.schema import open_database

# The tables of the Go service that are told apart by name, and one row that its owner has not checkpointed yet.
GO_SERVICE = (
    "CREATE TABLE public_keys_to_monitor (id INTEGER PRIMARY KEY, public_key TEXT UNIQUE, created_at, updated_at)",
    "CREATE TABLE contacts_followees (follower_id INTEGER, followee_id INTEGER)",
    "INSERT INTO public_keys_to_monitor VALUES (1, 'ab', 0, 0)",
)


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


def contents(directory: Path) -> dict[str, bytes]:
    """Every file but the shared memory, which is no data and which any reader writes to."""
    return {each.name: each.read_bytes() for each in directory.iterdir() if not each.name.endswith("-shm")}


def refusal(path: Path) -> str:
    """What is said of a file that is refused."""
    with pytest.raises(DatabaseUnusable) as caught:
        Database.open(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)
