"""Many relays in one cheap process, which replay signed events to whoever subscribes to their authors.

    python -m tests.tools.bench.generator SPEC.json

It listens on each address of the spec, says `listening […]`, says `ready` once every relay has a client subscribed to
all authors and no page open, sends from `go` on, and answers `stop` with what it sent. A relay puts out more only when
its client has read: TCP holds it back. Ends with standard input.
"""

import json
import os
import random
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from tests.tools.bench.relay_peer import Peer

_CHUNK_EVENTS = 80
_IDLE_S = 0.05
# Paced events that fall due together go out together: a wake for each would cost more than the sending.
_TICK_S = 0.002
_GRACE_S = 10.0
_STDIN = 0


@dataclass(frozen=True, slots=True)
class Spec:
    """What to do. With `rate`, that many different events a second of `files[0]`, each by `holders` of the relays, the
    first at its time and the others up to `spread_s` later; without, each relay its own files as fast as they are read.

    Nothing is begun long after `seconds`. `record` gets a line per event with its id and the time (Unix seconds) at
    which the first relay put it out.
    """

    addresses: list[str]
    authors: list[str]
    files: list[list[str]]
    seconds: float
    rate: int = 0
    holders: int = 1
    spread_s: float = 0.0
    record: str = ""

    @classmethod
    def load(cls, path: Path) -> "Spec":
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


@dataclass(slots=True)
class Relay:
    """One listening address and its client that subscribes to all authors, if there is one."""

    listener: socket.socket
    peers: list[Peer] = field(default_factory=list)

    def live(self, authors: int) -> Peer | None:
        return next((peer for peer in self.peers if len(peer.routes) >= authors), None)

    def is_ready(self, authors: int) -> bool:
        peer = self.live(authors)
        return peer is not None and not peer.open_pages


class Load(Protocol):
    """What is sent; `turn` puts out what is due and says when to be called again at the latest (seconds)."""

    sent: int
    unique: int
    is_over: bool

    def turn(self) -> float: ...


class Flood:
    """Every relay its own events, as fast as its client reads."""

    def __init__(self, spec: Spec, relays: list[Relay]) -> None:
        self.sent = 0
        self.is_over = False
        self._authors = len(spec.authors)
        self._feeds = [(relay, _lines(files)) for relay, files in zip(relays, spec.files, strict=True)]

    @property
    def unique(self) -> int:
        return self.sent

    def turn(self) -> float:
        wait_s = _IDLE_S
        for relay, feed in self._feeds:
            peer = relay.live(self._authors)
            if peer is None:
                continue
            # More than once while the kernel takes it, but not for ever: there are others.
            for _ in range(8):
                if peer.is_backed_up:
                    break
                chunk = list(islice(feed, _CHUNK_EVENTS))
                if not chunk:
                    self.is_over = True
                    break
                self.sent += peer.put_events(chunk)
                peer.write()
            if not peer.is_backed_up:
                wait_s = 0.0
        return wait_s


class Paced:
    """The same event by several relays, at a fixed rate whatever becomes of it."""

    def __init__(self, spec: Spec, relays: list[Relay]) -> None:
        self.sent = self.unique = 0
        self.is_over = False
        self.latest_s = 0.0
        self._spec = spec
        self._relays = relays
        self._lines = list(islice(_lines(spec.files[0]), round(spec.rate * spec.seconds)))
        self._due = self._schedule(random.Random(1))
        self._next = 0
        self._began: float | None = None
        self._first_sent: dict[int, float] = {}

    def _schedule(self, rng: random.Random) -> list[tuple[float, int, int]]:
        due = []
        for number in range(len(self._lines)):
            at = number / self._spec.rate
            for place, relay in enumerate(rng.sample(range(len(self._relays)), self._spec.holders)):
                due.append((at + (rng.uniform(0, self._spec.spread_s) if place else 0.0), number, relay))
        due.sort()
        return due

    def turn(self) -> float:
        if self._began is None:
            self._began = time.monotonic()
        now = time.monotonic() - self._began
        while self._next < len(self._due) and self._due[self._next][0] <= now:
            at, number, relay = self._due[self._next]
            self._next += 1
            peer = self._relays[relay].live(len(self._spec.authors))
            if peer is not None:
                self._send(peer, number)
                self.latest_s = max(self.latest_s, time.monotonic() - self._began - at)
        if self._next == len(self._due):
            self.is_over = True
            return _IDLE_S
        return max(_TICK_S, self._due[self._next][0] - now)

    def _send(self, peer: Peer, number: int) -> None:
        if number not in self._first_sent:
            self._first_sent[number] = time.time()
            self.unique += 1
        self.sent += peer.put_events((self._lines[number],))
        peer.write()

    def write_record(self) -> None:
        with Path(self._spec.record).open("w") as file:
            for number, at in self._first_sent.items():
                file.write(f"{self._lines[number][7:71].decode()} {at:.6f}\n")


