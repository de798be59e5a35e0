import contextlib
import itertools
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.process.clock import ManualClock
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.frames import MAX_BATCH_MESSAGES
from pipeline.relay.websocket import READ_BYTES, WebSocket
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
)


@contextlib.contextmanager
def pair(
    max_message_bytes: int = 1 << 20, send_timeout_s: float = PATIENCE_S
) -> Iterator[tuple[WebSocket, socket.socket]]:
    """A channel and the relay's end of its socket."""
    ours, theirs = socket.socketpair()
    websocket = WebSocket(ours, CLOCK, max_message_bytes=max_message_bytes, send_timeout_s=send_timeout_s)
    with theirs:
        try:
            yield websocket, theirs
        finally:
            websocket.close()


@contextlib.contextmanager
def tls_pair(tls: Tls) -> Iterator[tuple[WebSocket, ssl.SSLSocket]]:
    ours, theirs = socket.socketpair()
    wrapped: list[ssl.SSLSocket] = []
    handshake = threading.Thread(target=lambda: wrapped.append(tls.server.wrap_socket(theirs, server_side=True)))
    handshake.start()
    secured = tls.client.wrap_socket(ours, server_hostname="relay.example")
    handshake.join(PATIENCE_S)
    websocket = WebSocket(secured, CLOCK)
    with wrapped[0]:
        try:
            yield websocket, wrapped[0]
        finally:
            websocket.close()


def receive(websocket: WebSocket, timeout_s: float) -> list[bytes]:
    return BlockingWebSocket(websocket, CLOCK).receive(timeout_s)


def send(websocket: WebSocket, text: str | bytes) -> None:
    BlockingWebSocket(websocket, CLOCK).send(text)


def is_sending(websocket: WebSocket) -> bool:
    return websocket.send_by is not None


def has_more(websocket: WebSocket) -> bool:
    return websocket.has_more


def receive_count(websocket: WebSocket, count: int) -> list[bytes]:
    messages: list[bytes] = []
    while len(messages) < count:
        batch = receive(websocket, PATIENCE_S)
        assert batch, f"{len(messages)} of {count} messages came"
        messages += batch
    return messages


def loss(websocket: WebSocket) -> ConnectionLost:
    """What ends the connection; no message may come before."""
    with pytest.raises(ConnectionLost) as lost:
        assert receive(websocket, PATIENCE_S) is None
    return lost.value


def test_messages_come_in_order_and_in_bounded_batches() -> None:
    with pair() as (channel, relay):
        relay.sendall(b"".join(frame(TEXT, b"%d" % number) for number in range(1000)))
        batches: list[list[bytes]] = []
        while sum(len(batch) for batch in batches) < 1000:
            batches.append(receive(channel, PATIENCE_S))
        assert list(itertools.chain.from_iterable(batches)) == [b"%d" % number for number in range(1000)]
        assert max(len(batch) for batch in batches) <= MAX_BATCH_MESSAGES
        assert receive(channel, 0) == []


def test_silent_relay_is_told_by_last_received() -> None:
    """A half-open connection looks like this: nothing comes, and nothing fails."""
    with pair() as (channel, relay):
        before = channel.last_received
        assert receive(channel, 0.01) == []
        assert channel.last_received == before
        relay.sendall(frame(PONG))
        assert receive(channel, 0.01) == []
        assert channel.last_received > before
        assert channel.bytes_received == 2


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
    with pair() as (channel, relay):
        relay.sendall(stream[:boundary])
        messages = receive(channel, 0.001)
        relay.sendall(stream[boundary:])
        while len(messages) < 3:
            messages += receive(channel, PATIENCE_S)
        assert messages == [b"one", b"two", b"three!"]


def test_what_is_sent_arrives_masked_and_whole() -> None:
    with pair() as (channel, relay):
        frames = FrameSource(relay)
        send(channel, '["REQ","ü"]')
        send(channel, b"bytes")
        channel.ping(b"?")
        assert [frames.next() for _ in range(3)] == [(TEXT, '["REQ","ü"]'.encode()), (TEXT, b"bytes"), (PING, b"?")]
        large = b"x" * 3_000_000
        reader: list[tuple[int, bytes]] = []
        reading = threading.Thread(target=lambda: reader.append(frames.next()))
        reading.start()
        send(channel, large)
        reading.join(PATIENCE_S)
        assert reader == [(TEXT, large)]
        assert channel.bytes_sent > 3_000_000


