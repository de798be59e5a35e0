"""The demo itself: a relay, people on it, the service, and a line that shows what happens."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from websockets.asyncio.client import connect

from pipeline.demo.people import People
from pipeline.demo.relay import DemoRelay
from pipeline.demo.service import HOST, DemoFailed, running, settings
from pipeline.nostr.event import Event
from pipeline.nostr.message import encode_event
from pipeline.printable import count_of
from pipeline.process.clock import SystemClock
from pipeline.process.page_token import read_page_token

_EVENTS_PER_S: Final = 8.0
_LOOK_EVERY_S: Final = 0.02
_TELL_EVERY_S: Final = 1.0
_MOST_REMEMBERED: Final = 10_000

Say = Callable[[str], None]


@dataclass(slots=True)
class DemoTally:
    """What was published and when (ms), and what of it came out at the other end."""

    published: dict[str, int] = field(default_factory=dict)
    count: int = 0
    handed_on: int = 0
    latest_ms: int | None = None

    def publish(self, event: Event, now: int) -> None:
        """Note that `event` is out."""
        self.count += 1
        self.published[event.id.hex()] = now
        if len(self.published) > _MOST_REMEMBERED:
            del self.published[next(iter(self.published))]

    def arrive(self, event_id: str, now: int) -> None:
        """Note that the service delivered an event."""
        self.handed_on += 1
        if event_id in self.published:
            self.latest_ms = now - self.published[event_id]

    def __str__(self) -> str:
        latest = "" if self.latest_ms is None else f" · the last within {self.latest_ms} ms"
        return f"{self.count} published · {self.handed_on} relevant and delivered{latest}"


class Show:
    """One showing. `say` prints a line, `say_over` one that the next replaces."""

    def __init__(self, say: Say, say_over: Say) -> None:
        self._say = say
        self._say_over = say_over
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        self._relay = DemoRelay()
        self._tally = DemoTally()

    async def run(self, port: int, seconds: float | None) -> None:
        """Show it until a signal, or for some seconds. Raises `DemoFailed`. Nothing stays behind.

        `port` is the status page's; it is another one if another program listens there.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        with tempfile.TemporaryDirectory(prefix="event-service-demo-") as folder:
            async with self._relay.serving() as address:
                try:
                    await self._show(Path(folder), address, _usable(port), seconds)
                except DemoFailed:
                    if not self._stop.is_set():
                        raise
        self._say(f"\n{self._tally}. Everything is removed.")

    async def _show(self, folder: Path, address: str, port: int, seconds: float | None) -> None:
        people = People(random.SystemRandom(), address)
        for event in people.introductions(self._now_s()):
            self._publish(event)
        self._say(f"Starting the service on {address}, a relay where {count_of(len(people.users), 'user', 'live')} …")
        async with running(settings(os.environ, folder, address, port), folder, self._stop) as service:
            await self._register(people, port)
            token = read_page_token(folder / "run")
            self._say(f"Status page   http://localhost:{port}/?token={token}")
            self._say(f"Delivered to  {folder / 'events.jsonl'}")
            self._say("Ctrl-C stops it and removes everything.")
            await self._live(people, _Tail(folder / "events.jsonl"), service, seconds)

    async def _register(self, people: People, port: int) -> None:
        async with connect(f"ws://{HOST}:{port}/", compression=None) as client:
            for user in people.users:
                await client.send(encode_event(people.registration(user, self._now_s())))
                answer = json.loads(await client.recv())
                if answer[2] is not True:
                    raise DemoFailed(f"a user could not register: {answer[3]}")

    async def _live(
        self, people: People, handed_on: "_Tail", service: "asyncio.Task[int]", seconds: float | None
    ) -> None:
        """Let people publish, read what is delivered, and show it, until it is time to end."""
        began = told = posted = self._clock.monotonic()
        while not self._stop.is_set() and (seconds is None or self._clock.monotonic() - began < seconds):
            if service.done():
                raise DemoFailed(f"the service ended with exit code {service.result()}")
            now = self._clock.monotonic()
            while posted < now:
                self._publish(people.next_event(self._now_s()))
                posted += random.expovariate(_EVENTS_PER_S)
            for event_id in handed_on.new_ids():
                self._tally.arrive(event_id, self._clock.now_ms())
            if now - told >= _TELL_EVERY_S:
                told = now
                self._say_over(str(self._tally))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK_EVERY_S)

    def _publish(self, event: Event) -> None:
        self._tally.publish(event, self._clock.now_ms())
        self._relay.publish(event)

    def _now_s(self) -> int:
        return self._clock.now_ms() // 1000


class _Tail:
    """The ids of events in a growing JSONL file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_ids(self) -> list[str]:
        """Return those of the lines that came since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line)["id"] for line in whole.splitlines()]


def _usable(port: int) -> int:
    """Return `port`, or a free one if another program listens there."""
    for wanted in (port, 0):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, wanted))
            return int(sock.getsockname()[1])
    raise DemoFailed("no port is free on this machine")
