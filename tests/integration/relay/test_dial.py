import contextlib
import dataclasses
import errno
import itertools
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from pipeline.nostr.address import parse_address
from pipeline.relay import resolve
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.deadline import AttemptDeadline, Deadline
from pipeline.relay.dial import QUICK_CONNECT_S, Compression, dial
from pipeline.relay.dial_gate import DialGate, DialRates
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.resolve import SocketAddress
from pipeline.relay.timed_socket import TimedSocket
from pipeline.settings.values import HostPort
from tests.fakes.net import free_port
from tests.integration.relay.peers import (
    CLOCK,
    PATIENCE_S,
    TEXT,
    Peer,
    Tls,
    accept_websocket,
    failure,
    frame,
    header,
    policy,
    read_head,
)

NAMED = parse_address("ws://relay.example")
NAMED_TLS = parse_address("wss://relay.example")


@contextlib.contextmanager
def deaf_listener() -> Iterator[SocketAddress]:
    """An address whose connections are neither accepted nor refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def closed_port() -> SocketAddress:
    return "127.0.0.1", free_port()


def greet(conn: socket.socket, over: threading.Event) -> None:
    accept_websocket(conn, then=frame(TEXT, b"hello"))
    over.wait(PATIENCE_S)


def test_address_without_an_answer_costs_no_more_than_its_own_bound() -> None:
    with Peer(greet, host="127.0.0.2") as peer, deaf_listener() as deaf:
        answers = [deaf, (peer.host, peer.port)]
        bounds = policy(lambda _host, _port: answers, timeout_s=PATIENCE_S, connect_timeout_s=1.0)
        websocket = BlockingWebSocket(dial(NAMED, bounds, CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"hello"]
        websocket.close()


def test_quick_dial_waits_less_for_the_host_and_as_long_for_the_rest() -> None:
    usual = policy()
    quick = usual.quick()
    assert (quick.timeout_s, quick.connect_timeout_s) == (usual.timeout_s, QUICK_CONNECT_S)
    assert quick == dataclasses.replace(usual, connect_timeout_s=QUICK_CONNECT_S)


def test_failed_addresses_are_passed_over() -> None:
    with Peer(greet, host="127.0.0.2") as peer, deaf_listener() as deaf:
        answers = [closed_port(), deaf, (peer.host, peer.port)]
        websocket = BlockingWebSocket(dial(NAMED, policy(lambda _host, _port: answers, timeout_s=8.0), CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"hello"]
        websocket.close()


def test_request_says_who_we_are_and_offers_nothing() -> None:
    heads: list[bytes] = []

    def script(conn: socket.socket, _over: threading.Event) -> None:
        heads.append(accept_websocket(conn, extra=b"Set-Cookie: a=b; Domain=relay.example\r\n"))

    with Peer(script) as peer:
        for _ in range(2):
            address = parse_address(f"ws://relay.example:{peer.port}/a;b/c;d?e=f;g")
            dial(address, policy(peer.resolver), CLOCK).close()
    for head in heads:
        assert head.startswith(b"GET /a;b/c;d?e=f;g HTTP/1.1\r\n")
        assert header(head, "Host") == f"relay.example:{peer.port}"
        assert header(head, "User-Agent") == "test/1"
        unwanted = ("Cookie", "Origin", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol")
        assert [header(head, name) for name in unwanted] == [None] * 4


@pytest.mark.parametrize("target", ["/relay/", "//", "/a//b", "/relay?", "/?", "/a/../b", "/%7Ea;b"])
def test_path_is_requested_as_it_was_written(target: str) -> None:
    heads: list[bytes] = []
    with Peer(lambda conn, _over: heads.append(accept_websocket(conn))) as peer:
        dial(parse_address(f"ws://Relay.example:{peer.port}{target}"), policy(peer.resolver), CLOCK).close()
    assert heads[0].split(b"\r\n")[0] == f"GET {target} HTTP/1.1".encode()


def test_messages_behind_the_answer_are_not_lost() -> None:
    """The relay's first frames may come in one segment with the end of the handshake."""
    with Peer(greet) as peer:
        websocket = BlockingWebSocket(dial(peer.address, policy(), CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"hello"]
        websocket.close()


def test_every_address_gets_only_its_share_of_the_time() -> None:
    with deaf_listener() as deaf, Peer() as silent:
        answers = [deaf, (silent.host, silent.port)]
        started = time.monotonic()
        error = failure(NAMED, policy(lambda _host, _port: answers, timeout_s=2.0))
        assert error.reason is DialReason.TIMEOUT
        assert time.monotonic() - started > 1.9
        silent.wait_connections(1)


def test_refused_connection() -> None:
    error = failure(NAMED, policy(lambda _host, _port: [closed_port()]))
    assert (error.reason, error.permanent) == (DialReason.REFUSED, False)


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:{port}", "ws://127.1:{port}", "ws://0x7f000001:{port}", "ws://2130706433:{port}",
            "ws://[::ffff:127.0.0.1]:{port}", "ws://localhost:{port}"],
)  # fmt: skip
def test_private_literals_are_not_dialled_however_they_are_written(url: str) -> None:
    with Peer() as peer:
        error = failure(parse_address(url.format(port=peer.port)), policy(allow_private=False))
        assert (error.reason, error.permanent) == (DialReason.PRIVATE, True)
        assert peer.connections == 0


