"""Several processes on one real file: opening it at once, sharing the queue, and being killed in the middle."""

import random
import signal
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from pipeline.process.clock import ManualClock, SystemClock
from pipeline.store import inbox
from pipeline.store.database import Database, Row
from pipeline.store.migrations import MIGRATIONS
from pipeline.store.schema import open_database
from tests.fakes.child import Child
from tests.fakes.net import pause
from tests.support.seeds import seeds

WAIT_S = 60.0
LEASE_MS = 250


def start(stack: ExitStack, count: int) -> list[Child]:
    children = [stack.enter_context(Child.module("tests.integration.store.worker")) for _ in range(count)]
    for child in children:
        child.wait_line("^ready$", WAIT_S)
    return children


def test_processes_opening_a_fresh_file_at_once_all_find_the_schema(tmp_path: Path) -> None:
    """The stages start together; each must wait for the one that migrates, and none may take the other's lock for an
    unusable file, which would stop the service for good."""
    with ExitStack() as stack:
        children = start(stack, 4)
        for number in range(12):
            path = tmp_path / f"{number}.db"
            for child in children:
                child.say(f"open {path}")
            assert [child.wait_line("opened|refused.*", WAIT_S)[0] for child in children] == ["opened"] * 4
            with open_database(path, ManualClock()) as db, db.read() as tx:
                names = tx.execute("SELECT name FROM migrations ORDER BY name").fetchall()
            assert names == [(migration.name,) for migration in MIGRATIONS]


@pytest.mark.parametrize("seed", seeds(2))
def test_nothing_is_lost_and_nothing_done_twice_while_workers_are_killed(tmp_path: Path, seed: int) -> None:
    """Workers die by SIGKILL between and inside transactions; each event is finished exactly once all the same."""
    print(f"seed {seed}")
    rng, path, total = random.Random(seed), tmp_path / "events.db", 3000
    with ExitStack() as stack:
        db = stack.enter_context(open_database(path, SystemClock()))
        writers = start(stack, 2)
        workers = start(stack, 3)
        for worker in workers:
            worker.say(f"work {path} {LEASE_MS} {rng.randrange(1000)}")
        part = total // 6
        for first in range(0, total, part):
            # Their ranges overlap: half of what one appends, the other has appended or is about to.
            writers[0].say(f"append {path} {first} {part * 2 // 3} {seed}")
            writers[1].say(f"append {path} {first + part // 3} {part - part // 3} {seed}")
            wait_until_finished(db, first + rng.randrange(part))
            victim = workers.pop(rng.randrange(len(workers)))
            victim.signal(signal.SIGKILL)
            workers += start(stack, 1)
            workers[-1].say(f"work {path} {LEASE_MS} {rng.randrange(1000)}")
            for writer in writers:
                writer.wait_line("^appended$", WAIT_S)
        wait_until_empty(db)
        finished = finished_claims(db)
        assert set(finished) == set(range(total))
        assert max(finished.values()) > 1, "no row was ever given back"
        for worker in workers:
            worker.say("stop")
            worker.wait_line("^stopped$", WAIT_S)
            assert worker.running
        with db.read() as tx:
            assert tx.execute("PRAGMA integrity_check").get == "ok"


def wait_until_finished(db: Database, number: int) -> None:
    """Return once so many events are finished, most likely in the midst of the work on the next ones."""
    deadline = monotonic() + WAIT_S
    while len(finished_claims(db)) < number:
        assert monotonic() < deadline
        pause(0.01)


def wait_until_empty(db: Database) -> None:
    for _ in range(round(WAIT_S / 0.05)):
        with db.read() as tx:
            if not inbox.waiting(tx):
                return
        pause(0.05)
    raise TimeoutError("the inbox did not run empty")


def finished_claims(db: Database) -> dict[int, int]:
    """How often each finished event had been claimed."""
    with db.read() as tx:
        rows: list[Row] = tx.execute("SELECT event_id, kind FROM seen").fetchall()
    return {int.from_bytes(event_id): claims for event_id, claims in rows}
