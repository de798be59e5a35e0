"""The connections of one probe: dialled when they are needed, bounded in number and bytes."""

from collections.abc import Callable
from typing import Final

from pipeline.errors import EventServiceError
from pipeline.printable import count_of
from pipeline.probe.collector import AnswerCollector
from pipeline.probe.exchange import Ask, Channel, Reply
from pipeline.process.clock import Clock, pause
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.errors import ConnectionLost, DialError
from pipeline.relay.websocket import WebSocket

MAX_DIALS: Final = 80
MAX_BYTES: Final = 128 << 20
# Some relays hear nothing in the first moments of a connection; most send their challenge then.
SETTLE_S: Final = 0.5
# Some ban an address for a second or two after each connection that ends.
_DIAL_AGAIN_S: Final = (1.0, 3.0, 10.0)
# Messages that come while nothing is asked, and are kept for who waits for live events.
_MOST_PASSED: Final = 256


class BudgetSpent(EventServiceError):
    """No more may be asked: of requests, bytes, dials or time, whichever it says."""


class _Open:
    __slots__ = ("challenge", "passed", "websocket", "wire")

    def __init__(self, websocket: WebSocket, clock: Clock) -> None:
        self.wire = websocket
        self.websocket = BlockingWebSocket(websocket, clock)
        self.challenge: str | None = None
        self.passed: list[bytes] = []
        """What came while nothing was asked."""


class Connections:
    """Two connections at most, by `Channel`. For one thread."""

    def __init__(self, connect: Callable[[], WebSocket], clock: Clock, *, ends_at: float, settle_s: float) -> None:
        """`connect` dials, or raises `DialError`; nothing is waited for beyond `ends_at` (monotonic)."""
        self._connect = connect
        self._clock = clock
        self._ends_at = ends_at
        self._settle_s = settle_s
        self._open: dict[Channel, _Open] = {}
        self._closed_bytes = 0
        self._most_dials = MAX_DIALS
        self._most_bytes = MAX_BYTES
        self.dials = 0
        self.has_connected = False

    @property
    def bytes_received(self) -> int:
        """On all connections."""
        return self._closed_bytes + sum(each.wire.bytes_received for each in self._open.values())

    def exchange(self, ask: Ask, patience_s: float) -> Reply:
        """Ask and return what came, within `patience_s` after the last event; raises `BudgetSpent`, `DialError`."""
        connection = self._opened(ask.line)
        now = self._clock.monotonic()
        collector = AnswerCollector(ask, now, now + patience_s, connection.challenge)
        if not ask.awaits_event:
            for raw in connection.passed:
                collector.feed_earlier(raw, now)
            connection.passed = []
        try:
            for frame in ask.frames:
                connection.websocket.send(frame)
            return self._gather(connection, collector)
        except ConnectionLost as error:
            self.close(ask.line)
            return collector.on_lost(error.detail, self._clock.monotonic())
        finally:
            connection.challenge = collector.challenge

    def grant(self, seconds: float) -> None:
        """Allow one more exchange on a new connection within so many seconds, whatever was spent."""
        self.close_all()
        self._ends_at = self._clock.monotonic() + seconds
        self._most_dials = self.dials + 1
        self._most_bytes = self.bytes_received + MAX_BYTES

    def send(self, frame: str, line: Channel) -> None:
        """Send what has no answer, if the connection is open."""
        if (connection := self._open.get(line)) is not None:
            try:
                connection.websocket.send(frame)
            except ConnectionLost:
                self.close(line)

    def rest(self, seconds: float) -> None:
        """Ask nothing for so long; pings are answered."""
        until = min(self._clock.monotonic() + seconds, self._ends_at)
        while (left := until - self._clock.monotonic()) > 0:
            for line, connection in list(self._open.items()):
                self._pass_over(line, connection, left / len(self._open))
            if not self._open:
                self._wait(left)

    def close(self, line: Channel) -> None:
        """End the connection, if it is open."""
        if (connection := self._open.pop(line, None)) is not None:
            self._closed_bytes += connection.wire.bytes_received
            connection.websocket.close()

    def close_all(self) -> None:
        """End both."""
        for line in list(self._open):
            self.close(line)

    def challenge(self, line: Channel) -> str | None:
        """Return the newest challenge of the open connection."""
        connection = self._open.get(line)
        return None if connection is None else connection.challenge

    def is_open(self, line: Channel) -> bool:
        """Return True if the next exchange needs no dial."""
        return line in self._open

    def _gather(self, connection: _Open, collector: AnswerCollector) -> Reply:
        while True:
            now = self._clock.monotonic()
            if now >= collector.deadline:
                return collector.on_silence(now)
            if now >= self._ends_at:
                raise BudgetSpent("its time is over")
            if self.bytes_received > self._most_bytes:
                raise BudgetSpent("it sent too many bytes")
            came, connection.passed = connection.passed, []
            came = came or connection.websocket.receive(min(collector.deadline, self._ends_at) - now)
            for number, raw in enumerate(came, 1):
                answer = collector.feed(raw, self._clock.monotonic())
                if answer is not None:
                    connection.passed = came[number:]
                    return answer

    def _opened(self, line: Channel) -> _Open:
        if line not in self._open:
            self._open[line] = _Open(self._dialled(), self._clock)
            self._settle(line)
        if line not in self._open:
            # Lost while it settled: once more, and what follows shows it.
            self._open[line] = _Open(self._dialled(), self._clock)
        return self._open[line]

    def _settle(self, line: Channel) -> None:
        """Take the challenge that a connection may begin with."""
        connection = self._open[line]
        now = self._clock.monotonic()
        nothing = Ask((), "")
        collector = AnswerCollector(nothing, now, now + self._settle_s, None)
        try:
            self._gather(connection, collector)
        except ConnectionLost:
            self.close(line)
        connection.challenge = collector.challenge

    def _dialled(self) -> WebSocket:
        for wait_s in (*_DIAL_AGAIN_S, None):
            if self.dials >= self._most_dials:
                raise BudgetSpent(f"{count_of(self._most_dials, 'connection', 'were')} made")
            self.dials += 1
            try:
                websocket = self._connect()
            except DialError as error:
                if wait_s is None or error.permanent or self.dials == 1:
                    raise
                self._wait(max(wait_s, error.retry_after_s or 0))
            else:
                self.has_connected = True
                return websocket
        raise AssertionError("the last trial returns or raises")

    def _wait(self, seconds: float) -> None:
        if self._clock.monotonic() + seconds >= self._ends_at:
            raise BudgetSpent("its time is over")
        pause(seconds)

    def _pass_over(self, line: Channel, connection: _Open, seconds: float) -> None:
        try:
            came = connection.websocket.receive(seconds)
            connection.passed += came[: max(0, _MOST_PASSED - len(connection.passed))]
        except ConnectionLost:
            self.close(line)
