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
from pipeline.crawl.path_watch import QUIET_S, PathVerdict, PathWatch
from pipeline.crawl.reconnect import ConnectionResult
from pipeline.process.clock import pause
from pipeline.process.stage_times import WaitReason
from pipeline.relay.errors import ConnectionLost
from pipeline.relay.tcp_path import TcpPath
from pipeline.relay.websocket import WebSocket

# Looks at what relays send begin so far apart: the shortest step that is `REST` times as long as a look takes.
STEPS_S: Final = (0.01, 0.02, 0.04)
REST: Final = 3.0
# What comes of an answer is looked at sooner, since the next question waits for its end.
GATHER_ASKING_S: Final = 0.01
# So few messages in the longest step are looked at one by one.
FEW_MESSAGES: Final = 8
# A relay that sent so many at once has more.
MANY_MESSAGES: Final = 32
# How much the last look counts, of what looks take.
_SHARE_OF_LAST: Final = 0.125


class ReadCoalescer:
    """When to look at the relays again. Times are monotonic seconds.

    Few messages are looked at as they come. Of many, those that come within a step are looked at together, which costs
    less than one by one. The step is short while the thread keeps up, and grows with what a look takes: with more
    messages, or where others use the processor. The looks of all processes fall together, so that what follows them
    does too.
    """

    __slots__ = ("_before", "_count", "_slice", "_took_s")

    def __init__(self) -> None:
        self._slice = 0
        self._count = 0
        self._before = 0
        self._took_s = 0.0

    def next_read_at(self, now: float, messages: Sequence[int], took_s: float, *, is_asking: bool) -> float:
        """When to look again after a look that brought so many from each relay; `is_asking`: one has more to answer."""
        current = int(now / STEPS_S[-1])
        if current != self._slice:
            self._before = self._count if current == self._slice + 1 else 0
            self._slice, self._count = current, 0
        self._count += sum(messages)
        self._took_s += _SHARE_OF_LAST * (took_s - self._took_s)
        if max(self._count, self._before) <= FEW_MESSAGES or max(messages) >= MANY_MESSAGES:
            return now
        step_s = next((step_s for step_s in STEPS_S if step_s >= REST * self._took_s), STEPS_S[-1])
        end = (int(now / step_s) + 1) * step_s
        return min(end, now + GATHER_ASKING_S) if is_asking else end


_MAX_WAIT_S: Final = 2.0
# While turns take longer than this together, it is looked who has sent something.
_LOOK_S: Final = 0.015
# How often it is looked whether the backpressure is over, or somebody wants something in spite of it.
_HOLD_CHECK_S: Final = 0.25


