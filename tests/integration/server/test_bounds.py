"""What hostile and careless clients run into, and that the server goes on."""

import contextlib
import json
import random
import socket
import struct
import threading
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
import websocket

from pipeline.process.rate import Rate
from pipeline.server import session
from pipeline.server.limits import DEFAULT_LIMITS
from tests.factories.events import authors as make_authors
from tests.integration.server.harness import PATIENCE_S, Running, ask, closing_code, read_to_end, running
from tests.support.seeds import told_seed

NOW = 1_700_000_000
ALICE = make_authors(4, 1)[0]
EVENT = f'["EVENT",{ALICE.registration(NOW).raw}]'
OK = ["OK", ALICE.registration(NOW).id, True, ""]


def assert_alive(server: Running) -> None:
    """A client that is as slow as this machine may run into short bounds of time itself, and then tries again."""
    wait_until_free(server)
    deadline = monotonic() + PATIENCE_S
    while not _is_registered(server):
        assert monotonic() < deadline


def _is_registered(server: Running) -> bool:
    with contextlib.suppress(OSError, websocket.WebSocketException), server.websocket() as client:
        return _is_answered(client)
    return False


def refused_status(server: Running, **options: object) -> int:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(server.url, timeout=PATIENCE_S, **options)
    return int(refused.value.status_code)