def test_name_that_resolves_to_private_addresses_is_not_dialled() -> None:
    with Peer() as peer:
        error = failure(NAMED, policy(peer.resolver, allow_private=False))
        assert error.reason is DialReason.PRIVATE
        assert peer.connections == 0


def test_of_mixed_answers_only_the_public_are_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "is_global_ip", lambda ip: str(ip) == "127.0.0.2")
    with Peer() as private, Peer(greet, host="127.0.0.2") as public:
        answers: list[SocketAddress] = [(private.host, private.port), (public.host, public.port)]
        websocket = BlockingWebSocket(
            dial(NAMED, policy(lambda _host, _port: answers, allow_private=False), CLOCK), CLOCK
        )
        websocket.close()
        assert (private.connections, public.connections) == (0, 1)


def test_name_is_resolved_once_and_the_vetted_address_is_the_one_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose second answer differs (DNS rebinding) gains nothing."""
    monkeypatch.setattr(resolve, "is_global_ip", lambda ip: str(ip) == "127.0.0.2")
    with Peer() as private, Peer(greet, host="127.0.0.2") as public:
        answers: Iterator[SocketAddress] = iter([(public.host, public.port), (private.host, private.port)])
        websocket = BlockingWebSocket(
            dial(NAMED, policy(lambda _host, _port: [next(answers)], allow_private=False), CLOCK), CLOCK
        )
        websocket.close()
        assert next(answers) == (private.host, private.port)
        assert (private.connections, public.connections) == (0, 1)


@pytest.mark.parametrize("url", ["ws://relay.i2p", "wss://relay.loki"])
def test_overlay_networks_that_we_have_no_way_into(url: str) -> None:
    error = failure(parse_address(url), policy())
    assert (error.reason, error.permanent) == (DialReason.NETWORK, True)


def test_server_that_says_nothing() -> None:
    with Peer() as peer:
        started = time.monotonic()
        assert failure(peer.address, policy(timeout_s=0.2)).reason is DialReason.TIMEOUT
        assert time.monotonic() - started < PATIENCE_S / 2


def test_dripped_headers_meet_the_deadline() -> None:
    def script(conn: socket.socket, over: threading.Event) -> None:
        conn.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
        while not over.wait(0.02):
            conn.sendall(b"x")

    with Peer(script) as peer:
        started = time.monotonic()
        assert failure(peer.address, policy(timeout_s=0.3)).reason is DialReason.TIMEOUT
        assert time.monotonic() - started < PATIENCE_S / 2


@pytest.mark.parametrize("line", [b"X-Filler: abcdefghijklmnopqrstuvwxyz\r\n", b"x"])
def test_endless_headers_meet_the_budget(line: bytes) -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        conn.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            conn.sendall(line * 100)

    with Peer(script) as peer:
        assert failure(peer.address, policy()).reason is DialReason.TOO_LARGE


@pytest.mark.parametrize("status", [429, 503, 200, 403])
def test_refusal_keeps_its_status_and_its_page_is_not_read(status: int) -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 10000000000\r\n\r\n" % status)
        for _ in itertools.count():
            conn.sendall(b"<html>" * 1000)

    with Peer(script) as peer:
        started = time.monotonic()
        error = failure(peer.address, policy())
        assert (error.reason, error.status) == (DialReason.HANDSHAKE, status)
        assert time.monotonic() - started < PATIENCE_S / 2


def test_refusal_without_a_page_keeps_its_status() -> None:
    with Peer(lambda conn, _over: conn.sendall(b"HTTP/1.1 429 Too Many Requests\r\n\r\n")) as peer:
        error = failure(peer.address, policy())
        assert (error.reason, error.status) == (DialReason.HANDSHAKE, 429)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with Peer() as silent:

        def script(conn: socket.socket, _over: threading.Event) -> None:
            read_head(conn)
            location = f"ws://127.0.0.1:{silent.port}/".encode()
            conn.sendall(b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, location))

        with Peer(script) as peer:
            error = failure(peer.address, policy())
        assert (error.reason, error.status) == (DialReason.REDIRECT, status)
        assert error.detail == f"HTTP status {status} to ws://127.0.0.1:{silent.port}/"
        assert silent.connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nX: \xff\xfe\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nSet-Cookie: \x01=;;;=\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: many\r\n\r\n",
    ],
)
def test_answer_that_is_none_is_a_failed_handshake(answer: bytes) -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        read_head(conn)
        conn.sendall(answer)

    with Peer(script) as peer:
        assert failure(peer.address, policy()).reason is DialReason.HANDSHAKE


def test_connection_reset_in_the_handshake() -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        read_head(conn)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

    with Peer(script) as peer:
        assert failure(peer.address, policy()).reason is DialReason.HANDSHAKE


def test_cancelled_dial_ends_soon() -> None:
    with Peer() as peer:
        wanted = iter([False, False])
        started = time.monotonic()
        with pytest.raises(DialError) as called_off:
            dial(peer.address, policy(timeout_s=PATIENCE_S), CLOCK, lambda: next(wanted, True))
        assert called_off.value.reason is DialReason.CANCELLED
        assert time.monotonic() - started < PATIENCE_S / 2


class _LateGate(DialGate):
    """Lets every dial pass, after which it is not wanted any more."""

    def __init__(self) -> None:
        super().__init__(DialRates.of(1, 10), CLOCK)
        self.has_passed = False

    def admits(self, host: str, address: str) -> bool:
        self.has_passed = True
        return super().admits(host, address)


def test_dial_cancelled_before_it_connects_reaches_no_one() -> None:
    gate = _LateGate()
    with Peer(greet) as peer:
        with pytest.raises(DialError) as called_off:
            dial(peer.address, dataclasses.replace(policy(), gate=gate), CLOCK, lambda: gate.has_passed)
        assert called_off.value.reason is DialReason.CANCELLED
        dial(peer.address, policy(), CLOCK).close()
        assert peer.connections == 1


def test_cancelled_attempt_sends_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        attempt = AttemptDeadline(Deadline(CLOCK, PATIENCE_S), lambda: True)
        with pytest.raises(DialError):
            TimedSocket(ours, attempt, reason=DialReason.HANDSHAKE, doing="request", budget=1).send(b"GET /")
        ours.shutdown(socket.SHUT_WR)
        assert theirs.recv(10) == b""


def test_hanging_lookup_meets_the_deadline() -> None:
    free = threading.Event()

    def resolver(_host: str, _port: int) -> list[SocketAddress]:
        free.wait(PATIENCE_S)
        return []

    try:
        assert failure(NAMED, policy(resolver, timeout_s=0.1)).reason is DialReason.TIMEOUT
    finally:
        free.set()


def test_unknown_name() -> None:
    def resolver(_host: str, _port: int) -> list[SocketAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    error = failure(NAMED, policy(resolver))
    assert (error.reason, error.permanent) == (DialReason.DNS, True)


def test_tls_is_verified_for_the_name(tls: Tls) -> None:
    with Peer(greet, tls=tls.server) as peer:
        websocket = BlockingWebSocket(dial(NAMED_TLS, policy(peer.resolver, tls_context=tls.client), CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"hello"]
        websocket.close()
        dial(peer.address, policy(tls_context=tls.client), CLOCK).close()


def test_certificate_for_another_name_or_of_nobody_is_refused(tls: Tls) -> None:
    with Peer(greet, tls=tls.server) as peer:
        other = parse_address("wss://other.example")
        for error in (
            failure(other, policy(peer.resolver, tls_context=tls.client)),
            failure(NAMED_TLS, policy(peer.resolver)),
        ):
            assert (error.reason, error.permanent) == (DialReason.TLS, True)


def test_tls_that_stalls_meets_the_deadline(tls: Tls) -> None:
    with Peer() as peer:
        error = failure(NAMED_TLS, policy(peer.resolver, timeout_s=0.2, tls_context=tls.client))
        assert error.reason is DialReason.TIMEOUT


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_port_that_speaks_no_tls(tls: Tls, noise: bytes) -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        conn.recv(1)
        conn.sendall(noise)

    with Peer(script) as peer:
        error = failure(NAMED_TLS, policy(peer.resolver, tls_context=tls.client))
        assert (error.reason, error.permanent) == (DialReason.TLS, False)


def test_message_limit_of_the_policy_holds() -> None:
    def script(conn: socket.socket, over: threading.Event) -> None:
        accept_websocket(conn, then=frame(TEXT, b"hello") + frame(TEXT, b"ho"))
        over.wait(PATIENCE_S)

    with Peer(script) as peer:
        websocket = BlockingWebSocket(
            dial(peer.address, dataclasses.replace(policy(), max_message_bytes=4), CLOCK), CLOCK
        )
        assert websocket.receive(PATIENCE_S) == [b"ho"]
        assert websocket.skipped == 1
        websocket.close()


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(b"", id="nothing else"),
        pytest.param(b"Connection: keep-alive\r\n", id="Connection in two lines"),
        pytest.param(b"connection: keep-alive, Upgrade\r\n", id="Connection as a list"),
        pytest.param(b"Sec-WebSocket-Protocol: nostr\r\n", id="a protocol that nobody asked for"),
    ],
)
@pytest.mark.parametrize(
    "before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
)
def test_answers_of_proxies_are_understood(extra: bytes, before: bytes) -> None:
    def script(conn: socket.socket, over: threading.Event) -> None:
        conn.sendall(before * 2)
        accept_websocket(conn, extra, then=frame(TEXT, b"hello"))
        over.wait(PATIENCE_S)

    with Peer(script) as peer:
        websocket = BlockingWebSocket(dial(peer.address, policy(), CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"hello"]
        websocket.close()


def test_endless_answers_before_the_real_one_meet_the_budget() -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        while True:
            conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    with Peer(script) as peer:
        assert failure(peer.address, policy()).reason is DialReason.TOO_LARGE


@pytest.mark.parametrize(
    ("status", "said", "wait_s"),
    [
        (429, b"Retry-After: 17", 17),
        (503, b"Date: Wed, 21 Oct 2026 07:28:00 GMT\r\nRetry-After: Wed, 21 Oct 2026 08:28:00 GMT", 3600),
        (503, b"X: y", None),
        (404, b"Retry-After: 17", None),
    ],
)
def test_overloaded_relay_says_for_how_long(status: int, said: bytes, wait_s: int | None) -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 %d No\r\n%s\r\n\r\n" % (status, said))

    with Peer(script) as peer:
        error = failure(peer.address, policy())
    assert (error.status, error.retry_after_s) == (status, wait_s)


def deflated(text: bytes) -> bytes:
    """A whole compressed text message."""
    encoder = zlib.compressobj(wbits=-15)
    payload = (encoder.compress(text) + encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return bytes([0xC1, len(payload)]) + payload


@pytest.mark.parametrize("more", ["", "; client_no_context_takeover", "; server_max_window_bits=12"])
def test_compression_is_offered_and_taken_up(more: str) -> None:
    heads: list[bytes] = []

    def script(conn: socket.socket, over: threading.Event) -> None:
        agreed = f"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover{more}\r\n"
        heads.append(accept_websocket(conn, agreed.encode(), then=deflated(b"hello") + frame(TEXT, b"plain")))
        over.wait(PATIENCE_S)

    with Peer(script) as peer:
        how = dataclasses.replace(policy(), compression=Compression())
        websocket = BlockingWebSocket(dial(peer.address, how, CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"hello", b"plain"]
        websocket.close()
    assert header(heads[0], "Sec-WebSocket-Extensions") == "permessage-deflate; server_no_context_takeover"


def hear_hello_twice(peer: Peer) -> None:
    """Two connections, one after the other, that may use compression."""
    how = dataclasses.replace(policy(), compression=Compression())
    for _ in range(2):
        websocket = BlockingWebSocket(dial(peer.address, how, CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"hello"]
        websocket.close()


@pytest.mark.parametrize(
    "answer", ["permessage-deflate", "x-webkit-deflate-frame", "permessage-deflate; server_no_context_takeover; y"]
)
def test_relay_with_other_terms_of_compression_is_offered_none_any_more(answer: str) -> None:
    offers: list[str | None] = []

    def script(conn: socket.socket, over: threading.Event) -> None:
        extra = f"Sec-WebSocket-Extensions: {answer}\r\n".encode() if peer.connections == 1 else b""
        offers.append(header(accept_websocket(conn, extra, then=frame(TEXT, b"hello")), "Sec-WebSocket-Extensions"))
        over.wait(PATIENCE_S)

    with Peer(script) as peer:
        hear_hello_twice(peer)
    assert sorted(offer is not None for offer in offers) == [False, False, True]


@pytest.mark.parametrize("status", [400, 500, 501])
def test_relay_that_fails_over_the_offer_is_offered_none_any_more(status: int) -> None:
    """As Node's ws does where it must keep its context."""
    offers: list[str | None] = []

    def script(conn: socket.socket, over: threading.Event) -> None:
        if peer.connections == 1:
            offers.append(header(read_head(conn), "Sec-WebSocket-Extensions"))
            conn.sendall(b"HTTP/1.1 %d No\r\n\r\n" % status)
            return
        offers.append(header(accept_websocket(conn, then=frame(TEXT, b"hello")), "Sec-WebSocket-Extensions"))
        over.wait(PATIENCE_S)

    with Peer(script) as peer:
        hear_hello_twice(peer)
    assert sorted(offer is not None for offer in offers) == [False, False, True]


