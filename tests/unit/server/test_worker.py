"""Database work beside the event loop."""

import asyncio
import functools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.server.limits import Rejected
from pipeline.server.worker import DatabaseThread
from pipeline.store.database import Database
from pipeline.store.database_errors import DatabaseFailed
from pipeline.store.schema import open_database

PATIENCE_S = 60.0


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[DatabaseThread]:
    thread = DatabaseThread("test", functools.partial(open_database, tmp_path / "x.db", SystemClock()), max_waiting=2)
    yield thread
    thread.close()


class Gated:
    """A job that waits to be let through."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()
        self.done = False

    def __call__(self, database: Database) -> str:
        self.begun.set()
        assert self.released.wait(PATIENCE_S)
        self.done = True
        return threading.current_thread().name


async def begun(job: Gated) -> None:
    assert await asyncio.to_thread(job.begun.wait, PATIENCE_S)


def test_jobs_share_one_connection_in_one_thread(worker: DatabaseThread) -> None:
    async def main() -> list[tuple[int, str]]:
        return [await worker.run(lambda db: (id(db), threading.current_thread().name)) for _ in range(3)]

    first, *others = asyncio.run(main())
    assert others == [first, first]
    assert first[1] != threading.current_thread().name


def test_errors_come_back_and_the_thread_goes_on(worker: DatabaseThread) -> None:
    def fail(database: Database) -> None:
        raise ValueError("broken")

    async def main() -> int:
        with pytest.raises(ValueError, match="broken"):
            await worker.run(fail)
        return await worker.run(lambda database: 7)

    assert asyncio.run(main()) == 7


def test_an_unusable_database_is_told_at_the_start(tmp_path: Path) -> None:
    thread = DatabaseThread("test", functools.partial(open_database, tmp_path / "no" / "x.db", SystemClock()))
    with pytest.raises(DatabaseFailed):
        asyncio.run(thread.start())
    thread.close()


def test_too_many_jobs_are_refused_and_places_come_back(worker: DatabaseThread) -> None:
    async def main() -> None:
        gated = Gated()
        running = asyncio.create_task(worker.run(gated))
        await begun(gated)
        waiting = asyncio.create_task(worker.run(lambda database: 2))
        await asyncio.sleep(0)
        with pytest.raises(Rejected):
            await worker.run(lambda database: 3)
        gated.released.set()
        await running
        assert await waiting == 2
        assert await worker.run(lambda database: 4) == 4

    asyncio.run(main())


def test_a_job_that_nobody_waits_for_any_more_is_not_begun(worker: DatabaseThread) -> None:
    async def main() -> None:
        gated, dropped = Gated(), Gated()
        running = asyncio.create_task(worker.run(gated))
        await begun(gated)
        waiting = asyncio.create_task(worker.run(dropped))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gated.released.set()
        await running
        assert await worker.run(lambda database: 5) == 5
        assert not dropped.begun.is_set()

    asyncio.run(main())


def test_closing_waits_for_the_job_under_way(tmp_path: Path) -> None:
    thread = DatabaseThread("test", functools.partial(open_database, tmp_path / "x.db", SystemClock()))
    gated = Gated()

    async def main() -> None:
        task = asyncio.create_task(thread.run(gated))
        await begun(gated)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    threading.Timer(0.05, gated.released.set).start()
    thread.close()
    assert gated.done