def wait_until_free(server: Running, path: str = "/_health") -> None:
    """Return once the server answers again; ended connections give their place back in the server's own time."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if server.get(path).status == 200:
                return
    raise TimeoutError("the server has no place")


def test_connections_in_all_are_bounded(tmp_path: Path) -> None:
    with running(tmp_path, replace(DEFAULT_LIMITS, connections=3)) as server:
        with contextlib.ExitStack() as held:
            for _ in range(5):
                assert ask(held.enter_context(server.websocket()), EVENT) == OK
            # And one more for the scrape that tells.
            assert server.discarded("silent") >= 2
        wait_until_free(server)


def test_connections_of_a_client_are_bounded(tmp_path: Path) -> None:
    limits = replace(DEFAULT_LIMITS, connections_per_client=2)
    with running(tmp_path, limits, EVENTS_TRUSTED_PROXIES="127.0.0.0/8") as server:
        visitor = [f"X-Forwarded-For: {server.host}, 8.8.8.8"]
        with server.websocket(header=visitor), server.websocket(header=visitor):
            assert refused_status(server, header=visitor) == 503
            # Another client has places of its own, and so has the proxy.
            assert server.get("/_health", {"X-Forwarded-For": "8.8.8.8, 9.9.9.9"}).status == 200
            assert server.get("/_health").status == 200
        wait_until_free(server)
        assert server.discarded("client-connections") == 1
        assert server.discarded("unnamed-proxy") == 0
        assert_alive(server)


def test_near_peers_have_no_bound_of_their_own(tmp_path: Path) -> None:
    """One may be a proxy that nobody named: its visitors would be bounded together, by headers that they write."""
    with running(tmp_path, EVENTS_MAX_CONNECTIONS_PER_CLIENT="1", EVENTS_MAX_REGISTRATIONS_PER_MINUTE="1") as server:
        visitor = ["X-Forwarded-For: 8.8.8.8"]
        with server.websocket(header=visitor) as client, server.websocket(header=visitor):
            assert all(ask(client, EVENT)[2] for _ in range(12))
        assert server.discarded("unnamed-proxy") == 2


def test_an_operator_sets_the_bounds(tmp_path: Path) -> None:
    with running(
        tmp_path,
        EVENTS_MAX_CONNECTIONS="2",
        EVENTS_MAX_CONNECTIONS_PER_CLIENT="1",
        EVENTS_MAX_REGISTRATIONS_PER_MINUTE="1",
        EVENTS_TRUSTED_PROXIES="127.0.0.0/8",
    ) as server:
        visitor = ["X-Forwarded-For: 8.8.8.8"]
        with server.websocket(header=visitor) as client:
            answers = [ask(client, EVENT) for _ in range(11)]
            assert refused_status(server, header=visitor) == 503
            # The one that has said nothing yields to the next.
            with server.socket() as silent, server.socket():
                assert read_to_end(silent) == b""
        assert [answer[2] for answer in answers] == [True] * 10 + [False]


def test_an_idle_websocket_yields_when_all_are_taken(tmp_path: Path) -> None:
    with (
        running(tmp_path, replace(DEFAULT_LIMITS, sessions=2)) as server,
        server.websocket() as one,
        server.websocket() as other,
    ):
        assert ask(one, EVENT) == ask(other, EVENT) == OK
        with server.websocket() as newest:
            assert ask(newest, EVENT) == OK
            assert server.discarded("silent") == 1
            assert [_is_answered(one), _is_answered(other)].count(True) == 1


def _is_answered(client: websocket.WebSocket) -> bool:
    try:
        return bool(ask(client, EVENT) == OK)
    except (OSError, ValueError, websocket.WebSocketException):
        return False


def test_silent_strangers_keep_out_neither_neighbours_nor_registrations(tmp_path: Path) -> None:
    limits = replace(DEFAULT_LIMITS, connections=8, reserved=0, sessions=4)
    with running(tmp_path, limits) as server, contextlib.ExitStack() as held:
        for _ in range(20):
            held.enter_context(server.socket())
        assert_alive(server)
        assert server.discarded("silent") >= 12


def test_websockets_of_one_network_yield_to_those_of_others(tmp_path: Path) -> None:
    limits = replace(DEFAULT_LIMITS, sessions=4)
    crowd, honest = ([f"X-Forwarded-For: {address}"] for address in ("2a00:1:2:3::4", "11.22.33.44"))
    with running(tmp_path, limits, EVENTS_TRUSTED_PROXIES="127.0.0.0/8") as server, contextlib.ExitStack() as held:
        oldest = held.enter_context(server.websocket(header=crowd))
        for _ in range(3):
            held.enter_context(server.websocket(header=crowd))
        with server.websocket(header=honest) as client:
            assert closing_code(oldest) is None
            assert ask(client, EVENT) == OK


@pytest.mark.parametrize("reserved", [0, 2])
def test_silent_neighbours_yield_to_visitors_of_a_proxy(tmp_path: Path, reserved: int) -> None:
    limits = replace(DEFAULT_LIMITS, connections=8, reserved=reserved, sessions=2)
    with (
        running(tmp_path, limits, EVENTS_TRUSTED_PROXIES="127.0.0.0/8") as server,
        contextlib.ExitStack() as held,
    ):
        for _ in range(12):
            held.enter_context(server.socket())
        with server.websocket(header=["X-Forwarded-For: 11.22.33.44"]) as client:
            assert ask(client, EVENT) == OK


def test_requests_of_a_client_are_bounded_by_rate(tmp_path: Path) -> None:
    limits = replace(DEFAULT_LIMITS, renderings=Rate(2, 0), lookups=Rate(1, 0))
    with running(tmp_path, limits, EVENTS_TRUSTED_PROXIES="127.0.0.0/8", EVENTS_STATUS_PAGE="everyone") as server:
        visitor = {"X-Forwarded-For": "8.8.8.8"}
        statuses = [
            server.get(path, {**visitor, "Accept": "text/html"}).status
            for path in ("/metrics", "/", "/metrics", "/", f"/public-keys/{'0' * 64}", f"/public-keys/{'0' * 64}")
        ]
        assert statuses == [200, 200, 429, 429, 200, 429]
        assert server.get("/_health", visitor).status == 200
        assert server.get("/metrics", {"X-Forwarded-For": "9.9.9.9"}).status == 200
        assert all(server.get("/metrics").status == 200 for _ in range(3))
        assert server.discarded("requests") == 3


def test_websockets_leave_places_for_scrapes(tmp_path: Path) -> None:
    with running(tmp_path, replace(DEFAULT_LIMITS, sessions=2)) as server:
        with server.websocket(), server.websocket(), server.websocket():
            assert server.get("/metrics").status == 200
            assert server.discarded("silent") == 1
        wait_until_free(server)
        assert_alive(server)


def test_a_request_that_never_ends_is_cut_off_by_its_length(server: Running) -> None:
    with server.socket() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /_health HTTP/1.1\r\n")
        # Megabytes may be on their way before it has read the first.
        for number in range(2_000_000):
            connection.sendall(b"X-%d: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" % number)
        pytest.fail("the server takes 150 MB of headers")
    assert server.discarded("request-size") == 1
    assert_alive(server)


def test_a_request_that_stalls_is_cut_off_by_time(tmp_path: Path) -> None:
    with running(tmp_path, replace(DEFAULT_LIMITS, request_s=0.3)) as server:
        with server.socket() as silent, server.socket() as half:
            half.sendall(b"GET /metrics HT")
            assert read_to_end(silent) == b""
            assert read_to_end(half) == b""
        assert_alive(server)


def test_a_message_beyond_the_largest_event_closes_the_connection(tmp_path: Path) -> None:
    with running(tmp_path, EVENTS_MAX_EVENT_BYTES="4096") as server:
        with server.websocket() as client:
            client.send("[" + '"x"' + " " * 5000 + "]")
            assert closing_code(client) == 1009
        with server.websocket() as client:
            for number in range(6):
                opcode = websocket.ABNF.OPCODE_CONT if number else websocket.ABNF.OPCODE_TEXT
                client.send_frame(websocket.ABNF(0, 0, 0, 0, opcode, 1, b" " * 1000))
            assert closing_code(client) == 1009
        assert server.discarded("frame-size") == 2
        assert_alive(server)


def test_a_frame_that_announces_too_much_is_refused_before_it_comes(server: Running) -> None:
    with server.websocket() as client:
        client.sock.sendall(b"\x81\xff" + (2**62).to_bytes(8, "big") + b"mask")
        assert closing_code(client) == 1009
    assert_alive(server)


def test_messages_of_a_connection_are_bounded(tmp_path: Path) -> None:
    with running(tmp_path, replace(DEFAULT_LIMITS, messages=Rate(3, 1))) as server:
        with server.websocket() as client:
            for _ in range(3):
                assert ask(client, '["REQ","x",{}]')[:2] == ["CLOSED", "x"]
            client.send('["REQ","x",{}]')
            assert closing_code(client) == 1008
        assert server.discarded("messages") == 1
        assert_alive(server)


def test_a_flood_of_pings_ends_the_connection(tmp_path: Path) -> None:
    with running(tmp_path, replace(DEFAULT_LIMITS, frames=Rate(50, 1))) as server:
        with server.websocket() as client, contextlib.suppress(OSError, websocket.WebSocketException):
            for _ in range(100):
                client.ping("x" * 100)
            while client.recv_data(control_frame=True)[0] == websocket.ABNF.OPCODE_PONG:
                pass
        assert server.discarded("frames") == 1
        assert_alive(server)


def test_a_flood_is_noticed_before_all_of_it_is_worked_on(tmp_path: Path) -> None:
    """What comes in one piece is looked at in slices, so that a few hundred pings are answered and not all."""
    with running(tmp_path, replace(DEFAULT_LIMITS, frames=Rate(10, 0))) as server:
        with server.websocket() as client:
            client.sock.sendall(b"\x89\x80mask" * 10_000)
            answers = read_to_end(client.sock).count(b"\x8a\x00")
        assert answers < 1_000
        assert server.discarded("frames") == 1


def test_a_flood_of_pings_from_a_client_that_hangs_up_fills_no_log(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Each answer that can no longer be written is a warning of asyncio's, and there may be 40,000 in one read."""
    for _ in range(5):
        with server.websocket() as client, contextlib.suppress(OSError):
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sock.sendall(b"\x89\x80mask" * 100_000)
    assert_alive(server)
    assert len(caplog.records) < 100


