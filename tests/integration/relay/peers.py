"""Servers on loopback that misbehave as a script tells them, and what their scripts are made of."""

import base64
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import websocket

from pipeline.nostr.address import RelayAddress, parse_address
from pipeline.process.clock import SystemClock
from pipeline.relay.dial import DIAL_TIMEOUT_S, DialPolicy, dial
from pipeline.relay.errors import DialError
from pipeline.relay.resolve import Resolver, SocketAddress, system_resolver

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CLOCK = SystemClock()
# For waits that end by something that the test does; reached only when the test fails.
PATIENCE_S = 60.0

Script = Callable[[socket.socket, threading.Event], None]


def silence(_conn: socket.socket, over: threading.Event) -> None:
    """Accept, and say nothing for as long as the test lasts."""
    over.wait(PATIENCE_S)


class Peer:
    """A TCP server that plays `script(connection, over)` with every connection; `over` is set when the test ends."""

    def __init__(self, script: Script = silence, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._over = threading.Event()
        self._listener = socket.create_server((host, 0))
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._accepted = threading.Condition()

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._listener.close()

    def wait_connections(self, count: int) -> None:
        """Return once so many connections were accepted; raises `TimeoutError`."""
        with self._accepted:
            if not self._accepted.wait_for(lambda: self.connections >= count, PATIENCE_S):
                raise TimeoutError(f"{self.connections} of {count} connections after {PATIENCE_S} s")

    @property
    def address(self) -> RelayAddress:
        """Of a relay at the listener, by its IP address."""
        return parse_address(f"{'wss' if self._tls else 'ws'}://{self.host}:{self.port}")

    def resolver(self, _host: str, _port: int) -> list[SocketAddress]:
        """A resolver that finds every name here."""
        return [(self.host, self.port)]

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            with self._accepted:
                self.connections += 1
                self._accepted.notify_all()
            thread = threading.Thread(target=self._play, args=(conn,))
            self._threads.append(thread)
            thread.start()

    def _play(self, conn: socket.socket) -> None:
        conn.settimeout(PATIENCE_S)
        try:
            if self._tls is not None:
                conn = self._tls.wrap_socket(conn, server_side=True)
            self._script(conn, self._over)
        except OSError:
            pass  # the client left, as it should from most scripts
        finally:
            conn.close()


def policy(
    resolver: Resolver | None = None,
    *,
    timeout_s: float = PATIENCE_S / 2,
    connect_timeout_s: float = DIAL_TIMEOUT_S,
    tls_context: ssl.SSLContext | None = None,
    allow_private: bool = True,
) -> DialPolicy:
    """A policy for peers on loopback."""
    return DialPolicy(
        allow_private=allow_private,
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        tls_context=tls_context,
        user_agent="test/1",
        resolver=resolver or system_resolver,
    )


def failure(address: RelayAddress, how: DialPolicy) -> DialError:
    """How dialling `address` fails; it must."""
    try:
        transport = dial(address, how, CLOCK)
    except DialError as error:
        return error
    transport.close()
    raise AssertionError("a connection was made")


def read_head(conn: socket.socket) -> bytes:
    """The head of an HTTP request."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = conn.recv(1)
        if not part:
            raise ConnectionError("request ended early")
        head += part
    return head


def header(head: bytes, name: str) -> str | None:
    """The value of the header `name`, None where there is none."""
    for line in head.decode().split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name.lower():
            return value.strip()
    return None


def accept_websocket(conn: socket.socket, extra: bytes = b"", then: bytes = b"") -> bytes:
    """Answer the opening handshake with `extra` headers and, in the same write, `then`; returns the request's head."""
    head = read_head(conn)
    key = header(head, "Sec-WebSocket-Key") or ""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + extra
    conn.sendall(answer + b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n" + then)
    return head


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A server's frame."""
    first = bytes([fin << 7 | opcode])
    if len(payload) < 126:
        return first + bytes([len(payload)]) + payload
    if len(payload) < 1 << 16:
        return first + b"\x7e" + len(payload).to_bytes(2, "big") + payload
    return first + b"\x7f" + len(payload).to_bytes(8, "big") + payload


class FrameSource:
    """Reads a client's frames with websocket-client's parser."""

    def __init__(self, conn: socket.socket) -> None:
        conn.settimeout(PATIENCE_S)
        self._frames = websocket._abnf.frame_buffer(conn.recv, True)

    def next(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which must be masked."""
        received = self._frames.recv_frame()
        assert received.mask_value == 1
        return received.opcode, received.data


@dataclass(frozen=True, slots=True)
class Tls:
    """Contexts for a server, and for a client that trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def make_tls(directory: Path, *names: str) -> Tls | None:
    """Contexts around a self-signed certificate for `names`, kept in `directory`; None without `openssl`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=test", "-days", "2", "-addext", f"subjectAltName={','.join(names)}"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return Tls(server=server, client=ssl.create_default_context(cafile=certificate))
