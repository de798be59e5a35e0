"""Home's side of how long the hub keeps what home has taken: until a backup has it, and two days longer.

A home that is restored from its newest copy finds the rest in the hub's log. The log is bounded all the same, in bytes
and in time; where that takes parcels which no backup has, it is counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.hub.connection import HubConnection
from pipeline.process.clock import Clock
from pipeline.store import backups
from pipeline.store.backups import BackedUp
from pipeline.store.database import Database

FUNCTIONS: Final = ("backed_up_v1", "prune_log_v1")
"""What the hub must have for this."""
_HOUR_MS: Final = 3_600_000
# For a home that is restored from an older copy than the newest, which may turn out to be damaged.
KEPT_MS: Final = 48 * _HOUR_MS
KEPT_UNBACKED_MS: Final = 14 * 24 * _HOUR_MS
KEPT_BYTES: Final = 4 << 30
"""Of each stream."""
_PRUNE_EVERY_S: Final = 10.0
_PRUNED_AT_ONCE: Final = 1_000


@dataclass(slots=True)
class LogKeeping:
    """For one thread. `on_unbacked`: called with the number of parcels that were dropped and that no backup has."""

    clock: Clock
    on_unbacked: Callable[[int], None]
    _reported: BackedUp | None = None
    _prune_at: float = -math.inf
    _connection: HubConnection | None = None

    def turn(self, connection: HubConnection, database: Database) -> None:
        """Do what is due. Raises `HubUnavailable` or `HubRefused`."""
        if connection is not self._connection:
            # The hub may have gone back.
            self._connection, self._reported = connection, None
        now = self.clock.monotonic()
        if now < self._prune_at:
            return
        with database.read() as tx:
            newest = backups.newest(tx)
        if newest is not None and newest != self._reported:
            age = max(0, self.clock.now_ms() - newest.at)
            streams, numbers = list(newest.positions), list(newest.positions.values())
            connection.call("backed_up_v1", streams, numbers, newest.user_acts, age)
            self._reported = newest
        ((dropped, unbacked),) = connection.call("prune_log_v1", KEPT_MS, KEPT_UNBACKED_MS, KEPT_BYTES, _PRUNED_AT_ONCE)
        if unbacked:
            self.on_unbacked(unbacked)
        self._prune_at = now if dropped == _PRUNED_AT_ONCE else now + _PRUNE_EVERY_S
