"""One connection to the hub, and the calls of its functions: the only module that knows the PostgreSQL driver.

A host's role may call functions and nothing else. Each call is one autocommitted statement and one round trip, so that
a connection that breaks leaves nothing half done: whether the call took effect is then unknown, and every function that
changes something may be called again.

    what fails                                       raised             the caller
    no connection, or it broke, or the hub ends      `HubUnavailable`   connects again after a while
    the server is a standby that takes no changes    `HubUnavailable`   the same: another is the hub soon
    no such function, not allowed, wrong database    `HubRefused`       ends: trying again does not help
    an address or argument that the driver refuses   `HubRefused`       the same
    another connection is home since                 `NotHome`          asks again who is home
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

import psycopg
from psycopg import sql

from pipeline.errors import CannotStart, EventServiceError
from pipeline.printable import printable

# A cut line holds no lock and no session for longer than this, on either side. A statement ends well before a stage
# that waits for it is taken for hung.
_TIMEOUT_S: Final = 10
_PARAMETERS: Final[dict[str, Any]] = {
    "connect_timeout": _TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": _TIMEOUT_S * 1000,
    "application_name": "event-service",
    "options": "-c statement_timeout=20s -c lock_timeout=10s -c idle_in_transaction_session_timeout=30s"
    f" -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
    f" -c tcp_user_timeout={_TIMEOUT_S * 1000}",
}
# Classes of SQLSTATE that say nothing about the call: connection, resources, operator intervention, system, rollback;
# a lock that was not had in time, and a standby during a failover.
_TRANSIENT: Final = ("08", "40", "53", "57", "58", "55P03", "25006")
# Raised by `hub.require_home`.
_NOT_HOME: Final = "EH001"
_FUNCTIONS: Final = """
SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'hub'
"""

Row = tuple[Any, ...]
"""A row as the driver gives it; the function that is called says what its columns hold."""


class HubUnavailable(EventServiceError):
    """The hub cannot be reached, or the connection broke during a call; trying again may help."""


class NotHome(HubUnavailable):
    """The call is for the database that is home, and this connection does not act for it, or does no more."""


class HubRefused(CannotStart):
    """The hub refuses the login or the call; trying again does not help."""


class HubConnection:
    """A connection to the hub, to be used by one thread at a time, never across a fork. A context manager."""

    __slots__ = ("_connection", "_on_call")

    def __init__(self, connection: "psycopg.Connection[Row]", on_call: Callable[[], object] = lambda: None) -> None:
        self._connection = connection
        self._on_call = on_call

    @classmethod
    def open(cls, url: str, timeout_s: float = _TIMEOUT_S, on_call: Callable[[], object] = lambda: None) -> Self:
        """Connect, within whole seconds. Raises `HubUnavailable` or `HubRefused`.

        `on_call` is called before each wait for the hub, which may take as long as a stage may stand still.
        """
        on_call()
        with translated():
            parameters = _PARAMETERS | {"connect_timeout": max(1, round(timeout_s))}
            return cls(psycopg.connect(url, autocommit=True, **parameters), on_call)

    def call(self, function: str, *arguments: Any) -> list[Row]:
        """Return the rows of a function of schema `hub`. Raises `HubUnavailable` or `HubRefused`."""
        statement = sql.SQL("SELECT * FROM {}({})").format(
            sql.Identifier("hub", function), sql.SQL(", ").join([sql.Placeholder()] * len(arguments))
        )
        self._on_call()
        with translated():
            # Prepared once: a call is planned in a fraction of its time then.
            return self._connection.execute(statement, arguments, prepare=True, binary=True).fetchall()

    def require(self, functions: Sequence[str]) -> None:
        """Raise `HubRefused` unless the hub has all these functions."""
        with translated():
            rows = self._connection.execute(_FUNCTIONS).fetchall()
        missing = ", ".join(sorted(set(functions) - {name for (name,) in rows}))
        if missing:
            raise HubRefused(
                f"the hub lacks {missing}: update the home host first and run event-service hub migrate there"
            )

    def listen(self, channel: str) -> None:
        """Let `wait` end at notifications of `channel`, which is prefixed by the name of the database."""
        name = sql.Identifier(f"{self._connection.info.dbname}_{channel}")
        with translated():
            self._connection.execute(sql.SQL("LISTEN {}").format(name))

    def wait(self, timeout_s: float) -> bool:
        """Wait for a notification; return True if one came, or had come since the last call."""
        with translated():
            return any(True for _ in self._connection.notifies(timeout=timeout_s, stop_after=1))

    def abort(self) -> None:
        """End what another thread waits for, which gets `HubUnavailable`; the connection is of no use after it."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; harmless when repeated or broken."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def translated() -> Iterator[None]:
    """Let errors of the driver come out as `HubUnavailable` or `HubRefused`."""
    try:
        yield
    except psycopg.Error as error:
        raise _failure(error) from error


def open_as_owner(url: str) -> "psycopg.Connection[Row]":
    """Return a connection of the driver for the hub's owner, who changes its schema. Raises errors of the driver."""
    return psycopg.connect(url, **_PARAMETERS)


def _failure(error: psycopg.Error) -> EventServiceError:
    state = error.sqlstate
    text = printable(str(error).strip().partition("\n")[0])
    if state is None:
        # Nothing was asked of the server: it could not be reached, or the driver did not take what it was given.
        is_ours = isinstance(error, psycopg.DataError | psycopg.ProgrammingError)
        return HubRefused(f"hub: {text}") if is_ours else HubUnavailable(f"hub: {text}")
    if state == _NOT_HOME:
        return NotHome(f"hub: {text}")
    if state.startswith(_TRANSIENT):
        return HubUnavailable(f"hub: {text}")
    return HubRefused(f"hub: {text} ({state})")
