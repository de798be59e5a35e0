"""Waiting for somebody else's commit."""

import threading
from pathlib import Path

from pipeline.process.clock import ManualClock
from pipeline.process.stop import Stop
from pipeline.store import inbox
from pipeline.store.commit_watch import CommitWatch
from pipeline.store.database import Database
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database


def commit(db: Database, number: int = 1) -> None:
    with db.write() as tx:
        inbox.append(tx, [Arrival(number.to_bytes(32), b"{}", 1, 0, 1)])


def test_a_commit_that_came_before_the_wait_is_not_missed(db: Database, path: Path, clock: ManualClock) -> None:
    """Between a look that found nothing and the wait, another process may commit."""
    with open_database(path, clock) as other:
        watch = CommitWatch(db)
        commit(other)
        assert watch.wait(Stop(), 1)
        assert not watch.wait(Stop(), 1)


def test_commits_of_ones_own_wake_nobody(db: Database) -> None:
    watch = CommitWatch(db)
    commit(db)
    assert not watch.wait(Stop(), 2)


def test_a_wait_ends_with_the_commit(db: Database, path: Path, clock: ManualClock) -> None:
    waiting = threading.Event()

    def write() -> None:
        with open_database(path, clock) as other:
            assert waiting.wait(10)
            commit(other)

    thread = threading.Thread(target=write)
    thread.start()
    watch = CommitWatch(db)
    waiting.set()
    assert watch.wait(Stop(), 1_000)
    thread.join(10)


def test_a_wait_ends_with_the_process(db: Database) -> None:
    stop = Stop()
    stop.set()
    assert not CommitWatch(db).wait(stop, 10**9)
