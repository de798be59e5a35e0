"""The line of a stage to the hub: a connection that is made again after it broke, after growing delays."""

import random
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.hub.connection import HubConnection, HubUnavailable
from pipeline.process.backoff import Backoff
from pipeline.process.clock import Clock
from pipeline.process.logs import Logger

_RETRY: Final = Backoff(base_s=0.1, factor=2.0, cap_s=5.0, jitter=0.5)
# A restart of the hub is not worth a word in health.
_PATIENCE_S: Final = 10.0


class HubLine:
    """Owned by one thread; `close` ends it."""

    __slots__ = (
        "_clock", "_connection", "_failures", "_functions", "_log", "_lost_at", "_on_call", "_reason", "_retry_at",
        "_url",
    )  # fmt: skip

    def __init__(
        self,
        url: str,
        functions: Sequence[str],
        clock: Clock,
        log: Logger,
        on_call: Callable[[], object] = lambda: None,
    ) -> None:
        """`functions`: what the hub must have for this version of the stage. `on_call`: see `HubConnection.open`."""
        self._url = url
        self._functions = functions
        self._clock = clock
        self._log = log
        self._on_call = on_call
        self._connection: HubConnection | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._lost_at = clock.monotonic()
        self._reason = "not connected yet"

    def get(self, on_connect: Callable[[HubConnection], None]) -> HubConnection | None:
        """Return the connection, made again if that is due; None while there is none.

        `on_connect` is called with a new one before it is returned. Raises `HubRefused`.
        """
        if self._connection is not None or self._clock.monotonic() < self._retry_at:
            return self._connection
        try:
            connection = HubConnection.open(self._url, on_call=self._on_call)
            self._connection = connection
            connection.require(self._functions)
            on_connect(connection)
        except HubUnavailable as error:
            self.on_failure(error)
            return None
        self._log.info("connected to the hub", failures=self._failures)
        self._failures = 0
        return connection

    def on_failure(self, error: HubUnavailable) -> None:
        """Note that the connection broke, or could not be made."""
        now = self._clock.monotonic()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if not self._failures:
            self._lost_at = now
            self._log.warning("no connection to the hub", reason=str(error))
        self._failures += 1
        self._reason = str(error)
        self._retry_at = now + _RETRY.delay_s(self._failures, random.SystemRandom())

    def problem(self) -> str:
        """Return what is wrong, for health; empty while there is a connection or has been a moment ago."""
        if self._connection is not None or self._clock.monotonic() - self._lost_at < _PATIENCE_S:
            return ""
        return f"hub is unreachable: {self._reason.removeprefix('hub: ')}"

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
