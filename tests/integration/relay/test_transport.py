import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import websockets
import websockets.sync.server

from pipeline.nostr.address import parse_address
from pipeline.relay.dial import dial
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.frames import MAX_BATCH_MESSAGES
from pipeline.relay.transport import Transport
from tests.integration.relay.peers import (
    BINARY,
    CLOCK,
    CLOSE,
    PATIENCE_S,
    PING,
    PONG,
    TEXT,
    FrameSource,
    Tls,
    frame,
    policy,
)


@contextlib.contextmanager
def pair(
    max_message_bytes: int = 1 << 20, send_timeout_s: float = PATIENCE_S
) -> Iterator[tuple[Transport, socket.socket]]:
    """A transport and the relay's end of its socket."""
    ours, theirs = socket.socketpair()
    transport = Transport(ours, CLOCK, max_message_bytes=max_message_bytes, send_timeout_s=send_timeout_s)
    with theirs:
        try:
            yield transport, theirs
        finally:
            transport.close()


@contextlib.contextmanager
def tls_pair(tls: Tls) -> Iterator[tuple[Transport, ssl.SSLSocket]]:
    ours, theirs = socket.socketpair()
    wrapped: list[ssl.SSLSocket] = []
    handshake = threading.Thread(target=lambda: wrapped.append(tls.server.wrap_socket(theirs, server_side=True)))
    handshake.start()
    secured = tls.client.wrap_socket(ours, server_hostname="relay.example")
    handshake.join(PATIENCE_S)
    transport = Transport(secured, CLOCK)
    with wrapped[0]:
        try:
            yield transport, wrapped[0]
        finally:
            transport.close()


def receive_count(transport: Transport, count: int) -> list[bytes]:
    messages: list[bytes] = []
    while len(messages) < count:
        batch = transport.receive(PATIENCE_S)
        assert batch, f"{len(messages)} of {count} messages came"
        messages += batch
    return messages


def loss(transport: Transport) -> ConnectionLost:
    """What ends the connection; no message may come before."""
    with pytest.raises(ConnectionLost) as lost:
        assert transport.receive(PATIENCE_S) is None
    return lost.value


def test_messages_come_in_order_and_in_bounded_batches() -> None:
    with pair() as (transport, relay):
        relay.sendall(b"".join(frame(TEXT, b"%d" % number) for number in range(1000)))
        batches: list[list[bytes]] = []
        while sum(len(batch) for batch in batches) < 1000:
            batches.append(transport.receive(PATIENCE_S))
        assert list(itertools.chain.from_iterable(batches)) == [b"%d" % number for number in range(1000)]
        assert max(len(batch) for batch in batches) <= MAX_BATCH_MESSAGES
        assert transport.receive(0) == []


def test_timeout_gives_nothing_and_costs_the_time_it_says() -> None:
    with pair() as (transport, _relay):
        started = time.monotonic()
        assert transport.receive(0.1) == []
        assert 0.09 < time.monotonic() - started < PATIENCE_S / 2


def test_silent_relay_is_told_by_last_received() -> None:
    """A half-open connection looks like this: nothing comes, and nothing fails."""
    with pair() as (transport, relay):
        before = transport.last_received
        assert transport.receive(0.01) == []
        assert transport.last_received == before
        relay.sendall(frame(PONG))
        assert transport.receive(0.01) == []
        assert transport.last_received > before
        assert transport.bytes_received == 2


@pytest.mark.parametrize("boundary", range(1, 23))
def test_frames_may_arrive_in_two_pieces(boundary: int) -> None:
    stream = (
        frame(TEXT, b"one")
        + frame(PING, b"?")
        + frame(TEXT, b"t", fin=False)
        + frame(0, b"wo")
        + frame(TEXT, b"three!")
    )
    assert len(stream) == 23
    with pair() as (transport, relay):
        relay.sendall(stream[:boundary])
        messages = transport.receive(0.001)
        relay.sendall(stream[boundary:])
        while len(messages) < 3:
            messages += transport.receive(PATIENCE_S)
        assert messages == [b"one", b"two", b"three!"]


def test_wake_ends_a_receive_that_waits() -> None:
    with pair() as (transport, _relay):
        waker = threading.Timer(0.05, transport.wake)
        waker.start()
        started = time.monotonic()
        assert transport.receive(PATIENCE_S) == []
        assert time.monotonic() - started < PATIENCE_S / 2
        waker.join()


def test_wakes_count_once_and_are_not_lost_before_the_wait() -> None:
    with pair() as (transport, relay):
        for _ in range(3):
            transport.wake()
        relay.sendall(frame(TEXT, b"x"))
        started = time.monotonic()
        assert {tuple(transport.receive(PATIENCE_S)) for _ in range(2)} == {(), (b"x",)}
        assert time.monotonic() - started < PATIENCE_S / 2
        started = time.monotonic()
        assert transport.receive(0.1) == []
        assert time.monotonic() - started > 0.09


