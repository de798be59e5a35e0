import base64
import hashlib
import socket
import threading

import pytest

from pipeline.nostr.address import RelayAddress, parse_address
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.dial import DialPolicy, dial
from pipeline.relay.errors import DialReason
from pipeline.settings.values import HostPort
from tests.integration.relay.peers import CLOCK, PATIENCE_S, TEXT, Peer, Tls, accept_websocket, failure, frame


def onion(scheme: str = "ws") -> RelayAddress:
    """The address of an onion service that cannot exist, but has a right checksum."""
    key, version = bytes(32), b"\x03"
    checksum = hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2]
    return parse_address(f"{scheme}://{base64.b32encode(key + checksum + version).decode().lower()}.onion:7777/chat")


def through(proxy: Peer, timeout_s: float = PATIENCE_S / 2) -> DialPolicy:
    return DialPolicy(timeout_s=timeout_s, socks_proxy=HostPort(proxy.host, proxy.port))


def receive_exactly(conn: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = conn.recv(size - len(data))
        if not part:
            raise ConnectionError("the client left early")
        data += part
    return data


@pytest.mark.parametrize(
    "bound",
    [b"\x01" + bytes(4), b"\x04" + bytes(16), b"\x03\x04name", b"\x03\x00"],
    ids=["v4", "v6", "name", "no name"],
)
def test_onion_relay_is_reached_by_name_through_the_proxy(bound: bytes) -> None:
    requests: list[bytes] = []

    def script(conn: socket.socket, over: threading.Event) -> None:
        requests.append(receive_exactly(conn, 3))
        conn.sendall(b"\x05\x00")
        requests.append(receive_exactly(conn, 4 + 1 + 62 + 2))
        conn.sendall(b"\x05\x00\x00" + bound + b"\x00\x00")
        accept_websocket(conn, then=frame(TEXT, b"from the onion"))
        over.wait(PATIENCE_S)

    with Peer(script) as proxy:
        websocket = BlockingWebSocket(dial(onion(), through(proxy), CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"from the onion"]
        websocket.close()
    name = onion().host.encode()
    assert requests == [b"\x05\x01\x00", b"\x05\x01\x00\x03" + bytes([62]) + name + (7777).to_bytes(2, "big")]


@pytest.mark.parametrize(
    ("greeting", "answer", "reason"),
    [
        (b"\x05\xff", b"", DialReason.PROXY),
        (b"\x05\x02", b"", DialReason.PROXY),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", DialReason.PROXY),
        (b"", b"", DialReason.PROXY),
        (b"\x05\x00", b"\x04\x00\x00\x01" + bytes(6), DialReason.PROXY),
        (b"\x05\x00", b"\x05\x00\x00\x02" + bytes(6), DialReason.PROXY),
        (b"\x05\x00", b"\x05\x00\x00\x03\xffshort", DialReason.PROXY),
        (b"\x05\x00", b"\x05\x01\x00\x01" + bytes(6), DialReason.PROXY),
        (b"\x05\x00", b"\x05\xf0\x00\x01" + bytes(6), DialReason.PROXY),
        (b"\x05\x00", b"\x05\x04\x00\x01" + bytes(6), DialReason.UNREACHABLE),
        (b"\x05\x00", b"\x05\x05\x00\x01" + bytes(6), DialReason.REFUSED),
    ],
)
def test_proxy_that_fails(greeting: bytes, answer: bytes, reason: DialReason) -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        receive_exactly(conn, 3)
        conn.sendall(greeting)
        if answer:
            receive_exactly(conn, 69)
            conn.sendall(answer)

    with Peer(script) as proxy:
        assert failure(onion(), through(proxy)).reason is reason


def test_proxy_that_says_nothing_meets_the_deadline() -> None:
    with Peer() as proxy:
        assert failure(onion(), through(proxy, timeout_s=0.1)).reason is DialReason.TIMEOUT


def test_proxy_that_is_down_is_no_fault_of_the_relay() -> None:
    with Peer() as proxy:
        policy = through(proxy)
    assert failure(onion(), policy).reason is DialReason.PROXY


def test_onion_relay_without_a_proxy_is_not_looked_up() -> None:
    error = failure(onion(), DialPolicy())
    assert (error.reason, error.permanent) == (DialReason.NETWORK, True)


def test_tls_goes_through_the_proxy_to_the_relay(tls: Tls) -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        receive_exactly(conn, 3)
        conn.sendall(b"\x05\x00")
        receive_exactly(conn, 69)
        conn.sendall(b"\x05\x00\x00\x01" + bytes(6))
        tls.server.wrap_socket(conn, server_side=True).close()

    with Peer(script) as proxy:
        error = failure(onion("wss"), through(proxy))
        assert (error.reason, error.permanent) == (DialReason.TLS, True)
