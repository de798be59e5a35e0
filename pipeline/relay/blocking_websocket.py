"""An open websocket to a relay for a thread that serves nobody else: the calls of a `WebSocket`, with waiting."""

import select

from pipeline.process.clock import Clock
from pipeline.relay.deadline import Deadline
from pipeline.relay.frames import SkippedMessage
from pipeline.relay.websocket import WebSocket


class BlockingWebSocket:
    """Waits for `websocket`, which it owns. For one thread; after `ConnectionLost` only `close` is of use."""

    __slots__ = ("_clock", "_websocket", "skipped")

    def __init__(self, websocket: WebSocket, clock: Clock) -> None:
        self._websocket = websocket
        self._clock = clock
        self.skipped = 0
        """How many messages were too long to be taken."""

    @property
    def last_received(self) -> float:
        """The monotonic time of the last bytes."""
        return self._websocket.last_received

    def receive(self, timeout_s: float) -> list[bytes]:
        """The next complete messages in order; [] once `timeout_s` have passed.

        Raises `ConnectionLost` after the last one. Pings are answered on the way.
        """
        deadline = Deadline(self._clock, timeout_s)
        while True:
            received = self._websocket.receive()
            messages = [each for each in received if not isinstance(each, SkippedMessage)]
            self.skipped += len(received) - len(messages)
            if messages or deadline.expired:
                return messages
            if not self._websocket.has_more:
                self._wait(self._websocket.events, deadline.remaining())

    def send(self, text: str | bytes) -> None:
        """Send one text message, all of it, within the send timeout; raises `ConnectionLost`.

        Nothing is received meanwhile.
        """
        self._websocket.send(text)
        self._wait_sent()

    def ping(self) -> None:
        """Send a ping; whatever comes back moves `last_received`. Raises `ConnectionLost`."""
        self._websocket.ping()
        self._wait_sent()

    def close(self) -> None:
        """Say goodbye if that needs no waiting, and let go of the socket. Closing twice does nothing."""
        self._websocket.close()

    def _wait_sent(self) -> None:
        while (send_by := self._websocket.send_by) is not None:
            self._wait(self._websocket.send_events, send_by - self._clock.monotonic())
            self._websocket.flush()

    def _wait(self, events: int, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._websocket, events)
        poll.poll(1000 * max(0.0, timeout_s))