class Generator:
    """The loop around sockets and the words of the parent."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._selector = selectors.DefaultSelector()
        self._relays = [Relay(socket.create_server((address, 0), backlog=16)) for address in spec.addresses]
        for relay in self._relays:
            relay.listener.setblocking(False)
            self._selector.register(relay.listener, selectors.EVENT_READ, relay)
        self._selector.register(_STDIN, selectors.EVENT_READ, None)
        self._load: Flood | Paced = (Paced if spec.rate else Flood)(spec, self._relays)
        self._said = b""
        self._going_until: float | None = None
        self._is_ready = self._ended = self._stopping = False
        self._lost_peers = 0

    def run(self) -> None:
        """Serve until standard input ends."""
        say(f"listening {json.dumps([list(relay.listener.getsockname()) for relay in self._relays])}")
        wait_s = _IDLE_S
        while not self._ended:
            for key, mask in self._selector.select(wait_s):
                self._on_event(key.data, mask)
            if not self._is_ready and all(relay.is_ready(len(self._spec.authors)) for relay in self._relays):
                self._is_ready = True
                say("ready")
            wait_s = self._send()
            self._watch_backed_up()

    def _send(self) -> float:
        if self._going_until is None:
            return _IDLE_S
        if not (self._stopping or self._load.is_over or time.monotonic() >= self._going_until):
            return min(_IDLE_S, self._load.turn())
        if not any(peer.out for relay in self._relays for peer in relay.peers):
            self._going_until = None
            self._finish()
        return _IDLE_S

    def _finish(self) -> None:
        if isinstance(self._load, Paced) and self._spec.record:
            self._load.write_record()
        say("done " + json.dumps(self._counts()))

    def _counts(self) -> dict[str, Any]:
        late = self._load.latest_s if isinstance(self._load, Paced) else 0.0
        return {
            "sent": self._load.sent,
            "unique": self._load.unique,
            "late_s": late,
            "lost_peers": self._lost_peers,
            "is_over": self._load.is_over,
        }

    def _watch_backed_up(self) -> None:
        for relay in self._relays:
            for peer in relay.peers:
                if peer.is_backed_up != peer.is_watched:
                    peer.is_watched = peer.is_backed_up
                    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.is_watched else 0)
                    self._selector.modify(peer.sock, wanted, (relay, peer))

    def _on_event(self, data: Any, mask: int) -> None:
        if data is None:
            self._listen_to_parent()
        elif isinstance(data, Relay):
            peer = Peer(data.listener.accept()[0])
            data.peers.append(peer)
            self._selector.register(peer.sock, selectors.EVENT_READ, (data, peer))
        else:
            relay, peer = data
            if mask & selectors.EVENT_READ:
                peer.read()
            peer.write()
            if peer.is_closed:
                self._lost_peers += bool(peer.routes) and self._going_until is not None
                self._selector.unregister(peer.sock)
                peer.sock.close()
                relay.peers.remove(peer)

    def _listen_to_parent(self) -> None:
        data = os.read(_STDIN, 4096)
        self._ended = not data
        *words, self._said = (self._said + data).split(b"\n")
        for word in words:
            if word == b"go":
                self._going_until = time.monotonic() + self._spec.seconds + self._spec.spread_s + _GRACE_S
            elif word == b"stop":
                self._stopping = True
            elif word == b"count":
                say("= " + json.dumps(self._counts()))


def _lines(paths: list[str]) -> Iterator[bytes]:
    for path in paths:
        with Path(path).open("rb") as file:
            for line in file:
                yield line[:-1]


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    Generator(Spec.load(Path(sys.argv[1]))).run()
