"""Registrations and departures that the hub has and home's database lacks, done again: after a restore, or where a
process died between the hub and the database.
"""

import math
from dataclasses import dataclass
from typing import Final

from pipeline.hub.connection import HubConnection
from pipeline.hub.registry import redo
from pipeline.process.clock import Clock
from pipeline.process.logs import Logger
from pipeline.store import user_acts
from pipeline.store.database import Database
from pipeline.store.user_acts import ActRules

FUNCTIONS: Final = ("user_acts_v1", "dropped_user_acts_v1")
"""What the hub must have for this."""
_LOOK_EVERY_S: Final = 30.0


@dataclass(slots=True)
class ActReplay:
    """For one thread. `lacks_some`: the hub has dropped what this database, an old copy, does not have."""

    clock: Clock
    rules: ActRules
    log: Logger
    lacks_some: bool = False
    _look_at: float = -math.inf
    _connection: HubConnection | None = None

    def turn(self, connection: HubConnection, database: Database) -> bool:
        """Do what is due; return True if a registration began or ended. Raises `HubUnavailable` or `HubRefused`."""
        now = self.clock.monotonic()
        if connection is self._connection and now < self._look_at:
            return False
        with database.read() as tx:
            position = user_acts.position(tx)
        ((dropped,),) = connection.call("dropped_user_acts_v1")
        if dropped > position and not self.lacks_some:
            self.log.error(
                "the hub dropped registrations that this copy lacks: restore a newer one",
                after=position, until=dropped,
            )  # fmt: skip
        self.lacks_some = dropped > position
        done, changed = redo(connection, database, self.rules)
        if done:
            self.log.info("registrations read from the hub", read=done, changed=changed)
        self._connection, self._look_at = connection, now + _LOOK_EVERY_S
        return changed > 0
