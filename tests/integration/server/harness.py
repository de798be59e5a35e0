"""The server stage in a thread, with a real database and runtime directory, and raw clients to try it."""

import contextlib
import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import websocket

from pipeline.process import metrics
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.doorbell import Doorbells
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.logs import get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot, prepare_runtime_directory
from pipeline.process.stage import StageContext
from pipeline.process.stop import Stop
from pipeline.server.limits import ServerLimits
from pipeline.settings.config import Config
from pipeline.store.database import Database
from stages import server
from tests.fakes.net import free_port, loopback_address

PATIENCE_S = 60.0
SLOT = Slot("server", 0)


class AnnouncedHeartbeat(Heartbeat):
    """A heartbeat that tells this process of its first beat."""

    def __init__(self, runtime_directory: Path, slot_name: str, clock: Clock) -> None:
        super().__init__(runtime_directory, slot_name, clock)
        self.beaten = threading.Event()

    def beat(self, status: str = "") -> None:
        super().beat(status)
        self.beaten.set()


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A server stage that runs, until `close`."""

    def __init__(self, directory: Path, env: Mapping[str, str], limits: ServerLimits | None) -> None:
        self.host = loopback_address()
        self.port = free_port(self.host)
        self.config = Config.from_env(
            {
                "EVENTS_LISTEN_ADDRESS": f"{self.host}:{self.port}",
                "EVENTS_ENVIRONMENT": "DEVELOPMENT",
                "EVENTS_DATABASE_PATH": str(directory / "events.db"),
                "EVENTS_RUNTIME_DIRECTORY": str(directory / "run"),
                **env,
            }
        )
        prepare_runtime_directory(self.config.runtime_directory)
        metrics.install(self.config.runtime_directory, SLOT.name)
        self.clock = SystemClock()
        self.stop = Stop()
        self.heartbeat = AnnouncedHeartbeat(self.config.runtime_directory, SLOT.name, self.clock)
        self.context = StageContext(
            self.config,
            self.clock,
            self.stop,
            SLOT,
            Metrics(),
            self.heartbeat,
            get_logger(SLOT.stage),
            None,
            Doorbells(self.config.database_path),
        )
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(limits,), name=SLOT.name)

    def _run(self, limits: ServerLimits | None) -> None:
        try:
            server.run(self.context, limits)
        except BaseException as error:  # raised again by the test's own thread
            self._failure = error
        finally:
            self.heartbeat.beaten.set()

    def start(self) -> Self:
        self._thread.start()
        assert self.heartbeat.beaten.wait(PATIENCE_S)
        self._raise_failure()
        return self

    def close(self) -> None:
        """Stop the stage; fails when it does not end or has failed."""
        self.stop.set("test ends")
        self._thread.join(PATIENCE_S)
        alive = self._thread.is_alive()
        self.heartbeat.close()
        metrics.uninstall()
        logging.getLogger("asyncio").setLevel(logging.NOTSET)
        self._raise_failure()
        assert not alive, "the stage does not end"

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}/"

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers)

    def socket(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection((self.host, self.port), timeout=PATIENCE_S)

    @contextlib.contextmanager
    def websocket(self, **options: Any) -> Iterator[websocket.WebSocket]:
        client = websocket.create_connection(self.url, timeout=PATIENCE_S, **options)
        try:
            yield client
        finally:
            client.shutdown()

    def publish(self, raw_event: str) -> Any:
        """The answer to an EVENT message over a websocket of its own."""
        with self.websocket() as client:
            return ask(client, f'["EVENT",{raw_event}]')

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        # The stage has made the schema; looking at it again would take the write lock.
        with Database.open(self.config.database_path) as database:
            yield database

    def samples(self) -> dict[str, float]:
        """What `/metrics` shows, by name and labels as written."""
        answer = self.get("/metrics")
        assert answer.status == 200
        lines = (line for line in answer.body.decode().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def discarded(self, reason: str) -> float:
        """How often the server has dropped something for `reason`."""
        name = f'event_service_stage_discarded_total{{reason="{reason}",stage="server"}}'
        return self.samples().get(name, 0.0)


@contextlib.contextmanager
def running(directory: Path, limits: ServerLimits | None = None, **env: str) -> Iterator[Running]:
    """A server stage over a database in `directory`, with settings on top of those of DEVELOPMENT."""
    stage = Running(directory, env, limits)
    try:
        yield stage.start()
    finally:
        stage.close()


def ask(client: websocket.WebSocket, message: str) -> Any:
    """The next message after `message`, decoded."""
    client.send(message)
    return json.loads(client.recv())


def closing_code(client: websocket.WebSocket) -> int | None:
    """The code with which the server closes; `None` when it just ends the connection."""
    try:
        opcode, data = client.recv_data(control_frame=False)
    except (websocket.WebSocketConnectionClosedException, ConnectionError):
        return None
    assert opcode == websocket.ABNF.OPCODE_CLOSE, data
    return int.from_bytes(data[:2], "big")


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the server ends the connection, however it does that."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


@contextlib.contextmanager
def write_lock_held(server: Running) -> Iterator[None]:
    """A time in which another connection's transaction holds the write lock of the server's database."""
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with server.database() as database, database.write():
            holding.set()
            done.wait(PATIENCE_S)

    writer = threading.Thread(target=hold)
    writer.start()
    assert holding.wait(PATIENCE_S)
    try:
        yield
    finally:
        done.set()
        writer.join(PATIENCE_S)
