"""What answers below HTTP."""

import socket
from itertools import pairwise

import pytest

from tests.fakes.tcp import TcpServer, drip_headers, flood_headers, hang_up, say_garbage, say_nothing


def connect(server: TcpServer, *, timeout_s: float = 20.0) -> socket.socket:
    connection = socket.create_connection((server.address, server.port), timeout=timeout_s)
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    return connection


def read_one(server: TcpServer) -> bytes:
    with connect(server) as connection:
        return connection.recv(1)


def test_it_says_nothing_and_counts() -> None:
    with TcpServer(say_nothing) as server:
        for count in (1, 2):
            with connect(server, timeout_s=0.3) as connection, pytest.raises(TimeoutError):
                connection.recv(1)
            server.wait_accepted(count)
        assert server.accepted == 2


def test_headers_drip() -> None:
    with TcpServer(drip_headers) as server, connect(server) as connection:
        head, dripped = b"HTTP/1.1 101 Switching Protocols\r\nX-Slow: ", 3
        received = b""
        while len(received) < len(head) + dripped:
            received += connection.recv(1)
        assert received == head + b"x" * dripped


def test_headers_flood() -> None:
    with TcpServer(flood_headers) as server, connect(server) as connection:
        received = 0
        while received < 1_000_000:
            received += len(connection.recv(65536))


def test_garbage_and_hanging_up() -> None:
    with TcpServer(say_garbage) as server, connect(server) as connection:
        assert not connection.recv(1000).startswith(b"HTTP")
    with TcpServer(hang_up) as server, pytest.raises(ConnectionResetError):
        read_one(server)


def test_each_server_has_a_host_of_its_own() -> None:
    servers = [TcpServer(say_nothing) for _ in range(3)]
    for server in servers:
        with server:
            pass
    assert all(one.address != other.address for one, other in pairwise(servers))
