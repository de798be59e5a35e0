"""Waiting for another process to commit something.

`PRAGMA data_version` costs 2 µs, so that asking a hundred times a second is 0.4 % of a core and wakes within 10 ms; a
bell between processes would be quicker by some milliseconds and one more thing to break.
"""

from typing import Final

from pipeline.process.clock import until_next
from pipeline.process.stop import Stop
from pipeline.store.database import Database

POLL_S: Final = 0.01


class CommitWatch:
    """Watch for commits of other connections. Owned by the thread of its database."""

    __slots__ = ("_database", "_version")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._version = database.data_version()

    def changed(self) -> bool:
        """Return True if another connection has committed since the last call, or the last wait."""
        version, before = self._database.data_version(), self._version
        self._version = version
        return version != before

    def wait(self, stop: Stop, polls: int) -> bool:
        """Wait for a commit since the last call, for `stop`, or `polls` times `POLL_S`; return True if one came."""
        for _ in range(polls):
            if self.changed():
                return True
            if stop.wait(until_next(POLL_S)):
                return False
        return False