def test_a_flood_of_empty_fragments_ends_the_connection(tmp_path: Path) -> None:
    with running(tmp_path, replace(DEFAULT_LIMITS, frames=Rate(50, 1))) as server:
        with server.websocket() as client, contextlib.suppress(OSError, websocket.WebSocketException):
            client.send_frame(websocket.ABNF(0, 0, 0, 0, websocket.ABNF.OPCODE_TEXT, 1, b""))
            for _ in range(100):
                client.send_frame(websocket.ABNF(0, 0, 0, 0, websocket.ABNF.OPCODE_CONT, 1, b""))
            client.recv_data()
        assert server.discarded("frames") == 1
        assert_alive(server)


def test_registrations_of_a_client_are_bounded_over_all_its_connections(tmp_path: Path) -> None:
    limits, visitor = replace(DEFAULT_LIMITS, registrations=Rate(2, 1)), ["X-Forwarded-For: 9.9.9.9"]
    with running(tmp_path, limits, EVENTS_TRUSTED_PROXIES="127.0.0.0/8") as server:
        for _ in range(2):
            with server.websocket(header=visitor) as client:
                assert ask(client, EVENT) == OK
        with server.websocket(header=visitor) as client:
            label, event_id, accepted, why = ask(client, EVENT)
            assert (label, event_id, accepted) == ("OK", OK[1], False)
            assert why.startswith("rate-limited: ")
        with server.websocket(header={"X-Forwarded-For": "8.8.8.8"}) as client:
            assert ask(client, EVENT) == OK
        assert server.discarded("registrations") == 1