@dataclass(slots=True, eq=False)
class _Entry:
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
    _ready: SimpleQueue[_Entry] = field(default_factory=SimpleQueue)
    _entries: dict[int, _Entry] = field(default_factory=dict)
    """By the descriptor of their websockets, those that are not over."""
    _closing: set[_Entry] = field(default_factory=set)
    _timers: list[tuple[float, int, _Entry]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _coalescer: ReadCoalescer = field(default_factory=ReadCoalescer)
    _paths: PathWatch = field(default_factory=PathWatch)

    def register(
        self, connection: Connection, websocket: WebSocket, ended: Callable[[ConnectionResult], object]
    ) -> None:
        """Serve `connection` until it is over; then `websocket` is closed, and `ended` called in the reactor's thread.

        Who comes after the end of `run` is not served.
        """
        entry = _Entry(connection, websocket, ended, self.context.clock.monotonic())
        connection.open(lambda: self._call(entry))
        self._call(entry)
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
        for entry in list(self._entries.values()):
            self._end(entry, _closed_by_us())
        self._finish_closed()
        while self._closing:
            self._poll.poll(_MAX_WAIT_S)
            self._answer_calls()
            self._finish_closed()
        self._has_ended = True
        self._answer_calls()
        for entry in self._entries.values():
            entry.websocket.close()

    def _round(self) -> None:
        """Wait until something is to be done for any connection, and do it for all that it is to be done for."""
        with self.context.waiting(WaitReason.NETWORK):
            ready = self._poll.poll(self._poll_timeout())
        due = dict.fromkeys(self._readable(ready))
        self._end_lapsed()
        if not self.context.backpressure.is_open:
            return
        due.update(dict.fromkeys(self._answer_calls()))
        now = self.context.clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            entry = heapq.heappop(self._timers)[2]
            entry.timer = math.inf
            due[entry] = None
        due.update(dict.fromkeys(self._doubtful(now)))
        messages = self._step_all(due, now)
        self._finish_closed()
        began, now = now, self.context.clock.monotonic()
        took_s = now - began
        self.context.late_pace.note(took_s, now)
        if any(messages):
            is_asking = any(entry.connection.awaits_reply for entry in due)
            with self.context.waiting(WaitReason.TIMER):
                pause(self._coalescer.next_read_at(now, messages, took_s, is_asking=is_asking) - now)

    def _readable(self, polled: Sequence[tuple[int, int]]) -> list[_Entry]:
        return [self._entries[descriptor] for descriptor, _ in polled if descriptor != self._bell]

    def _step_all(self, due: dict[_Entry, None], now: float) -> list[int]:
        """Let each have a turn, in order; returns how many messages each turn brought.

        Whoever sends something while the others take long has a turn before them, is `due` with them, and what came by
        then is handed over.
        """
        waiting, messages = dict.fromkeys(due), list[int]()
        # Bounded, so that the last has its turn however much the others send.
        for looks in range(len(waiting), -1, -1):
            while waiting:
                entry = next(iter(waiting))
                del waiting[entry]
                if entry.ending is None:
                    messages.append(self._step(entry))
                if looks and (since := self.context.clock.monotonic()) - now >= _LOOK_S:
                    now = since
                    break
            if not waiting:
                break
            self.context.batcher.send()
            sending = dict.fromkeys(self._readable(self._poll.poll(0)))
            due.update(sending)
            waiting = sending | waiting
        return messages

    def _poll_timeout(self) -> float:
        if self._has_rung:
            # Maybe a look between two turns took the edge.
            return 0.0
        fence = self.context.fence
        most_s = _MAX_WAIT_S
        if fence is not None and self._entries:
            most_s = min(most_s, fence.remaining_s)
        if not self._timers:
            return most_s
        return min(most_s, max(0.0, self._timers[0][0] - self.context.clock.monotonic()))

    def _end_lapsed(self) -> None:
        """End all connections once nothing may be asked any more, before anything else is done with any."""
        fence = self.context.fence
        if fence is not None and not fence.remaining_s:
            for entry in list(self._entries.values()):
                self._end(entry, _lapsed())

    def _step(self, entry: _Entry) -> int:
        try:
            # Each of the steps of one round may have taken long.
            result = _stepped(entry) if self.context.may_ask(entry.connection.host_key) else _lapsed()
        except Exception as error:
            self.context.log.exception(type(error).__name__, "relay failed", relay=entry.connection.address)
            result = ConnectionResult("unknown", type(error).__name__)
        if isinstance(result, ConnectionResult):
            self._end(entry, result)
            return 0
        self._await(entry)
        return result

    def _doubtful(self, now: float) -> list[_Entry]:
        """Connections that may lead nowhere any more, each told the verdict on it; looked for every second."""
        if not self._paths.is_due(now):
            return []
        entries = [each for each in self._entries.values() if not each.connection.is_blocked]
        verdicts = self._paths.judge([_path(each, now) for each in entries], now)
        doubtful = [
            (entry, each) for entry, each in zip(entries, verdicts, strict=True) if each is not PathVerdict.FINE
        ]
        for entry, verdict in doubtful:
            entry.connection.on_path_doubtful(verdict)
        return [entry for entry, _ in doubtful]

    def _await(self, entry: _Entry) -> None:
        """Poll for what the connection waits for now, and be back when it wants to be called."""
        websocket, connection = entry.websocket, entry.connection
        self._poll_for(entry, websocket.send_events if connection.is_blocked else websocket.events)
        has_more = websocket.has_more and not connection.is_blocked
        self._call_at(entry, -math.inf if has_more else connection.next_time)

    def _poll_for(self, entry: _Entry, events: int) -> None:
        if entry.connection.is_blocked and entry.websocket.send_by is None:
            # Not even for its end, which epoll(7) tells of whatever it is asked for.
            events = 0
        if events == entry.events:
            return
        if not events:
            self._poll.unregister(entry.websocket)
        elif entry.events:
            self._poll.modify(entry.websocket, events)
        else:
            self._poll.register(entry.websocket, events)
        entry.events = events

    def _call_at(self, entry: _Entry, time: float) -> None:
        if time < entry.timer:
            entry.timer = time
            heapq.heappush(self._timers, (time, next(self._numbers), entry))

    def _pause(self) -> None:
        """Read nothing while too much waits to be saved; what relays send meanwhile waits in their own buffers."""
        while not self._is_finishing:
            self.context.on_turn()
            self._end_lapsed()
            self._answer_calls()
            for entry in list(self._entries.values()):
                if entry.connection.is_closing:
                    self._end(entry, _closed_by_us())
                else:
                    entry.connection.pause()
            self._finish_closed()
            with self.context.waiting(WaitReason.WORK):
                is_open = self.context.backpressure.wait(_HOLD_CHECK_S)
            if is_open:
                break
        for entry in self._entries.values():
            entry.connection.resume(entry.websocket)
            self._call_at(entry, -math.inf)

    def _end(self, entry: _Entry, ending: ConnectionResult) -> None:
        """Close the websocket; the connection is over once all that it brought is taken."""
        del self._entries[entry.websocket.fileno()]
        if entry.events:
            self._poll.unregister(entry.websocket)
        entry.websocket.close()
        lived = max(self.context.clock.monotonic() - entry.since, 0.001)
        entry.ending = replace(ending, lifetime_s=lived)
        self._closing.add(entry)

    def _finish_closed(self) -> None:
        """Hand over what the turns brought, and tell of those that are over and have nothing left to hand over."""
        over = [each for each in self._closing if each.connection.finish()]
        self.context.batcher.send()
        for entry in over:
            self._closing.remove(entry)
            assert entry.ending is not None, "it is over"
            entry.ended(replace(entry.ending, was_productive=entry.connection.was_productive))

    def _call(self, entry: _Entry) -> None:
        """Let a connection have a turn soon; in any thread."""
        self._ready.put(entry)
        self._wake()

    def _wake(self) -> None:
        if not self._has_rung:
            self._has_rung = True
            os.eventfd_write(self._bell, 1)

    def _answer_calls(self) -> set[_Entry]:
        """Whoever was called for since; those that are new are registered."""
        # In this order: who calls from here on is found below, or rings once more.
        self._has_rung = False
        called: set[_Entry] = set()
        while not self._ready.empty():
            entry = self._ready.get_nowait()
            if entry.ending is None:
                self._entries[entry.websocket.fileno()] = entry
                called.add(entry)
        return called


def _stepped(entry: _Entry) -> int | ConnectionResult:
    """How many messages a turn brought, or that the connection is over."""
    connection = entry.connection
    if connection.is_closing:
        return _closed_by_us()
    try:
        return connection.step(entry.websocket)
    except ConnectionLost as error:
        return ConnectionResult(error.reason, error.detail, has_taught=connection.on_lost(error.reason))


def _path(entry: _Entry, now: float) -> TcpPath:
    """The path of a connection, which is known to work where something came lately."""
    websocket = entry.websocket
    return TcpPath() if now - websocket.last_received < QUIET_S else websocket.path


def _lapsed() -> ConnectionResult:
    return ConnectionResult("lapsed", "the right to ask it ran out", by_request=True)


def _closed_by_us() -> ConnectionResult:
    return ConnectionResult("closed", "closed by us", by_request=True)
