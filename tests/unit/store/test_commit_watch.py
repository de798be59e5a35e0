"""Waiting for somebody else's commit."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.doorbell import Doorbell, Doorbells
from pipeline.process.stop import Stop
from pipeline.store import inbox
from pipeline.store.commit_watch import POLL_S, CommitWatch
from pipeline.store.database import Database
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database

LONG_S = 600.0
"""Longer than any test may take."""


@pytest.fixture
def bell(db: Database, path: Path) -> Iterator[Doorbell]:
    found = Doorbell.hang(path, "saver-0")
    yield found
    found.close()


def commit(db: Database, number: int = 1) -> None:
    with db.write() as tx:
        inbox.append(tx, [Arrival(number.to_bytes(32), b"{}", 1, 0, 1)])


def test_a_commit_that_came_before_the_wait_is_not_missed(db: Database, path: Path, clock: ManualClock) -> None:
    """Between a look that found nothing and the wait, another process may commit."""
    with open_database(path, clock) as other:
        watch = CommitWatch(db)
        commit(other)
        assert watch.wait(Stop(), POLL_S)
        assert not watch.wait(Stop(), POLL_S)


def test_commits_of_ones_own_wake_nobody(db: Database) -> None:
    watch = CommitWatch(db)
    commit(db)
    assert not watch.wait(Stop(), 2 * POLL_S)


def test_a_wait_ends_with_the_commit(db: Database, path: Path, clock: ManualClock) -> None:
    waiting = threading.Event()

    def write() -> None:
        with open_database(path, clock) as other:
            assert waiting.wait(LONG_S)
            commit(other)

    thread = threading.Thread(target=write)
    thread.start()
    watch = CommitWatch(db)
    waiting.set()
    assert watch.wait(Stop(), LONG_S)
    thread.join(LONG_S)


def test_a_wait_ends_with_the_process(db: Database) -> None:
    stop = Stop()
    stop.set()
    assert not CommitWatch(db).wait(stop, LONG_S)


def test_ring_after_a_commit_ends_the_wait(db: Database, path: Path, clock: ManualClock, bell: Doorbell) -> None:
    waiting = threading.Event()

    def write() -> None:
        with open_database(path, clock) as other:
            assert waiting.wait(LONG_S)
            commit(other)
            Doorbells(path).ring("saver")

    thread = threading.Thread(target=write)
    thread.start()
    watch = CommitWatch(db, bell)
    waiting.set()
    assert watch.wait(Stop(), LONG_S)
    thread.join(LONG_S)


def test_commit_between_a_look_and_the_wait_needs_no_ring(
    db: Database, path: Path, clock: ManualClock, bell: Doorbell
) -> None:
    with open_database(path, clock) as other:
        watch = CommitWatch(db, bell)
        commit(other)
        assert watch.wait(Stop(), LONG_S)


def test_commit_whose_ring_is_lost_is_found_when_the_time_is_up(
    db: Database, path: Path, clock: ManualClock, bell: Doorbell
) -> None:
    """The first wait ends with the time or, if the commit comes before it, at once: it is found in either case."""

    def write() -> None:
        with open_database(path, clock) as other:
            commit(other)

    watch, thread = CommitWatch(db, bell), threading.Thread(target=write)
    thread.start()
    found = any(watch.wait(Stop(), 0.05) for _ in range(12_000))
    thread.join(LONG_S)
    assert found


def test_ring_without_a_commit_only_ends_the_wait(db: Database, path: Path, bell: Doorbell) -> None:
    watch = CommitWatch(db, bell)

    def ring() -> None:
        while not rung.wait(0.01):
            bell.ring()

    rung = threading.Event()
    thread = threading.Thread(target=ring)
    thread.start()
    assert not watch.wait(Stop(), LONG_S)
    rung.set()
    thread.join(LONG_S)


def test_wait_for_a_ring_ends_with_the_process(db: Database, bell: Doorbell) -> None:
    stop = Stop()
    stop.set()
    assert not CommitWatch(db, bell).wait(stop, LONG_S)
