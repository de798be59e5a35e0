"""A small SOCKS 5 proxy (RFC 1928) on loopback that takes names it is told about to addresses of this machine."""

import base64
import contextlib
import hashlib
import socket
import threading
from collections.abc import Mapping
from typing import Self

_CHUNK = 65_536


def onion_host(number: int = 0) -> str:
    """The name of an onion service that cannot exist, but has a right checksum."""
    key, version = number.to_bytes(32), b"\x03"
    checksum = hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2]
    return base64.b32encode(key + checksum + version).decode().lower() + ".onion"


class SocksProxy:
    """Connects whoever asks for a name of `peers` to its address; asked for another name it says host unreachable."""

    def __init__(self, peers: Mapping[str, tuple[str, int]]) -> None:
        self.asked: list[str] = []
        self._peers = dict(peers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="socks proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            name = self._handshake(client)
            if name is None:
                return
            with socket.create_connection(self._peers[name]) as relay:
                back = threading.Thread(target=_pump, args=(relay, client), daemon=True)
                back.start()
                _pump(client, relay)
                back.join()

    def _handshake(self, client: socket.socket) -> str | None:
        _, methods = _exactly(client, 2)
        _exactly(client, methods)
        client.sendall(b"\x05\x00")
        *_, length = _exactly(client, 5)
        name = _exactly(client, length).decode()
        _exactly(client, 2)
        self.asked.append(name)
        known = name in self._peers
        client.sendall(b"\x05" + (b"\x00" if known else b"\x04") + b"\x00\x01" + bytes(6))
        return name if known else None


def _exactly(conn: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = conn.recv(size - len(data))
        if not more:
            raise ConnectionError("the client is gone")
        data += more
    return data


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
