"""Dials of relays that were lost a moment ago: one that waits as long as ever, and a fresh one beside it.

A relay that starts may be slow to greet those who come first, and something in front of it may leave those without an
answer who came before it started. Which it is does not show, so both are tried:

| a dial | event | then |
|---|---|---|
| fresh | its host does not answer, or anything refuses it | it ends |
| fresh | no handshake within `FRESH_AFTER_S`, and none waits | it waits on beside the next |
| fresh | no handshake within `FRESH_AFTER_S`, and one waits | it ends |
| fresh, or waiting beside it | an open websocket | that one is taken, the other ends |
| waiting, with no fresh one beside it | an open websocket | it is held for the next dial, for `HELD_S` at most |
| held | the next dial | it is taken, unless the relay has ended it |
"""

import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.nostr.address import RelayAddress
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.websocket import WebSocket

FRESH_AFTER_S: Final = 2.5
HELD_S: Final = 25.0
"""Where many relays are lost at once, the next dial of each takes its time. Less than what calls for a ping."""


@dataclass(slots=True, eq=False)
class _Attempt:
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class _Outcome:
    attempt: _Attempt
    result: WebSocket | Exception


class EagerDialler:
    """Dials in threads of its own; may be called in several at once, for one relay in one at a time."""

    __slots__ = ("_changed", "_dial", "_fresh_after_s", "_held_s", "_patient", "_waiting")

    def __init__(
        self, dial: Callable[[RelayAddress, Callable[[], bool]], WebSocket], fresh_after_s: float = FRESH_AFTER_S,
        held_s: float = HELD_S,
    ) -> None:  # fmt: skip
        """`dial` raises `DialError`, soon once the function that it is given returns True."""
        self._dial = dial
        self._fresh_after_s = fresh_after_s
        self._held_s = held_s
        self._changed = threading.Condition()
        # By address: the dial that waits on, and what the call that is under way is told of those that end.
        self._patient: dict[str, _Attempt] = {}
        self._waiting: dict[str, SimpleQueue[_Outcome]] = {}

    def dial(self, address: RelayAddress) -> WebSocket:
        """Return an open websocket; raises what `dial` raises, or `DialError` after `FRESH_AFTER_S`."""
        fresh, outcomes = _Attempt(), SimpleQueue[_Outcome]()
        with self._changed:
            self._waiting[address.url] = outcomes
            self._changed.notify_all()
        try:
            threading.Thread(target=self._attempt, args=(address, fresh), name="dial-lost", daemon=True).start()
            return self._first(address, fresh, outcomes)
        finally:
            with self._changed:
                del self._waiting[address.url]
            _close_all(outcomes)

    def _first(self, address: RelayAddress, fresh: _Attempt, outcomes: SimpleQueue[_Outcome]) -> WebSocket:
        while True:
            try:
                outcome = outcomes.get(timeout=self._fresh_after_s)
            except Empty:
                if self._keep(address.url, fresh, outcomes):
                    raise DialError(DialReason.TIMEOUT, "no handshake so far") from None
                continue
            if isinstance(outcome.result, WebSocket):
                self._cancel(address.url, fresh)
                return outcome.result
            if outcome.attempt is fresh:
                raise outcome.result

    def _keep(self, url: str, fresh: _Attempt, outcomes: SimpleQueue[_Outcome]) -> bool:
        """Let the fresh dial wait on if none does; False if one has ended after all."""
        with self._changed:
            if not outcomes.empty():
                return False
            fresh.is_cancelled = self._patient.setdefault(url, fresh) is not fresh
            return True

    def _cancel(self, url: str, fresh: _Attempt) -> None:
        with self._changed:
            for each in (fresh, self._patient.pop(url, fresh)):
                each.is_cancelled = True

    def _attempt(self, address: RelayAddress, attempt: _Attempt) -> None:
        result: WebSocket | Exception
        try:
            result = self._dial(address, lambda: attempt.is_cancelled)
        except Exception as error:
            result = error
        with self._changed:
            is_ended = isinstance(result, WebSocket) and self._hold(address.url, attempt) and _is_ended(result)
            if self._patient.get(address.url) is attempt:
                del self._patient[address.url]
            waiting = self._waiting.get(address.url)
            if waiting is not None and not attempt.is_cancelled and not is_ended:
                waiting.put(_Outcome(attempt, result))
                return
        if isinstance(result, WebSocket):
            result.close()

    def _hold(self, url: str, attempt: _Attempt) -> bool:
        """Wait for the next dial, as long as an open websocket is held; return False if one is under way."""
        if attempt.is_cancelled or url in self._waiting:
            return False
        self._changed.wait_for(lambda: attempt.is_cancelled or url in self._waiting, self._held_s)
        return True


def _close_all(outcomes: SimpleQueue[_Outcome]) -> None:
    """Close what came too late to be returned."""
    while not outcomes.empty():
        result = outcomes.get_nowait().result
        if isinstance(result, WebSocket):
            result.close()


def _is_ended(websocket: WebSocket) -> bool:
    """Return True if the relay has ended the connection since it was opened."""
    poll = select.poll()
    poll.register(websocket, select.POLLRDHUP)
    return bool(poll.poll(0))
