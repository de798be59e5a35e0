"""Servers below HTTP: what accepts a connection and then does anything but a websocket handshake."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

from tests.fakes.net import loopback_address
from tests.fakes.relay_frames import LINGER_RESET

Script = Callable[[socket.socket, threading.Event], None]
"""What to do with one accepted connection, until it ends or the event is set."""
_ACCEPT_STEP_S = 0.1
_DRIP_S = 0.05
JOIN_TIMEOUT_S = 5.0
PATIENCE_S = 60.0


def say_nothing(connection: socket.socket, stop: threading.Event) -> None:
    """Take whatever comes and never answer."""
    connection.settimeout(_ACCEPT_STEP_S)
    while not stop.is_set():
        try:
            if not connection.recv(65536):
                return
        except TimeoutError:
            continue


def drip_headers(connection: socket.socket, stop: threading.Event) -> None:
    """Begin an answer whose headers come byte by byte and never end."""
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX-Slow: ")
    while not stop.wait(_DRIP_S):
        connection.sendall(b"x")


def flood_headers(connection: socket.socket, stop: threading.Event) -> None:
    """Begin an answer whose headers come as fast as they are read and never end."""
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
    while not stop.is_set():
        connection.sendall(b"X-Header: " + b"x" * 1000 + b"\r\n")


def say_garbage(connection: socket.socket, _: threading.Event) -> None:
    """Answer with something that is no HTTP."""
    connection.sendall(b"\x16\x03\x01 SSH-2.0 \xff\xff\r\n\r\n")


def hang_up(connection: socket.socket, _: threading.Event) -> None:
    """Reset the connection at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


class TcpServer:
    """Plays `script` on each connection, in a thread of its own. `accepted` counts connections."""

    def __init__(self, script: Script, *, address: str | None = None, port: int = 0) -> None:
        self.accepted = 0
        self._changed = threading.Condition()
        self._script = script
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._socket = socket.create_server((address or loopback_address(), port), backlog=64)
        self._socket.settimeout(_ACCEPT_STEP_S)
        self.address, self.port = self._socket.getsockname()
        self.url = f"ws://{self.address}:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)
        self._socket.close()

    def wait_accepted(self, count: int) -> None:
        """Return once so many connections were accepted; raises `TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.accepted >= count, PATIENCE_S):
                raise TimeoutError(f"{self.accepted} of {count} connections after {PATIENCE_S} s")

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name=f"tcp {self.port}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._socket.accept()
                with self._changed:
                    self.accepted += 1
                    self._changed.notify_all()
                self._start(self._play, connection)

    def _play(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(JOIN_TIMEOUT_S)
            self._script(connection, self._stop)