def test_an_idle_websocket_is_closed(tmp_path: Path) -> None:
    with running(tmp_path, replace(DEFAULT_LIMITS, idle_s=0.2)) as server:
        with server.websocket() as client:
            assert closing_code(client) == 1000
        assert server.discarded("idle") == 1
        assert_alive(server)


def test_a_client_that_vanishes_silently_gives_its_place_back(tmp_path: Path) -> None:
    """It answers no ping; the connection ends although nothing says that the client is gone."""
    with running(tmp_path, replace(DEFAULT_LIMITS, ping_s=0.2, close_s=0.2)) as server, server.websocket() as client:
        # Reading from the bare socket leaves pings unanswered.
        client.sock.settimeout(PATIENCE_S)
        assert read_to_end(client.sock)[:1] == b"\x89"


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    limits = replace(
        DEFAULT_LIMITS, send_s=0.3, frames=Rate(10**9, 0), messages=Rate(10**9, 0), registrations=Rate(10**9, 0)
    )
    with running(tmp_path, limits) as server:
        with server.websocket(sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),)) as client:
            ping = websocket.ABNF.create_frame(b"x" * 125, websocket.ABNF.OPCODE_PING).format()
            client.sock.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionError):
                while True:
                    client.sock.sendall(ping * 500)
        assert server.discarded("slow") == 1
        assert_alive(server)


def test_a_scraper_that_does_not_read_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    with running(tmp_path, replace(DEFAULT_LIMITS, close_s=0.3)) as server:
        with server.database() as database, database.write() as tx:
            tx.executemany(
                "INSERT INTO relays (address, source, first_seen, last_seen, crawled_since) VALUES (?, '', 0, 0, 0)",
                ((f"wss://{'x' * 50}{number}.example.com/{'y' * 180}",) for number in range(5_000)),
            )
        with server.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            first = connection.recv(1)
            samples = server.samples()
            assert sum(name.startswith("relay_connection_state_gauge") for name in samples) == 5_000
            assert first == b"H"
        assert_alive(server)


