"""A channel with waiting, for a thread that serves nobody else."""

import socket
import threading
import time

import pytest
import websockets.sync.server

from pipeline.nostr.address import parse_address
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.dial import dial
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.websocket import WebSocket
from tests.integration.relay.peers import CLOCK, PATIENCE_S, PONG, FrameSource, Tls, frame, policy


def test_timeout_gives_nothing_and_costs_the_time_it_says() -> None:
    ours, theirs = socket.socketpair()
    websocket = BlockingWebSocket(WebSocket(ours, CLOCK), CLOCK)
    with theirs:
        for _ in range(3):
            theirs.sendall(frame(PONG))
            started = time.monotonic()
            assert websocket.receive(0.1) == []
            assert 0.09 < time.monotonic() - started < PATIENCE_S / 2
        websocket.close()


def test_sending_takes_until_all_of_it_has_left() -> None:
    ours, theirs = socket.socketpair()
    websocket = WebSocket(ours, CLOCK)
    transport = BlockingWebSocket(websocket, CLOCK)
    with theirs:
        frames = FrameSource(theirs)
        reading = threading.Thread(target=frames.next)
        reading.start()
        transport.send(b"x" * 3_000_000)
        assert websocket.send_by is None
        reading.join(PATIENCE_S)
        assert not reading.is_alive()
        transport.close()


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
        websocket = BlockingWebSocket(dial(address, policy(tls_context=tls.client), CLOCK), CLOCK)
        websocket.send("hello")
        messages: list[bytes] = []
        while len(messages) < 2:
            messages += websocket.receive(PATIENCE_S)
        assert messages == [b"fragmented", b"x" * 1_000_000]
        with pytest.raises(ConnectionLost) as lost:
            websocket.receive(PATIENCE_S)
        assert (lost.value.reason, lost.value.detail) == (LossReason.CLOSED, "4000 enough")
        websocket.close()
        server.shutdown()
        serving.join(PATIENCE_S)
