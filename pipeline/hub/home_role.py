"""Being home: the role of the one database that takes parcels, decides what is crawled, and registers users.

The hub gives the role to one database, by a lease. What home changes at the hub is fenced there by the epoch of the
connection; what it takes from the hub is bounded here by the deadline of the lease, counted from before the request.

| state | event | next state |
|---|---|---|
| not home | the hub gives the role, or gives it again | home, until the deadline |
| not home | another database has it, or its lease at this place is not over | waiting: it is asked again |
| home | renewed | home, until a later deadline |
| home | the deadline passes, another connection, or the hub says that another is home | not home |

An operator moves the role to another database by `event-service hub take-over`; this never happens by itself, since
only the operator knows which copy is the newest, and whether the host that is away will be back.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.hub.connection import HubConnection
from pipeline.process.logs import Logger
from pipeline.store import hub_home
from pipeline.store.database import Database
from pipeline.store.hub_home import HomeIdentity

LEASE_S: Final = 30.0
# Of the lease; another may be home after the whole of it.
_HELD_FOR: Final = 0.7
_RENEW_EVERY_S: Final = 3.0
# A status has 216 bytes.
_MAX_SHOWN: Final = 60
FUNCTIONS: Final = ("hold_home_v1", "leave_home_v1")
"""What the hub must have for this."""


def place_of(path: Path) -> str:
    """Return where the database of this host lies, in a form that tells hosts apart."""
    return f"{os.uname().nodename}:{path}"


def own_identity(database: Database) -> HomeIdentity:
    """Return the id by which the hub knows this database; a copy gets one of its own."""
    file = database.path.stat().st_ino
    with database.read() as tx:
        found = hub_home.identity(tx, file)
    if found is not None:
        return found
    with database.write(durable=True) as tx:
        found = hub_home.identity(tx, file)
        if found is None:
            found = HomeIdentity(secrets.token_hex(16), 0)
            hub_home.put_identity(tx, found.id, file)
    return found


@dataclass(slots=True)
class HomeRole:
    """For one thread. `boot_time`: seconds since this machine was started."""

    boot_time: Callable[[], float]
    log: Logger
    problem: str = ""
    """Why this database is not home, for health."""
    _own: HomeIdentity | None = None
    _until: float = 0.0
    """Deadline of what is held (boot time)."""
    _renew_at: float = 0.0
    _connection: HubConnection | None = None

    @property
    def is_held(self) -> bool:
        """Return True while no other database can be home."""
        return self.boot_time() < self._until

    def turn(self, connection: HubConnection, database: Database) -> bool:
        """Hold the role, or try to; return True if it is held. Raises `HubUnavailable` or `HubRefused`."""
        if connection is not self._connection:
            self._connection, self._until, self._renew_at = connection, 0.0, 0.0
        # Before the request: the hub counts from later on.
        asked_at = self.boot_time()
        if asked_at >= self._renew_at:
            self._renew_at = asked_at + _RENEW_EVERY_S
            self._ask(connection, database, asked_at)
        return self.is_held

    def leave(self, connection: HubConnection) -> None:
        """Let the lease end, so that another is home at once. Raises `HubUnavailable` or `HubRefused`."""
        self._until = 0.0
        connection.call("leave_home_v1")

    def _ask(self, connection: HubConnection, database: Database, asked_at: float) -> None:
        own = self._own or own_identity(database)
        ((held, place, left_ms, is_same_place),) = connection.call(
            "hold_home_v1", own.id, place_of(database.path), round(LEASE_S * 1000), own.epoch
        )
        if held is None:
            self._until = 0.0
            self._wait(place, left_ms, is_same_place=is_same_place)
            return
        if held != own.epoch:
            # Before anything is done in this epoch: a process that follows this one is known by it.
            own = HomeIdentity(own.id, held)
            with database.write() as tx:
                hub_home.put_epoch(tx, own)
            self.log.info("this database is home", epoch=held)
        self._own, self._until, self.problem = own, asked_at + _HELD_FOR * LEASE_S, ""

    def _wait(self, place: str, left_ms: int, *, is_same_place: bool) -> None:
        if is_same_place:
            text = f"waits for the end of the lease of the home before this one, in {max(0, left_ms) // 1000} s"
        else:
            last_s = round(LEASE_S - left_ms / 1000)
            text = (
                f"another database is home, at {_shown(place)}, heard of {last_s} s ago: stop this service, or if that"
                " one is gone for good: event-service hub take-over"
            )
        if not self.problem:
            self.log.warning("this database is not home", reason=text)
        self.problem = text


def _shown(place: str) -> str:
    """Return a place that fits into the status of a stage."""
    return place if len(place) <= _MAX_SHOWN else f"{place[: _MAX_SHOWN // 2]}…{place[-_MAX_SHOWN // 2 :]}"