def test_failure_that_is_not_over_the_offer_keeps_its_status() -> None:
    def script(conn: socket.socket, _over: threading.Event) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Peer(script) as peer:
        compression = Compression()
        assert failure(peer.address, dataclasses.replace(policy(), compression=compression)).status == 400
        assert compression.is_offered_to(peer.address)


def test_relay_without_compression_is_read_all_the_same() -> None:
    with Peer(greet) as peer:
        how = dataclasses.replace(policy(), compression=Compression())
        websocket = BlockingWebSocket(dial(peer.address, how, CLOCK), CLOCK)
        assert websocket.receive(PATIENCE_S) == [b"hello"]
        websocket.close()
        assert peer.connections == 1


def test_running_out_of_files_is_no_fault_of_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with Peer(greet) as peer:
        monkeypatch.setattr(socket, "socket", no_socket)
        assert failure(peer.address, policy()).reason is DialReason.LOCAL


@pytest.mark.parametrize("listening", ["", "0.0.0.0", "127.0.0.1"])
def test_own_web_server_is_not_dialled_by_any_name(listening: str) -> None:
    """Another port is, and the same port of an address that nothing of ours listens on."""
    with Peer() as peer:
        address = parse_address(f"ws://some.example:{peer.port}")
        how = dataclasses.replace(
            policy(lambda _, port: [("127.0.0.1", port)]), own=HostPort(listening, peer.port), timeout_s=0.5
        )
        assert failure(address, how).reason is DialReason.OWN
        assert peer.connections == 0
        for own in (HostPort(listening, peer.port + 1), HostPort("127.0.0.2", peer.port)):
            assert failure(address, dataclasses.replace(how, own=own)).reason is DialReason.TIMEOUT
