"""The one thread that serves all open connections of a crawler process.

With a thread for each relay, nearly every event of a busy network would wake one, which costs more than the event.
Nothing here waits for a single relay: what cannot be sent, or handed over, is left until a poll or the intake says that
it can be.
"""

import heapq
import itertools
import math
import os
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Final

from pipeline.crawl.connection import Connection
from pipeline.crawl.context import CrawlContext
from pipeline.crawl.reconnect import ConnectionResult
from pipeline.process.clock import pause
from pipeline.relay.errors import ConnectionLost
from pipeline.relay.websocket import WebSocket

# What relays send in so long is looked at once, and goes on its way together.
GATHER_S: Final = 0.04
# What comes of an answer is looked at sooner, since the next question waits for its end.
GATHER_ASKING_S: Final = 0.01
# So few messages in that time are looked at one by one, and up to so many after half of it.
FEW_MESSAGES: Final = 8
SOME_MESSAGES: Final = 160
# A relay that sent so many at once has more.
MANY_MESSAGES: Final = 32


class ReadCoalescer:
    """Times are monotonic seconds. The looks of all processes fall together, so that what follows them does too."""

    __slots__ = ("_before", "_count", "_slice")

    def __init__(self) -> None:
        self._slice = 0
        self._count = 0
        self._before = 0

    def next_read_at(self, now: float, messages: Sequence[int], *, is_asking: bool) -> float:
        """When to look again after a look that brought so many from each relay; `is_asking`: one has more to answer."""
        current = int(now / GATHER_S)
        if current != self._slice:
            self._before = self._count if current == self._slice + 1 else 0
            self._slice, self._count = current, 0
        self._count += sum(messages)
        in_slice = max(self._count, self._before)
        if in_slice <= FEW_MESSAGES or max(messages) >= MANY_MESSAGES:
            return now
        every_s = GATHER_S / 2 if in_slice <= SOME_MESSAGES else GATHER_S
        end = (int(now / every_s) + 1) * every_s
        return min(end, now + GATHER_ASKING_S) if is_asking else end


_MAX_WAIT_S: Final = 2.0
# How often it is looked whether the backpressure is over, or somebody wants something in spite of it.
_HOLD_CHECK_S: Final = 0.25


@dataclass(slots=True, eq=False)
class _Served:
    connection: Connection
    websocket: WebSocket
    ended: Callable[[ConnectionResult], object]
    since: float
    events: int = 0
    """What it is being polled for; not at all while that is 0."""
    timer: float = math.inf
    """The earliest of its times in the heap."""
    ending: ConnectionResult | None = None
    """Why it is over, from then on; the intake may not have taken all that came before."""


