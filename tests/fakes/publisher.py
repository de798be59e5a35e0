"""A plain Nostr client that publishes: EVENT out, OK in, a bounded number on the way."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import monotonic
from typing import Self

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.factories.events import SignedEvent
from tests.fakes.greeting import greet
from tests.fakes.net import pause

WINDOW = 16
"""Events on the way to a relay. More, or bursts, run into Nagle's algorithm at the relay and get slower."""
CONNECTION_EVENTS = 5000
"""Events sent over one connection; nostr-sdk's relay drops one after 6,000 messages in a minute."""
_MOST_TRIES = 4
"""How often one event is sent to a relay that lost the connection or was too busy for it."""
_MOST_LOSSES = 30
"""Connections lost or refused one after another, without any answer between, before the relay counts as gone."""
_BREATH_S = 1.0
_ANSWER_S = 60.0


@dataclass(slots=True)
class Answers:
    """What a relay said of the events: ids it accepted, and its reason for each that it refused."""

    accepted: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many events have been answered."""
        return len(self.accepted) + len(self.refused)


def publish_events(
    url: str, events: Sequence[SignedEvent], *, window: int = WINDOW, timeout_s: float = 60.0
) -> Answers:
    """Send different `events` and wait for every OK; raises `TimeoutError`, or what the connection raises."""
    answers = Answers()
    deadline = monotonic() + timeout_s
    for start in range(0, len(events), CONNECTION_EVENTS):
        part = events[start : start + CONNECTION_EVENTS]
        with connect(url, max_size=None, compression=None, proxy=None, open_timeout=_ANSWER_S) as socket:
            for sent, event in enumerate(part, start + 1):
                socket.send(f'["EVENT",{event.raw}]')
                _await(socket, answers, sent - window, deadline)
            _await(socket, answers, start + len(part), deadline)
    return answers


def _await(socket: ClientConnection, answers: Answers, count: int, deadline: float) -> None:
    while answers.count < count:
        _note(answers, socket.recv(timeout=max(deadline - monotonic(), 0.0)))


def _note(answers: Answers, frame: str | bytes) -> str | None:
    """Keep what one frame says; the id that it answers."""
    match json.loads(frame):
        case ["OK", str(event_id), True, *_]:
            answers.accepted.add(event_id)
        case ["OK", str(event_id), False, str(reason)]:
            answers.refused[event_id] = reason
        case _:
            return None
    return event_id


class PatientPublisher:
    """Publishes to a relay that may cut connections, be away or ask for less, until each event is answered for good.

    Raises what the connection raised once the relay counts as gone.

    `answers` holds what became of each event: refused are those that the relay does not want and those that it did not
    answer in so many tries. A context manager; one connection at a time.
    """

    def __init__(self, url: str, *, window: int = WINDOW) -> None:
        self.answers = Answers()
        self._url = url
        self._window = window
        self._open = ExitStack()
        self._socket: ClientConnection | None = None
        self._left = 0
        self._losses = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def publish(self, events: Iterable[SignedEvent], before: Callable[[int], None] | None = None) -> None:
        """Send all; `before` is called with the number of each, and may wait."""
        waiting = deque((event, 0) for event in events)
        unanswered: dict[str, tuple[SignedEvent, int]] = {}
        number = 0
        while waiting or unanswered:
            try:
                is_spent = self._socket is not None and self._left == 0
                if waiting and len(unanswered) < self._window and not is_spent:
                    if before is not None:
                        before(number)
                    number += 1
                    event, tries = waiting.popleft()
                    unanswered[event.id] = (event, tries + 1)
                    self._connected().send(f'["EVENT",{event.raw}]')
                    self._left -= 1
                else:
                    self._take_answer(unanswered, waiting)
                if is_spent and not unanswered:
                    self._hang_up()
            except (OSError, WebSocketException):
                self._hang_up()
                self._losses += 1
                if self._losses == _MOST_LOSSES:
                    raise
                self._again(unanswered, waiting)

    def _take_answer(
        self, unanswered: dict[str, tuple[SignedEvent, int]], waiting: deque[tuple[SignedEvent, int]]
    ) -> None:
        event_id = _note(self.answers, self._connected().recv(timeout=_ANSWER_S))
        sent = unanswered.pop(event_id, None) if event_id else None
        self._losses = 0
        if sent is None or event_id not in self.answers.refused:
            return
        reason = self.answers.refused[event_id]
        if reason.startswith("rate-limited") and sent[1] < _MOST_TRIES:
            del self.answers.refused[event_id]
            waiting.append(sent)
            pause(_BREATH_S)

    def _again(self, unanswered: dict[str, tuple[SignedEvent, int]], waiting: deque[tuple[SignedEvent, int]]) -> None:
        """What was on the way when the connection was lost is sent once more, in the same order."""
        for event, tries in reversed(unanswered.values()):
            if tries < _MOST_TRIES:
                waiting.appendleft((event, tries))
            else:
                self.answers.refused[event.id] = "no answer"
        unanswered.clear()
        pause(_BREATH_S)

    def _connected(self) -> ClientConnection:
        if self._socket is None:
            connection = connect(self._url, max_size=None, compression=None, proxy=None, open_timeout=_ANSWER_S)
            self._socket = self._open.enter_context(connection)
            greet(self._socket)
            self._left = CONNECTION_EVENTS
        return self._socket

    def _hang_up(self) -> None:
        self._socket = None
        self._open.close()
