"""How the stage starts, beats and ends."""

import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import CannotStart
from pipeline.process.heartbeat import read_heartbeat
from pipeline.server.limits import DEFAULT_LIMITS
from pipeline.settings.values import HostPort
from stages.server import listener
from tests.factories.events import authors as make_authors
from tests.fakes.net import free_port, loopback_address
from tests.integration.server.harness import PATIENCE_S, Running, closing_code, read_to_end, running


def test_the_first_beat_comes_when_it_listens(server: Running) -> None:
    """The fixture returns at the first beat, and a connection succeeds at once."""
    server.socket().close()
    reading = read_heartbeat(server.config.runtime_directory, "server-0", server.clock)
    assert reading is not None
    assert reading.ready


def test_it_beats_on_while_clients_hang_on(server: Running) -> None:
    with server.websocket(), server.socket():
        server.heartbeat.beaten.clear()
        assert server.heartbeat.beaten.wait(PATIENCE_S)
        server.heartbeat.beaten.clear()
        assert server.heartbeat.beaten.wait(PATIENCE_S)


def test_stopping_closes_websockets_with_1001(tmp_path: Path) -> None:
    with running(tmp_path) as server, contextlib.ExitStack() as held:
        clients = [held.enter_context(server.websocket()) for _ in range(5)]
        server.stop.set("test")
        assert [closing_code(client) for client in clients] == [1001] * 5


def test_stopping_waits_for_nobody_who_keeps_silent(tmp_path: Path) -> None:
    """Neither a request that never comes nor a client that does not close its side holds the stage up."""
    with running(tmp_path, replace(DEFAULT_LIMITS, close_s=0.5)) as server:
        with server.socket() as silent, server.websocket():
            server.stop.set("test")
            assert read_to_end(silent) == b""
            server.close()
        with pytest.raises(ConnectionRefusedError):
            server.socket()


def test_a_stop_before_the_start_is_obeyed(tmp_path: Path) -> None:
    stage = Running(tmp_path, {}, None)
    stage.stop.set("early")
    stage.start()
    stage.close()
    assert not stage.is_running


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_stopping_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.get("/metrics")
    threads, files = threading.active_count(), open_files()
    for _ in range(3):
        with running(tmp_path) as server, server.websocket() as client:
            client.send("x")
            server.get("/metrics")
        del server
    assert threading.active_count() <= threads
    # The metrics library keeps the files of one process open; each of our runs is one to it.
    assert open_files() <= files + 3


@pytest.mark.parametrize("host", ["", "127.0.0.1", "localhost"])
def test_a_port_in_use_is_one_clear_line(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = HostPort(host, taken.getsockname()[1])
        with pytest.raises(CannotStart) as refused, listener(address):
            pass
    assert str(refused.value) == f"cannot listen on {host}:{address.port}: Address already in use"


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("no-such-host.invalid", "Name or service not known|resolution"),
    ],
)
def test_an_address_that_is_not_ours_is_one_clear_line(host: str, why: str) -> None:
    expected = rf"^cannot listen on {host}:7: .*({why})"
    with pytest.raises(CannotStart, match=expected) as refused, listener(HostPort(host, 7)):
        pass
    assert "\n" not in str(refused.value)


def test_the_stage_cannot_start_on_a_taken_port(tmp_path: Path) -> None:
    host = loopback_address()
    with socket.create_server((host, free_port(host))) as taken:
        address = f"{host}:{taken.getsockname()[1]}"
        stage = running(tmp_path, EVENTS_LISTEN_ADDRESS=address)
        with pytest.raises(CannotStart, match=f"cannot listen on {address}"), stage:
            pass


def test_the_stage_cannot_start_on_another_programs_file(tmp_path: Path) -> None:
    database = tmp_path / "other.db"
    database.write_bytes(b"this is no database" * 100)
    with pytest.raises(CannotStart, match=r"other\.db"), running(tmp_path, EVENTS_DATABASE_PATH=str(database)):
        pass


def test_a_registration_under_way_is_committed_when_the_stage_stops(tmp_path: Path) -> None:
    """An OK that was sent is never taken back, and one that was not sent leaves the client free to ask again."""
    event = make_authors(5, 1)[0].registration(1_700_000_000)
    with running(tmp_path) as server:
        with server.websocket() as client:
            client.send(f'["EVENT",{event.raw}]')
            answered = client.recv()
            server.stop.set("test")
        with server.database() as database, database.read() as tx:
            assert tx.execute("SELECT count(*) FROM monitored").get == 1
        assert answered == f'["OK","{event.id}",true,""]'