def test_relay_that_does_not_read_is_given_up() -> None:
    with pair(send_timeout_s=0.1) as (channel, _relay):
        started = time.monotonic()
        with pytest.raises(ConnectionLost) as lost:
            send(channel, b"x" * 10_000_000)
        assert lost.value.reason is LossReason.SEND_TIMEOUT
        assert time.monotonic() - started < PATIENCE_S / 2
        assert loss(channel).reason is LossReason.SEND_TIMEOUT


def test_ping_is_answered_with_its_payload() -> None:
    with pair() as (channel, relay):
        relay.sendall(frame(PING, b"are you there"))
        assert receive(channel, 0.01) == []
        assert FrameSource(relay).next() == (PONG, b"are you there")


def test_flood_of_pings_nobody_waits_for_neither_blocks_nor_grows() -> None:
    """The relay reads nothing: one pong may be stuck, the newest ping is remembered, messages still come."""
    with pair() as (channel, relay):
        relay.settimeout(PATIENCE_S)
        for round_number in range(200):
            relay.sendall(frame(PING, b"%0125d" % round_number) * 300 + frame(TEXT, b"%d" % round_number))
            assert receive_count(channel, 1) == [b"%d" % round_number]
        frames = FrameSource(relay)
        received = [frames.next() for _ in range(1)]
        assert received[0][0] == PONG
        send(channel, "after the pongs")
        while received[-1] != (TEXT, b"after the pongs"):
            received.append(frames.next())
        assert len(received) < 2 * 200


def test_stuck_pong_is_finished_before_anything_else_is_sent() -> None:
    with pair() as (channel, relay):
        relay.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for number in itertools.count():
            relay.sendall(frame(PING, b"%0125d" % number))
            sent = channel.bytes_sent
            assert receive(channel, 0) == []
            if channel.bytes_sent == sent:
                break
        sending = threading.Thread(target=send, args=(channel, "text"))
        sending.start()
        frames = FrameSource(relay)
        received = [frames.next()]
        while received[-1][0] == PONG:
            received.append(frames.next())
        sending.join(PATIENCE_S)
        assert received[-1] == (TEXT, b"text")


def test_binary_messages_are_read_like_text() -> None:
    with pair() as (channel, relay):
        relay.sendall(frame(BINARY, b"x") * 3 + frame(TEXT, b"y"))
        assert receive_count(channel, 4) == [b"x", b"x", b"x", b"y"]


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
    with pair() as (channel, relay):
        relay.sendall(frame(TEXT, b"last") + stream)
        relay.shutdown(socket.SHUT_WR)
        assert receive_count(channel, 1) == [b"last"]
        assert loss(channel).reason is reason
        assert loss(channel).reason is reason
        with pytest.raises(ConnectionLost):
            send(channel, "too late")


def test_message_is_not_lost_to_a_pong_that_cannot_be_sent() -> None:
    with pair() as (channel, relay):
        relay.sendall(frame(TEXT, b"first") + frame(PING) + frame(TEXT, b"last"))
        relay.close()
        assert receive_count(channel, 2) == [b"first", b"last"]
        assert loss(channel).reason is LossReason.EOF


def test_endless_frame_is_cut_and_the_relay_is_told() -> None:
    with pair(max_message_bytes=1000) as (channel, relay):
        relay.sendall(frame(TEXT, b"x" * 600, fin=False) + b"\x80\x7f" + (1 << 40).to_bytes(8, "big"))
        assert loss(channel).reason is LossReason.TOO_LARGE
        channel.close()
        assert FrameSource(relay).next() == (CLOSE, (1009).to_bytes(2, "big"))


def test_close_says_goodbye_and_may_be_repeated() -> None:
    with pair() as (channel, relay):
        channel.close()
        channel.close()
        assert FrameSource(relay).next() == (CLOSE, (1000).to_bytes(2, "big"))
        assert relay.recv(1) == b""
        assert loss(channel).reason is LossReason.LOCAL


