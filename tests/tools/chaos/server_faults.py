"""Strangers at the web server: no input ends it, and it goes on answering others."""

import os
import random
import socket
import threading
import time

from tests.factories.events import Author, forge_signature
from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.harness import ChaosHarness

SERVER = "web server"
CLIENTS = 4
_TIMEOUT_S = 2.0
_PAUSE_S = 0.02
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_JUNK_JSON = (
    "[]", "{}", "null", '["EVENT"]', '["EVENT",{}]', '["EVENT",{"id":1}]', '["REQ","x",{}]', '["CLOSE",1]',
    "[" * 5000, '["EVENT",' + '{"a":' * 2000, '["EVENT",{"kind":1e999}]', '["AUTH","x"]', '"\\ud800"',
)  # fmt: skip
_PATHS = ("/", "/metrics", "/_health", "/public-keys/", "/public-keys/zz", "/public-keys/" + "a" * 5000, "/%00", "//..")


@fault("server-fuzzed", SERVER, weight=2)
def server_fuzzed(harness: ChaosHarness) -> Play:
    """Several clients send what they like for some seconds, over HTTP and websockets."""
    before = {one.pid for one in harness.stages("server")}
    began, restarts, stop = time.monotonic(), harness.restarts, threading.Event()
    host, port = harness.service.host, harness.service.port
    threads = [
        threading.Thread(target=_bother, args=(host, port, random.Random(harness.rng.random()), stop), daemon=True)
        for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    yield harness.rng.uniform(2.0, 5.0)
    stop.set()
    while any(thread.is_alive() for thread in threads):
        yield _PAUSE_S
    after = {one.pid for one in harness.stages("server")}
    # Whoever was killed meanwhile was killed by us.
    if (
        before
        and before - after - harness.killed_pids
        and restarts == harness.restarts
        and harness.is_left_alone(began)
    ):
        harness.violations.append("the web server ended over what strangers sent it")


def _bother(host: str, port: int, rng: random.Random, stop: threading.Event) -> None:
    while not stop.wait(_PAUSE_S):
        try:
            with socket.create_connection((host, port), _TIMEOUT_S) as connection:
                connection.settimeout(_TIMEOUT_S)
                rng.choice((_raw, _http, _websocket))(connection, rng)
        except OSError:
            # It may hang up on us, or be down.
            continue


def _raw(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(rng.randbytes(rng.randint(1, 3000)))


def _http(connection: socket.socket, rng: random.Random) -> None:
    method = rng.choice(("GET", "POST", "HEAD", "G\x00T", "get"))
    headers = "".join(f"X-{n}: {'y' * rng.randint(0, 400)}\r\n" for n in range(rng.choice((0, 3, 300))))
    ending = rng.choice(("\r\n", "", "\n"))
    request = f"{method} {rng.choice(_PATHS)} HTTP/{rng.choice(('1.1', '1.0', '9'))}\r\n{headers}{ending}"
    connection.sendall(request.encode())
    connection.recv(65536)


def _websocket(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(_UPGRADE)
    connection.recv(4096)
    for _ in range(rng.randint(1, 10)):
        connection.sendall(rng.choice((_text, _broken, _registration))(rng))
    connection.recv(65536)


def _frame(opcode: int, payload: bytes) -> bytes:
    mask = os.urandom(4)
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def _text(rng: random.Random) -> bytes:
    return _frame(1, rng.choice(_JUNK_JSON).encode())


def _broken(rng: random.Random) -> bytes:
    """Reserved bits and opcodes, no mask, lengths beyond all bounds, text that is no UTF-8, controls too long."""
    return rng.choice(
        (
            _frame(rng.randrange(3, 8), b"x"),
            bytes((0xF1, 0x81)) + os.urandom(5),
            b"\x81\x05hello",
            b"\x82\xff" + (1 << 62).to_bytes(8, "big") + os.urandom(4),
            _frame(1, b"\xff\xfe"),
            _frame(9, bytes(200)),
            _frame(8, b"\x00"),
        )
    )


def _registration(rng: random.Random) -> bytes:
    """Nearly right: a signature that is not."""
    event = forge_signature(Author.from_seed(rng.randrange(1 << 30), 0).registration(int(time.time())))
    return _frame(1, f'["EVENT",{event.raw}]'.encode())
