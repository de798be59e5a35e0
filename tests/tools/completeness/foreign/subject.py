"""One relay of a trial: its process, the proxy before it, what it was given, and what it holds."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from websockets.exceptions import WebSocketException

from tests.factories.events import SignedEvent
from tests.fakes.child import Child
from tests.fakes.command_relay import CommandRelay
from tests.fakes.proxy import CountingProxy
from tests.fakes.publisher import PatientPublisher
from tests.tools.completeness.foreign.book import take_book


@dataclass(frozen=True, slots=True)
class RelayCommand:
    """How a relay is called and started; see `tests.fakes.command_relay`."""

    name: str
    command: str
    env: dict[str, str] = field(default_factory=dict)


class Subject:
    """A running relay behind a proxy; a context manager. `accepted` are its events in the order they were given."""

    def __init__(self, what: RelayCommand, folder: Path, *, delay_s: float = 0.0) -> None:
        self.name = what.name
        self.folder = folder
        self.accepted: dict[str, SignedEvent] = {}
        self.refused: dict[str, str] = {}
        self.crashes = 0
        self._relay = CommandRelay(what.command, folder, env=what.env)
        self._delay_s = delay_s
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._relay)
        proxy = CountingProxy(self._relay.address, self._relay.port, delay_s=self._delay_s)
        self.proxy = self._stack.enter_context(proxy)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Where the service finds it."""
        return self.proxy.url

    @property
    def child(self) -> Child:
        """Its process."""
        return self._relay.child

    @property
    def target(self) -> tuple[str, int]:
        """Address and port of the relay itself."""
        return self._relay.address, self._relay.port

    def publisher(self) -> PatientPublisher:
        """A client that talks to it without the proxy."""
        return PatientPublisher(self._relay.url)

    def load(self, events: Sequence[SignedEvent]) -> None:
        """Give it events as fast as it takes them."""
        with self.publisher() as publisher:
            publisher.publish(events)
            self.note(publisher, events)

    def note(self, publisher: PatientPublisher, events: Iterable[SignedEvent]) -> None:
        """Remember what it said of `events`."""
        answers = publisher.answers
        self.accepted |= {event.id: event for event in events if event.id in answers.accepted}
        self.refused |= answers.refused

    def book(self, ids: Iterable[str] | None = None) -> set[str]:
        """Which of the events that it accepted it gives to a client that asks for them by id."""
        return take_book(self._relay.url, list(self.accepted if ids is None else ids))

    def stream(self, events: Sequence[SignedEvent], before: Callable[[int], None]) -> None:
        """Give it events one after another, each when `before` returns; those that it dies of are left out."""
        with self.publisher() as publisher, contextlib.suppress(OSError, WebSocketException):
            publisher.publish(events, before)
        self.note(publisher, events)

    def revive(self) -> None:
        """Start it again if it ended by itself, with all that it ever accepted."""
        if not self.child.running:
            self.crashes += 1
            self._relay.kill()
            self._relay.start()
            self.load(list(self.accepted.values()))

    def restart(self) -> int:
        """Kill it, start it again and give it once more what it forgot; returns how many events that were."""
        held = self.book()
        self._relay.kill()
        self._relay.start()
        forgotten = held - self.book(held)
        if forgotten:
            self.load([event for event in self.accepted.values() if event.id in forgotten])
        return len(forgotten)