def test_stray_bytes_after_the_handshake_end_only_that_connection(server: Running) -> None:
    rng = random.Random(told_seed())
    for _ in range(40):
        with server.websocket() as client, contextlib.suppress(ConnectionError):
            client.sock.sendall(rng.randbytes(rng.randrange(1, 3000)))
            client.sock.shutdown(socket.SHUT_WR)
            read_to_end(client.sock)
    assert_alive(server)


def test_stray_bytes_instead_of_a_request_end_only_that_connection(server: Running) -> None:
    rng = random.Random(told_seed())
    for _ in range(40):
        with server.socket() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(rng.choice([b"", b"GET ", b"GET / HTTP/1.1\r\n"]) + rng.randbytes(rng.randrange(3000)))
            connection.shutdown(socket.SHUT_WR)
            read_to_end(connection)
    assert_alive(server)


HOSTILE_EVENTS = [
    {"content": "\ud800"},
    {"content": '{"relays":[{"address":"wss://\ud800.example.com"}]}'},
    {"content": "[" * 20_000},
    {"content": '{"relays":' + "[" * 20_000},
    {"content": '{"relays":[{"address":"wss://' + "a." * 5000 + 'com"}]}'},
    {"content": '{"relays":[{"address":"wss://xn--' + "9" * 60 + '.com"}]}'},
    {"content": '{"relays":[{"address":"wss://\u0000.com"}]}'},
    {"created_at": 2**63 - 1},
    {"created_at": -1},
    {"created_at": 1e300},
    {"kind": True},
    {"tags": [[]]},
    {"tags": [["p"] * 10_000]},
    {"pubkey": "f" * 64},
    {"pubkey": "0" * 64},
    {"sig": "0" * 128},
    {"sig": "f" * 128},
    {"id": ALICE.registration(NOW).id.upper()},
    {"extra": {"a": [{"b": None}] * 1000}},
]


@pytest.mark.parametrize("change", HOSTILE_EVENTS, ids=range(len(HOSTILE_EVENTS)))
def test_hostile_events_are_answered(server: Running, change: dict[str, object]) -> None:
    value = ALICE.registration(NOW).to_value() | change
    with server.websocket() as client:
        label, _, accepted, why = ask(client, json.dumps(["EVENT", value]))
    assert (label, accepted) == ("OK", "extra" in change)
    assert isinstance(why, str)
    assert_alive(server)


def test_many_clients_that_come_and_go_leave_nothing_behind(server: Running) -> None:
    def visit(_: int) -> None:
        for _ in range(10):
            with contextlib.suppress(OSError, websocket.WebSocketException), server.websocket() as client:
                client.send(EVENT)

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(PATIENCE_S)
    # What those who went have sent is stored first, on a slow disk for a while.
    deadline = monotonic() + PATIENCE_S
    while not server.publish(ALICE.registration(NOW).raw)[2] and monotonic() < deadline:
        pass
    assert_alive(server)
    # All places are free again, so that as many as are allowed come in.
    with contextlib.ExitStack() as held:
        deadline = monotonic() + PATIENCE_S
        clients = 0
        while clients < DEFAULT_LIMITS.connections_per_client and monotonic() < deadline:
            with contextlib.suppress(websocket.WebSocketException):
                held.enter_context(server.websocket())
                clients += 1
        assert clients == DEFAULT_LIMITS.connections_per_client


def test_message_that_holds_too_much_is_refused_before_it_is_parsed(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "parse_client_message", lambda _: pytest.fail("it was parsed"))
    with server.websocket() as client:
        assert ask(client, '["EVENT",{"tags":[' + ",".join(["[]"] * 200_000) + "]}]") == [
            "NOTICE", "invalid: too-many-tags"
        ]  # fmt: skip
    monkeypatch.undo()
    assert server.discarded("invalid-event") == 1
    assert_alive(server)
