"""A TCP proxy on loopback that counts what goes through it."""

import contextlib
import socket
import threading
from typing import Self

from tests.fakes.net import loopback_address

_PIECE = 1 << 16


class CountingProxy:
    """Passes every connection on to `host:port`, at an address of its own; `sent` and `received` are the client's."""

    def __init__(self, host: str, port: int) -> None:
        self.sent = 0
        self.received = 0
        self._target = (host, port)
        self._listener = socket.create_server((loopback_address(), 0))
        self._sockets: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Where clients find the relay behind it."""
        host, port = self._listener.getsockname()
        return f"ws://{host}:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._pass, args=(client, server, "sent"), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, "received"), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                setattr(self, counter, getattr(self, counter) + len(data))
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