def test_close_does_not_wait_for_a_relay_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 100_000)
        websocket = WebSocket(ours, CLOCK)
        started = time.monotonic()
        websocket.close()
        assert time.monotonic() - started < PATIENCE_S / 2


def test_tls_records_are_gathered(tls: Tls) -> None:
    """OpenSSL may hold data that poll(2) knows nothing of; none of it may be left lying."""
    with tls_pair(tls) as (channel, relay):
        for number in range(100):
            relay.sendall(frame(TEXT, b"%d" % number))
        assert receive_count(channel, 100) == [b"%d" % number for number in range(100)]
        relay.sendall(frame(TEXT, b"x" * 60_000) + frame(PING, b"?"))
        assert receive_count(channel, 1) == [b"x" * 60_000]
        send(channel, "answer")
        assert receive(channel, 0.01) == []
        frames = FrameSource(relay)
        assert {frames.next(), frames.next()} == {(TEXT, b"answer"), (PONG, b"?")}


def test_tls_connection_that_ends_or_breaks(tls: Tls) -> None:
    with tls_pair(tls) as (channel, relay):
        relay.sendall(frame(TEXT, b"last"))
        socket.socket.sendall(relay, b"\x17\x03\x03\x00\x10no record of ours")
        assert receive_count(channel, 1) == [b"last"]
        assert loss(channel).reason is LossReason.ERROR
    with tls_pair(tls) as (channel, relay):
        relay.sendall(frame(TEXT, b"last"))
        relay.close()
        assert receive_count(channel, 1) == [b"last"]
        assert loss(channel).reason is LossReason.EOF


def test_sending_never_waits_and_what_is_left_goes_when_it_can() -> None:
    large = b"x" * 3_000_000
    with pair() as (channel, relay):
        channel.send(large)
        channel.send("behind it")
        assert is_sending(channel)
        assert channel.events == select.POLLIN | select.POLLOUT
        frames, received = FrameSource(relay), list[tuple[int, bytes]]()
        reading = threading.Thread(target=lambda: received.extend(frames.next() for _ in range(2)))
        reading.start()
        while is_sending(channel):
            assert channel.receive() == []
        reading.join(PATIENCE_S)
        assert received == [(TEXT, large), (TEXT, b"behind it")]
        assert channel.events == select.POLLIN


def test_messages_that_are_sent_together_arrive_one_by_one() -> None:
    with pair() as (channel, relay):
        channel.send("first", b"second", "x" * 100_000)
        frames = FrameSource(relay)
        assert [frames.next() for _ in range(3)] == [(TEXT, b"first"), (TEXT, b"second"), (TEXT, b"x" * 100_000)]


def test_what_must_have_left_by_now_loses_the_relay_but_no_message() -> None:
    ours, theirs = socket.socketpair()
    clock = ManualClock()
    websocket = WebSocket(ours, clock, send_timeout_s=5.0)
    with theirs, contextlib.closing(websocket):
        websocket.send(b"x" * 3_000_000)
        clock.advance(4.9)
        assert websocket.receive() == []
        theirs.sendall(frame(TEXT, b"last"))
        clock.advance(0.1)
        assert websocket.receive() == [b"last"]
        with pytest.raises(ConnectionLost) as lost:
            websocket.receive()
        assert lost.value.reason is LossReason.SEND_TIMEOUT


def test_it_tells_when_there_is_more_that_no_poll_knows_of(tls: Tls) -> None:
    count = 2 * MAX_BATCH_MESSAGES
    with pair() as (channel, relay):
        assert channel.receive() == []
        assert not has_more(channel)
        relay.sendall(frame(TEXT, b"x") * count)
        assert len(channel.receive()) == MAX_BATCH_MESSAGES
        assert has_more(channel)
        relay.close()
        assert len(channel.receive()) == MAX_BATCH_MESSAGES
    with tls_pair(tls) as (channel, relay):
        record = frame(TEXT, b"x" * 16_000)
        sending = threading.Thread(target=relay.sendall, args=(record * 40,))
        sending.start()
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        messages = 0
        while messages < 40:
            assert has_more(channel) or poll.poll(PATIENCE_S * 1000), "all of it was sent"
            before = channel.bytes_received
            messages += len(channel.receive())
            assert channel.bytes_received - before <= READ_BYTES
        sending.join(PATIENCE_S)
