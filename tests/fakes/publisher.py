"""A plain Nostr client that publishes: EVENT out, OK in, a bounded number on the way."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from websockets.sync.client import ClientConnection, connect

from tests.world.events import SignedEvent

WINDOW = 16
"""Events on the way to a relay. More, or bursts, run into Nagle's algorithm at the relay and get slower."""
CONNECTION_EVENTS = 5000
"""Events sent over one connection; nostr-sdk's relay drops one after 6,000 messages in a minute."""


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
        with connect(url, max_size=None, compression=None, proxy=None) as socket:
            for sent, event in enumerate(part, start + 1):
                socket.send(f'["EVENT",{event.raw}]')
                _await(socket, answers, sent - window, deadline)
            _await(socket, answers, start + len(part), deadline)
    return answers


def _await(socket: ClientConnection, answers: Answers, count: int, deadline: float) -> None:
    while answers.count < count:
        frame = json.loads(socket.recv(timeout=max(deadline - monotonic(), 0.0)))
        match frame:
            case ["OK", str(event_id), True, *_]:
                answers.accepted.add(event_id)
            case ["OK", str(event_id), False, str(reason)]:
                answers.refused[event_id] = reason
            case _:
                continue
