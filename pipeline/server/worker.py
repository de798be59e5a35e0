"""Threads that do the database's work, so that the event loop never waits for it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from pipeline.server.limits import Rejected, RejectReason
from pipeline.store.database import Database

_Result = TypeVar("_Result")

MAX_WAITING: Final = 64
"""Jobs that may wait for one thread: at some milliseconds each, the last has its answer within a second."""


class DatabaseThread:
    """One thread with one connection of its own; used from the event loop."""

    def __init__(self, name: str, open_database: Callable[[], Database], max_waiting: int = MAX_WAITING) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._open = open_database
        self._database: Database | None = None
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting = 0

    async def start(self) -> None:
        """Open the connection; raises what opening it raises."""
        await self.run(lambda database: None)

    async def run(self, job: Callable[[Database], _Result]) -> _Result:
        """Do `job` in the thread and give its result or error. Raises `Rejected` when too much waits already.

        A caller that is cancelled leaves its job undone if that has not begun.
        """
        with self._lock:
            if self._waiting >= self._max_waiting:
                raise Rejected(RejectReason.BUSY)
            self._waiting += 1
        future = self._executor.submit(self._do, job)
        # Counted until the thread is done with it, not just until its caller has lost patience.
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Wait for the jobs that are left and close the connection; blocks."""
        self._executor.submit(self._close)
        self._executor.shutdown(wait=True)

    def _do(self, job: Callable[[Database], _Result]) -> _Result:
        if self._database is None:
            self._database = self._open()
        return job(self._database)

    def _done(self, future: "Future[_Result]") -> None:
        with self._lock:
            self._waiting -= 1

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
