"""Home's side of backfill jobs: lets the hub have those that are open, for the hosts that hold their relays."""

import math
from dataclasses import dataclass, field
from typing import Final

from pipeline.hub.connection import HubConnection
from pipeline.process.clock import Clock
from pipeline.store import ordered_backfills
from pipeline.store.database import Database
from pipeline.store.ordered_backfills import OrderedJob

FUNCTIONS: Final = ("put_backfill_v1", "keep_backfills_v1")
"""What the hub must have for this."""
_LOOK_S: Final = 1.0


@dataclass(slots=True)
class BackfillFeed:
    """For one thread."""

    clock: Clock
    _there: dict[int, OrderedJob] = field(default_factory=dict)
    """What the hub has."""
    _look_at: float = -math.inf
    _connection: HubConnection | None = None

    def turn(self, connection: HubConnection, database: Database) -> None:
        """Hand over what changed. Raises `HubUnavailable` or `HubRefused`."""
        now = self.clock.monotonic()
        is_new = connection is not self._connection
        if now < self._look_at and not is_new:
            return
        self._look_at = now + _LOOK_S
        with database.read() as tx:
            jobs = {each.job: each for each in ordered_backfills.still_open(tx)}
        if is_new or self._there.keys() - jobs.keys():
            connection.call("keep_backfills_v1", list(jobs))
        for job, each in jobs.items():
            if is_new or self._there.get(job) != each:
                connection.call(
                    "put_backfill_v1", job, each.since, each.until, each.authors, each.created_at, list(each.relays)
                )
        self._there, self._connection = jobs, connection