@dataclass(slots=True)
class Reactor:
    """Serves connections, in the thread that calls `run`; `register` and `finish` may be called in any other."""

    context: CrawlContext
    _poll: select.epoll = field(default_factory=select.epoll)
    _bell: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    _has_rung: bool = False
    _is_finishing: bool = False
    _has_ended: bool = False
    _called: SimpleQueue[_Served] = field(default_factory=SimpleQueue)
    _served: dict[int, _Served] = field(default_factory=dict)
    """By the descriptor of their channels, those that are not over."""
    _over: set[_Served] = field(default_factory=set)
    _timers: list[tuple[float, int, _Served]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _coalescer: ReadCoalescer = field(default_factory=ReadCoalescer)

    def register(
        self, connection: Connection, websocket: WebSocket, ended: Callable[[ConnectionResult], object]
    ) -> None:
        """Serve `connection` until it is over; then `websocket` is closed, and `ended` called in the reactor's thread.

        Who comes after the end of `run` is not served.
        """
        served = _Served(connection, websocket, ended, self.context.clock.monotonic())
        connection.open(lambda: self._call(served))
        self._call(served)
        if self._has_ended:
            websocket.close()

    def finish(self) -> None:
        """Let `run` end all connections, and return once the intake has taken what they brought."""
        self._is_finishing = True
        self._wake()

    def run(self) -> None:
        """Work until `finish`."""
        # Each ring is an edge, so that none needs to be read.
        self._poll.register(self._bell, select.EPOLLIN | select.EPOLLET)
        while not self._is_finishing:
            self.context.on_turn()
            if self.context.backpressure.is_open:
                self._round()
            else:
                self._pause()
        self._answer_calls()
        for served in list(self._served.values()):
            self._end(served, _closed_by_us())
        self._finish_closed()
        while self._over:
            self._poll.poll(_MAX_WAIT_S)
            self._answer_calls()
            self._finish_closed()
        self._has_ended = True
        self._answer_calls()
        for served in self._served.values():
            served.websocket.close()

    def _round(self) -> None:
        """Wait until something is to be done for any connection, and do it for all that it is to be done for."""
        ready = self._poll.poll(self._poll_timeout())
        if not self.context.backpressure.is_open:
            return
        due = self._answer_calls()
        due.update(self._served[descriptor] for descriptor, _ in ready if descriptor != self._bell)
        now = self.context.clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            served = heapq.heappop(self._timers)[2]
            served.timer = math.inf
            due.add(served)
        messages = [self._turn(served) for served in due if served.ending is None]
        self._finish_closed()
        began, now = now, self.context.clock.monotonic()
        self.context.late_pace.note(now - began, now)
        if any(messages):
            is_asking = any(served.connection.awaits_reply for served in due)
            pause(self._coalescer.next_read_at(now, messages, is_asking=is_asking) - now)

    def _poll_timeout(self) -> float:
        if not self._timers:
            return _MAX_WAIT_S
        return min(_MAX_WAIT_S, max(0.0, self._timers[0][0] - self.context.clock.monotonic()))

    def _turn(self, served: _Served) -> int:
        try:
            result = _turned(served)
        except Exception as error:
            self.context.log.exception(type(error).__name__, "relay failed", relay=served.connection.address)
            result = ConnectionResult("unknown", type(error).__name__)
        if isinstance(result, ConnectionResult):
            self._end(served, result)
            return 0
        self._await(served)
        return result

    def _await(self, served: _Served) -> None:
        """Poll for what the connection waits for now, and be back when it wants to be called."""
        channel, connection = served.websocket, served.connection
        self._poll_for(served, channel.send_events if connection.is_blocked else channel.events)
        has_more = channel.has_more and not connection.is_blocked
        self._call_at(served, -math.inf if has_more else connection.next_time)

    def _poll_for(self, served: _Served, events: int) -> None:
        if served.connection.is_blocked and served.websocket.send_by is None:
            # Not even for its end, which epoll(7) tells of whatever it is asked for.
            events = 0
        if events == served.events:
            return
        if not events:
            self._poll.unregister(served.websocket)
        elif served.events:
            self._poll.modify(served.websocket, events)
        else:
            self._poll.register(served.websocket, events)
        served.events = events

    def _call_at(self, served: _Served, time: float) -> None:
        if time < served.timer:
            served.timer = time
            heapq.heappush(self._timers, (time, next(self._numbers), served))

    def _pause(self) -> None:
        """Read nothing while too much waits to be saved; what relays send meanwhile waits in their own buffers."""
        while not self._is_finishing:
            self.context.on_turn()
            self._answer_calls()
            for served in list(self._served.values()):
                if served.connection.is_closing:
                    self._end(served, _closed_by_us())
                else:
                    served.connection.pause()
            self._finish_closed()
            if self.context.backpressure.wait(_HOLD_CHECK_S):
                break
        for served in self._served.values():
            served.connection.resume(served.websocket)
            self._call_at(served, -math.inf)

    def _end(self, served: _Served, ending: ConnectionResult) -> None:
        """Close the channel; the connection is over once all that it brought is taken."""
        del self._served[served.websocket.fileno()]
        if served.events:
            self._poll.unregister(served.websocket)
        served.websocket.close()
        lived = max(self.context.clock.monotonic() - served.since, 0.001)
        served.ending = replace(ending, lifetime_s=lived)
        self._over.add(served)

    def _finish_closed(self) -> None:
        """Hand over what the turns brought, and tell of those that are over and have nothing left to hand over."""
        over = [each for each in self._over if each.connection.finish()]
        self.context.batcher.send()
        for served in over:
            self._over.remove(served)
            assert served.ending is not None, "it is over"
            served.ended(replace(served.ending, was_productive=served.connection.was_productive))

    def _call(self, served: _Served) -> None:
        """Let `served` have a turn soon; in any thread."""
        self._called.put(served)
        self._wake()

    def _wake(self) -> None:
        if not self._has_rung:
            self._has_rung = True
            os.eventfd_write(self._bell, 1)

    def _answer_calls(self) -> set[_Served]:
        """Whoever was called for since; those that are new are registered."""
        # In this order: who calls from here on is found below, or rings once more.
        self._has_rung = False
        called: set[_Served] = set()
        while not self._called.empty():
            served = self._called.get_nowait()
            if served.ending is None:
                self._served[served.websocket.fileno()] = served
                called.add(served)
        return called


def _turned(served: _Served) -> int | ConnectionResult:
    """How many messages a turn brought, or that the connection is over."""
    connection = served.connection
    if connection.is_closing:
        return _closed_by_us()
    try:
        return connection.step(served.websocket)
    except ConnectionLost as error:
        return ConnectionResult(error.reason, error.detail, has_taught=connection.on_lost())


def _closed_by_us() -> ConnectionResult:
    return ConnectionResult("closed", "closed by us", by_request=True)
