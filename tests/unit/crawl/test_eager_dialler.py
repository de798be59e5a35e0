"""Dials of lost relays: a fresh one every few seconds, and one that waits on beside it. No socket is connected."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from queue import SimpleQueue
from typing import TypeVar

import pytest

from pipeline.crawl.eager_dialler import EagerDialler
from pipeline.nostr.address import RelayAddress, parse_address
from pipeline.process.clock import SystemClock
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.websocket import WebSocket

T = TypeVar("T")
ADDRESS = parse_address("wss://relay.example")
PATIENCE_S = 60.0
# So long a call waits where nothing is to come, and another where something is.
_SOON_S, _LATE_S = 0.05, PATIENCE_S
REFUSED = DialError(DialReason.REFUSED, "connecting")


class Attempt:
    """A dial that is under way."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self.cancelled = cancelled
        self._answer: SimpleQueue[WebSocket | DialError] = SimpleQueue()

    def end(self, answer: WebSocket | DialError) -> None:
        self._answer.put(answer)

    def wait(self) -> WebSocket:
        answer = self._answer.get(timeout=PATIENCE_S)
        if isinstance(answer, DialError):
            raise answer
        return answer


class Dials:
    """The dials that a dialler begins, each ended by the test."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[Attempt] = SimpleQueue()

    def __call__(self, _: RelayAddress, cancelled: Callable[[], bool]) -> WebSocket:
        attempt = Attempt(cancelled)
        self.begun.put(attempt)
        return attempt.wait()

    def next(self) -> Attempt:
        return self.begun.get(timeout=PATIENCE_S)


class Call:
    """A call of the dialler in a thread, and what came of it."""

    def __init__(self, dialler: EagerDialler) -> None:
        self.result: WebSocket | Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(dialler,), daemon=True)
        self._thread.start()

    def _run(self, dialler: EagerDialler) -> None:
        try:
            self.result = dialler.dial(ADDRESS)
        except Exception as error:
            self.result = error

    def join(self) -> WebSocket | Exception | None:
        self._thread.join(PATIENCE_S)
        return self.result


@contextmanager
def open_websocket() -> Iterator[WebSocket]:
    ours, theirs = socket.socketpair()
    with theirs, closing(WebSocket(ours, SystemClock())) as made:
        yield made


def left_waiting(dials: Dials, dialler: EagerDialler) -> Attempt:
    """A dial that waits on after its call has ended."""
    with pytest.raises(DialError) as caught:
        dialler.dial(ADDRESS)
    assert caught.value.reason is DialReason.TIMEOUT
    return dials.next()


def diallers() -> tuple[Dials, EagerDialler, EagerDialler]:
    """Two views of one dialler: whose calls end soon, and whose calls wait."""
    dials = Dials()
    soon = EagerDialler(dials, _SOON_S)
    late = EagerDialler(dials, _LATE_S)
    late._patient, late._waiting, late._changed = soon._patient, soon._waiting, soon._changed
    return dials, soon, late


def hold(soon: EagerDialler, late: EagerDialler, patient: Attempt, found: WebSocket) -> None:
    """Let a dial that waits on find a websocket while no other is under way."""
    soon._changed = late._changed = holding = Holding()
    patient.end(found)
    assert holding.begins.wait(PATIENCE_S)


class Holding(threading.Condition):
    """Tells when a websocket begins to be held."""

    def __init__(self) -> None:
        super().__init__()
        self.begins = threading.Event()

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        self.begins.set()
        return super().wait_for(predicate, timeout)


def test_dial_that_ends_in_time_gives_what_it_found() -> None:
    dials, _, late = diallers()
    call = Call(late)
    dials.next().end(REFUSED)
    assert call.join() is REFUSED
    with open_websocket() as found:
        call = Call(late)
        dials.next().end(found)
        assert call.join() is found


def test_websocket_of_a_fresh_dial_is_given_even_if_the_relay_has_ended_it() -> None:
    """How it ended says more than no handshake."""
    dials, _, late = diallers()
    ours, theirs = socket.socketpair()
    theirs.close()
    call = Call(late)
    with closing(WebSocket(ours, SystemClock())) as found:
        dials.next().end(found)
        assert call.join() is found


def test_dial_that_waits_on_is_taken_when_it_is_greeted_first() -> None:
    dials, soon, late = diallers()
    patient = left_waiting(dials, soon)
    call = Call(late)
    fresh = dials.next()
    assert (patient.cancelled(), fresh.cancelled()) == (False, False)
    with open_websocket() as found:
        patient.end(found)
        assert call.join() is found
    assert fresh.cancelled()


def test_fresh_dial_is_taken_when_the_waiting_one_is_not_greeted() -> None:
    dials, soon, late = diallers()
    patient = left_waiting(dials, soon)
    call = Call(late)
    with open_websocket() as found:
        dials.next().end(found)
        assert call.join() is found
    assert patient.cancelled()


def test_end_of_the_waiting_dial_does_not_end_the_fresh_one() -> None:
    dials, soon, late = diallers()
    patient = left_waiting(dials, soon)
    call = Call(late)
    fresh = dials.next()
    patient.end(REFUSED)
    with open_websocket() as found:
        fresh.end(found)
        assert call.join() is found


def test_one_dial_waits_on_and_the_others_end() -> None:
    dials, soon, _ = diallers()
    first, second, third = (left_waiting(dials, soon) for _ in range(3))
    assert [each.cancelled() for each in (first, second, third)] == [False, True, True]


def test_websocket_that_came_between_two_dials_is_taken_by_the_second() -> None:
    dials, soon, late = diallers()
    patient = left_waiting(dials, soon)
    with open_websocket() as found:
        hold(soon, late, patient, found)
        call = Call(late)
        fresh = dials.next()
        assert call.join() is found
    assert fresh.cancelled()


def test_held_websocket_that_the_relay_has_ended_is_closed_and_not_taken() -> None:
    dials, soon, late = diallers()
    patient = left_waiting(dials, soon)
    ours, theirs = socket.socketpair()
    with theirs, open_websocket() as found:
        hold(soon, late, patient, WebSocket(ours, SystemClock()))
        theirs.shutdown(socket.SHUT_WR)
        call = Call(late)
        fresh = dials.next()
        wait_closed(theirs)
        fresh.end(found)
        assert call.join() is found


def test_websocket_that_nobody_waits_for_is_closed_after_a_while() -> None:
    dials = Dials()
    patient = left_waiting(dials, EagerDialler(dials, _SOON_S, held_s=_SOON_S))
    ours, theirs = socket.socketpair()
    with theirs:
        patient.end(WebSocket(ours, SystemClock()))
        wait_closed(theirs)


def wait_closed(theirs: socket.socket) -> None:
    """Wait until the other end of a connection is closed."""
    theirs.settimeout(PATIENCE_S)
    while theirs.recv(100):
        pass


def test_dial_whose_thread_cannot_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    dialler = EagerDialler(Dials())

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError):
        dialler.dial(ADDRESS)
    assert dialler._waiting == {}
