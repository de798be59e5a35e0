import socket
import threading
import time

import pytest

from pipeline.nostr.address import parse_address
from pipeline.relay.dial import DialPolicy
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.nip11 import MAX_DOCUMENT_BYTES, InformationFault, InvalidInformation, fetch_information
from tests.integration.relay.peers import CLOCK, PATIENCE_S, Peer, Script, Tls, header, policy, read_head

DOCUMENT = b'{"name":"relay","limitation":{"max_limit":500}}'


def answering(answer: bytes) -> Script:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        read_head(conn)
        conn.sendall(answer)

    return script


def fault(peer: Peer, how: DialPolicy | None = None, timeout_s: float = PATIENCE_S / 2) -> InvalidInformation:
    with pytest.raises(InvalidInformation) as invalid:
        fetch_information(peer.address, how or policy(), CLOCK, timeout_s=timeout_s)
    return invalid.value


def test_document_is_fetched_over_tls_from_the_relays_own_path(tls: Tls) -> None:
    heads: list[bytes] = []

    def script(conn: socket.socket, _over: threading.Event) -> None:
        heads.append(read_head(conn))
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(DOCUMENT))
        conn.sendall(DOCUMENT)

    with Peer(script, tls=tls.server) as peer:
        address = parse_address(f"wss://relay.example:{peer.port}/chat?room=1")
        information = fetch_information(address, policy(peer.resolver, tls_context=tls.client), CLOCK)
    assert (information.name, information.limits.max_limit) == ("relay", 500)
    assert heads[0].startswith(b"GET /chat?room=1 HTTP/1.1\r\n")
    assert header(heads[0], "Host") == f"relay.example:{peer.port}"
    assert header(heads[0], "Accept") == "application/nostr+json"
    assert header(heads[0], "User-Agent") == "test/1"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n" + DOCUMENT,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(DOCUMENT), DOCUMENT),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + DOCUMENT,
    ],
)
def test_ways_to_frame_a_body(answer: bytes) -> None:
    with Peer(answering(answer)) as peer:
        assert fetch_information(peer.address, policy(), CLOCK).limits.max_limit == 500


@pytest.mark.parametrize(
    ("answer", "expected", "status"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", InformationFault.STATUS, 404),
        (b"HTTP/1.1 429 Slow down\r\n\r\n", InformationFault.STATUS, 429),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", InformationFault.JSON, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", InformationFault.JSON, None),
        (b"", InformationFault.HTTP, None),
        (b"SSH-2.0-OpenSSH_9.9\r\n", InformationFault.HTTP, None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", InformationFault.HTTP, None),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n{}", InformationFault.HTTP, None),
    ],
)
def test_no_document(answer: bytes, expected: InformationFault, status: int | None) -> None:
    with Peer(answering(answer)) as peer:
        error = fault(peer)
    assert (error.reason, error.status) == (expected, status)


def test_redirect_is_not_followed() -> None:
    with Peer() as silent:
        location = f"http://127.0.0.1:{silent.port}/".encode()
        with Peer(answering(b"HTTP/1.1 301 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location)) as peer:
            error = fault(peer)
        assert (error.reason, error.status) == (InformationFault.REDIRECT, 301)
        assert silent.connections == 0


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000, id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", b"x" * 1000, id="announced body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 100, id="tiny chunks"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, id="interim answers"),
    ],
)
def test_endless_answer_is_cut(head: bytes, piece: bytes) -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        read_head(conn)
        conn.sendall(head)
        while True:
            conn.sendall(piece)

    with Peer(script) as peer:
        assert fault(peer).reason is InformationFault.TOO_LARGE


def test_document_of_the_largest_size() -> None:
    document = b'{"name":"' + b"x" * (MAX_DOCUMENT_BYTES - 11) + b'"}'
    with Peer(answering(b"HTTP/1.1 200 OK\r\n\r\n" + document)) as peer:
        assert fetch_information(peer.address, policy(), CLOCK).name.startswith("xxx")


def test_dripped_answer_meets_the_deadline() -> None:
    def script(conn: socket.socket, over: threading.Event) -> None:
        conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.wait(0.02):
            conn.sendall(b" ")

    with Peer(script) as peer:
        started = time.monotonic()
        assert fault(peer, timeout_s=0.3).reason is InformationFault.TIMEOUT
        assert time.monotonic() - started < PATIENCE_S / 2


def test_private_address_is_not_asked() -> None:
    with Peer() as peer:
        error = fault(peer, policy(allow_private=False))
        assert error.reason is InformationFault.DIAL
        assert isinstance(error.__cause__, DialError)
        assert error.__cause__.reason is DialReason.PRIVATE
        assert peer.connections == 0