def test_wake_is_heard_through_a_flood_that_holds_no_message() -> None:
    over = threading.Event()

    def flood(relay: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                relay.sendall(frame(PONG, b"x" * 125) * 100)

    with pair() as (transport, relay):
        flooding = threading.Thread(target=flood, args=(relay,))
        flooding.start()
        waker = threading.Timer(0.1, transport.wake)
        waker.start()
        started = time.monotonic()
        assert transport.receive(PATIENCE_S) == []
        assert time.monotonic() - started < PATIENCE_S / 2
        started = time.monotonic()
        assert transport.receive(0.1) == []
        assert time.monotonic() - started < PATIENCE_S / 2
        over.set()
        transport.close()
        flooding.join(PATIENCE_S)


def test_what_is_sent_arrives_masked_and_whole() -> None:
    with pair() as (transport, relay):
        frames = FrameSource(relay)
        transport.send('["REQ","ü"]')
        transport.send(b"bytes")
        transport.ping(b"?")
        assert [frames.next() for _ in range(3)] == [(TEXT, '["REQ","ü"]'.encode()), (TEXT, b"bytes"), (PING, b"?")]
        large = b"x" * 3_000_000
        reader: list[tuple[int, bytes]] = []
        reading = threading.Thread(target=lambda: reader.append(frames.next()))
        reading.start()
        transport.send(large)
        reading.join(PATIENCE_S)
        assert reader == [(TEXT, large)]
        assert transport.bytes_sent > 3_000_000


def test_relay_that_does_not_read_is_given_up() -> None:
    with pair(send_timeout_s=0.1) as (transport, _relay):
        started = time.monotonic()
        with pytest.raises(ConnectionLost) as lost:
            transport.send(b"x" * 10_000_000)
        assert lost.value.reason is LossReason.SEND_TIMEOUT
        assert time.monotonic() - started < PATIENCE_S / 2
        assert loss(transport).reason is LossReason.SEND_TIMEOUT


def test_ping_is_answered_with_its_payload() -> None:
    with pair() as (transport, relay):
        relay.sendall(frame(PING, b"are you there"))
        assert transport.receive(0.01) == []
        assert FrameSource(relay).next() == (PONG, b"are you there")


def test_flood_of_pings_nobody_waits_for_neither_blocks_nor_grows() -> None:
    """The relay reads nothing: one pong may be stuck, the newest ping is remembered, messages still come."""
    with pair() as (transport, relay):
        relay.settimeout(PATIENCE_S)
        for round_number in range(200):
            relay.sendall(frame(PING, b"%0125d" % round_number) * 300 + frame(TEXT, b"%d" % round_number))
            assert receive_count(transport, 1) == [b"%d" % round_number]
        frames = FrameSource(relay)
        received = [frames.next() for _ in range(1)]
        assert received[0][0] == PONG
        transport.send("after the pongs")
        while received[-1] != (TEXT, b"after the pongs"):
            received.append(frames.next())
        assert len(received) < 2 * 200


def test_stuck_pong_is_finished_before_anything_else_is_sent() -> None:
    with pair() as (transport, relay):
        relay.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for number in itertools.count():
            relay.sendall(frame(PING, b"%0125d" % number))
            sent = transport.bytes_sent
            assert transport.receive(0) == []
            if transport.bytes_sent == sent:
                break
        sending = threading.Thread(target=transport.send, args=("text",))
        sending.start()
        frames = FrameSource(relay)
        received = [frames.next()]
        while received[-1][0] == PONG:
            received.append(frames.next())
        sending.join(PATIENCE_S)
        assert received[-1] == (TEXT, b"text")


def test_binary_messages_are_counted_and_dropped() -> None:
    with pair() as (transport, relay):
        relay.sendall(frame(BINARY, b"x") * 3 + frame(TEXT, b"y"))
        assert receive_count(transport, 1) == [b"y"]
        assert transport.binary_ignored == 3


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (frame(CLOSE, b"\x03\xe8over"), LossReason.CLOSED),
        (frame(11), LossReason.PROTOCOL),
        (b"\x81\x7f" + (10 << 30).to_bytes(8, "big"), LossReason.TOO_LARGE),
        (b"", LossReason.EOF),
        (b"\x81\x05half", LossReason.EOF),
    ],
)
def test_end_is_reported_after_the_messages_before_it(stream: bytes, reason: LossReason) -> None:
    with pair() as (transport, relay):
        relay.sendall(frame(TEXT, b"last") + stream)
        relay.shutdown(socket.SHUT_WR)
        assert receive_count(transport, 1) == [b"last"]
        assert loss(transport).reason is reason
        assert loss(transport).reason is reason
        with pytest.raises(ConnectionLost):
            transport.send("too late")


