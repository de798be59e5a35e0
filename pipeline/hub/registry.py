"""Registrations and departures at the hub before they are acknowledged, and from there in a restored database."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pipeline.hub.connection import HubConnection, HubUnavailable, NotHome
from pipeline.hub.home_role import own_identity, place_of
from pipeline.process.backoff import Backoff
from pipeline.process.clock import Clock
from pipeline.store import user_acts
from pipeline.store.database import Database
from pipeline.store.user_acts import ActRules, UserAct, UserActKind

# A client waits for it, and those who come after it.
TIMEOUT_S: Final = 3.0
# While the hub does not answer, others are refused at once.
_RETRY: Final = Backoff(base_s=0.5, factor=2.0, cap_s=5.0, jitter=0.5)
# Some 500 KB of registrations, and a transaction of tens of milliseconds.
_SLICE: Final = 100

FUNCTIONS: Final = ("enter_home_v1", "put_user_act_v1", "user_acts_v1")
"""What the hub must have for this."""


def redo(connection: HubConnection, database: Database, rules: ActRules, until: int | None = None) -> tuple[int, int]:
    """Do what the hub has beyond this database, before act `until`; return how many acts, and of how much effect.

    Raises `HubUnavailable` or `HubRefused`.
    """
    done = changed = 0
    while True:
        with database.read() as tx:
            after = user_acts.position(tx)
        found = [_act(*row) for row in connection.call("user_acts_v1", after, _SLICE)]
        acts = [each for each in found if until is None or each.number < until]
        if acts:
            with database.write(durable=True) as tx:
                changed += user_acts.redo(tx, acts, rules)
            done += len(acts)
        if len(acts) < _SLICE:
            return done, changed


def _act(number: int, kind: str, public_key: bytes, at: int, event: bytes | None) -> UserAct:
    return UserAct(UserActKind(kind), bytes(public_key), at, None if event is None else bytes(event), number)


@dataclass(slots=True)
class HubRegistry:
    """A line to the hub for acts of users and of the operator, each in bounded time. For one thread."""

    url: str
    rules: ActRules
    clock: Clock
    timeout_s: float = TIMEOUT_S
    _connection: HubConnection | None = None
    _failures: int = 0
    _retry_at: float = 0.0
    _reason: str = ""
    _random: random.Random = field(default_factory=random.SystemRandom)

    def record(self, database: Database, act: UserAct) -> Sequence[UserAct]:
        """Let the hub have an act, and this database what came before it; return the act with its number.

        Raises `HubUnavailable`, also where another database is home: whether the hub has it is not known then, and it
        may be recorded again. Raises `HubRefused`.
        """
        if self.clock.monotonic() < self._retry_at:
            raise HubUnavailable(self._reason)
        try:
            try:
                recorded = self._put(database, act)
            except NotHome:
                # The stage that holds the role began a new epoch.
                self.close()
                recorded = self._put(database, act)
        except HubUnavailable as error:
            self._on_failure(error)
            raise
        self._failures = 0
        return (recorded,)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _put(self, database: Database, act: UserAct) -> UserAct:
        connection = self._connection or self._open(database)
        with database.read() as tx:
            position = user_acts.position(tx)
        with self._bounded(connection):
            ((number,),) = connection.call(
                "put_user_act_v1", act.kind.value, act.public_key, act.at, act.event, position
            )
            if number != position + 1:
                redo(connection, database, self.rules, until=number)
        return UserAct(act.kind, act.public_key, act.at, act.event, number)

    def _open(self, database: Database) -> HubConnection:
        connection = HubConnection.open(self.url, timeout_s=self.timeout_s)
        self._connection = connection
        with self._bounded(connection):
            connection.require(FUNCTIONS)
            ((held, place),) = connection.call("enter_home_v1", own_identity(database).id, place_of(database.path))
        if held is None:
            raise NotHome(f"another database is home, at {place}")
        return connection

    def _on_failure(self, error: HubUnavailable) -> None:
        self.close()
        self._failures += 1
        self._reason = str(error)
        self._retry_at = self.clock.monotonic() + _RETRY.delay_s(self._failures, self._random)

    @contextmanager
    def _bounded(self, connection: HubConnection) -> Iterator[None]:
        """End the calls made within, which raise `HubUnavailable` then, when they take too long."""
        timer = threading.Timer(self.timeout_s, connection.abort)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
