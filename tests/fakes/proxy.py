"""A TCP proxy on loopback that counts what goes through it, and may take its time."""

import contextlib
import queue
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Self

from tests.fakes.net import loopback_address, pause
from tests.fakes.sniffer import Sniffer

_PIECE = 1 << 16
_MOST_WAITING = 256


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has gone through so far: bytes as the client saw them, and how many messages of each type it sent."""

    sent: int
    received: int
    messages: Counter[str]

    def since(self, earlier: "Traffic") -> "Traffic":
        """What came after `earlier`."""
        return Traffic(self.sent - earlier.sent, self.received - earlier.received, self.messages - earlier.messages)


class CountingProxy:
    """Passes every connection on to `host:port`, at an address of its own; `sent` and `received` are the client's.

    While it `is_cut` nothing passes; while it is held, connections stay open and nothing is read. With `delay_s` each
    direction is late by half of it, so that a round trip takes that much longer; nothing is slower.
    """

    def __init__(self, host: str, port: int, *, delay_s: float = 0.0) -> None:
        self.sent = 0
        self.received = 0
        self.is_cut = False
        self._flows = threading.Event()
        self._flows.set()
        self._target = (host, port)
        self._delay_s = delay_s / 2
        self._listener = socket.create_server((loopback_address(), 0))
        self._sockets: list[socket.socket] = []
        self._sniffers: list[Sniffer] = []

    @property
    def url(self) -> str:
        """Where clients find the relay behind it."""
        host, port = self._listener.getsockname()
        return f"ws://{host}:{port}"

    @property
    def traffic(self) -> Traffic:
        """What has gone through so far."""
        messages: Counter[str] = Counter()
        for sniffer in list(self._sniffers):
            messages.update(sniffer.messages)
        return Traffic(self.sent, self.received, messages)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._flows.set()
        _close(self._listener, *self._sockets)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """End all connections, and let none through for the time of the block."""
        self.is_cut = True
        sockets, self._sockets = self._sockets, []
        _close(*sockets)
        try:
            yield
        finally:
            self.is_cut = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Read and pass nothing for the time of the block, as a relay whose process is stopped; no connection ends."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self.is_cut:
                raise ConnectionError("the line is cut")
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets += [client, server]
        sniffer = Sniffer()
        self._sniffers.append(sniffer)
        for source, target, counter in ((client, server, "sent"), (server, client, "received")):
            threading.Thread(target=self._pass, args=(source, target, counter, sniffer), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counter: str, sniffer: Sniffer) -> None:
        send = target.sendall if not self._delay_s else _Late(target, self._delay_s).put
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                setattr(self, counter, getattr(self, counter) + len(data))
                if counter == "sent":
                    sniffer.feed(data)
                self._flows.wait()
                send(data)
        if self._delay_s:
            send(b"")
        else:
            _end(target)


class _Late:
    """One direction of a connection, each piece late by the same time; holds so much and then pushes back."""

    def __init__(self, target: socket.socket, delay_s: float) -> None:
        self._target = target
        self._delay_s = delay_s
        self._waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(_MOST_WAITING)
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, data: bytes) -> None:
        """Send `data` when it is due; empty: the end."""
        self._waiting.put((monotonic() + self._delay_s, data))

    def _run(self) -> None:
        is_open = True
        while True:
            due, data = self._waiting.get()
            pause(due - monotonic())
            if not data:
                return _end(self._target)
            if is_open:
                try:
                    self._target.sendall(data)
                except OSError:
                    is_open = False


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def _end(target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