def test_message_is_not_lost_to_a_pong_that_cannot_be_sent() -> None:
    with pair() as (transport, relay):
        relay.sendall(frame(TEXT, b"first") + frame(PING) + frame(TEXT, b"last"))
        relay.close()
        assert receive_count(transport, 2) == [b"first", b"last"]
        assert loss(transport).reason is LossReason.EOF


def test_endless_frame_is_cut_and_the_relay_is_told() -> None:
    with pair(max_message_bytes=1000) as (transport, relay):
        relay.sendall(frame(TEXT, b"x" * 600, fin=False) + frame(0, b"x" * 600, fin=False))
        assert loss(transport).reason is LossReason.TOO_LARGE
        transport.close()
        assert FrameSource(relay).next() == (CLOSE, (1009).to_bytes(2, "big"))


def test_close_says_goodbye_and_may_be_repeated() -> None:
    with pair() as (transport, relay):
        transport.close()
        transport.close()
        transport.wake()
        assert FrameSource(relay).next() == (CLOSE, (1000).to_bytes(2, "big"))
        assert relay.recv(1) == b""
        assert loss(transport).reason is LossReason.LOCAL


def test_close_from_another_thread_ends_a_receive() -> None:
    with pair() as (transport, _relay):
        closer = threading.Timer(0.05, transport.close)
        closer.start()
        assert loss(transport).reason is LossReason.LOCAL
        closer.join(PATIENCE_S)
        assert not closer.is_alive()


def test_close_from_another_thread_ends_a_send_within_a_second() -> None:
    with pair() as (transport, _relay):
        reasons: list[LossReason] = []

        def send() -> None:
            with pytest.raises(ConnectionLost) as lost:
                transport.send(b"x" * 10_000_000)
            reasons.append(lost.value.reason)

        sending = threading.Thread(target=send)
        sending.start()
        started = time.monotonic()
        while transport.bytes_sent == 0:
            assert time.monotonic() - started < PATIENCE_S
        transport.close()
        assert time.monotonic() - started < PATIENCE_S / 2
        sending.join(PATIENCE_S)
        assert reasons == [LossReason.LOCAL]


def test_close_does_not_wait_for_a_relay_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 100_000)
        transport = Transport(ours, CLOCK)
        started = time.monotonic()
        transport.close()
        assert time.monotonic() - started < PATIENCE_S / 2


def test_tls_records_are_gathered(tls: Tls) -> None:
    """OpenSSL may hold data that poll(2) knows nothing of; none of it may be left lying."""
    with tls_pair(tls) as (transport, relay):
        for number in range(100):
            relay.sendall(frame(TEXT, b"%d" % number))
        assert receive_count(transport, 100) == [b"%d" % number for number in range(100)]
        relay.sendall(frame(TEXT, b"x" * 60_000) + frame(PING, b"?"))
        assert receive_count(transport, 1) == [b"x" * 60_000]
        transport.send("answer")
        assert transport.receive(0.01) == []
        frames = FrameSource(relay)
        assert {frames.next(), frames.next()} == {(TEXT, b"answer"), (PONG, b"?")}


def test_tls_connection_that_ends_or_breaks(tls: Tls) -> None:
    with tls_pair(tls) as (transport, relay):
        relay.sendall(frame(TEXT, b"last"))
        socket.socket.sendall(relay, b"\x17\x03\x03\x00\x10no record of ours")
        assert receive_count(transport, 1) == [b"last"]
        assert loss(transport).reason is LossReason.ERROR
    with tls_pair(tls) as (transport, relay):
        relay.sendall(frame(TEXT, b"last"))
        relay.close()
        assert receive_count(transport, 1) == [b"last"]
        assert loss(transport).reason is LossReason.EOF


@pytest.mark.parametrize("secure", [False, True])
def test_real_server(tls: Tls, secure: bool) -> None:
    """A peer that nobody here wrote: fragments, pings, a large message, its close."""

    def answer(connection: websockets.sync.server.ServerConnection) -> None:
        assert connection.recv(PATIENCE_S) == "hello"
        connection.send(iter(["frag", "men", "ted"]))
        assert connection.ping(b"?").wait(PATIENCE_S)
        connection.send("x" * 1_000_000)
        connection.close(4000, "enough")

    server = websockets.sync.server.serve(answer, "127.0.0.1", 0, ssl=tls.server if secure else None)
    with server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        port = server.socket.getsockname()[1]
        address = parse_address(f"{'wss' if secure else 'ws'}://127.0.0.1:{port}")
        transport = dial(address, policy(tls_context=tls.client), CLOCK)
        transport.send("hello")
        assert receive_count(transport, 2) == [b"fragmented", b"x" * 1_000_000]
        lost = loss(transport)
        assert (lost.reason, lost.detail) == (LossReason.CLOSED, "4000 enough")
        transport.close()
        server.shutdown()
        serving.join(PATIENCE_S)
