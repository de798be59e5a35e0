"""The proxy before a foreign relay: what it passes, counts, and cuts."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.fakes.net import loopback_address
from tests.fakes.proxy import CountingProxy


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that says again what it hears."""
    listener = socket.create_server((loopback_address(), 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=repeat, args=(connection,), daemon=True).start()

    def repeat(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while data := connection.recv(100):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()
    listener.close()


def call(proxy: CountingProxy) -> socket.socket:
    host, _, port = proxy.url.removeprefix("ws://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def is_answered(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b"x"
    except OSError:
        return False


def test_cut_line_ends_connections_and_admits_none_until_mended(echo: tuple[str, int]) -> None:
    with CountingProxy(*echo) as proxy, call(proxy) as before:
        assert is_answered(before)
        with proxy.cut(), call(proxy) as meanwhile:
            assert not is_answered(before)
            assert not is_answered(meanwhile)
        with call(proxy) as after:
            assert is_answered(after)
        assert (proxy.sent, proxy.received) == (2, 2)
