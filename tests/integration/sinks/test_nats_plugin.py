"""The sample plugin against a NATS server: from the outbox to a stream, each event once, whatever goes wrong."""

import asyncio
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import time
from typing import Any, TypeVar

import nats
import pytest

from pipeline.errors import CannotStart
from pipeline.sinks.base import DELIVERED, Refused, Sink, SinkDown
from pipeline.sinks.plugins import load_sink
from stages import forwarder, saver
from tests.factories.events import authors
from tests.fakes.child import ROOT, Child
from tests.fakes.net import free_port, loopback_address, wait_listening
from tests.fakes.plugins import install_sample
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.delivery.support import message, notes
from tests.integration.operations.support import complaint, until
from tests.integration.stages.support import NOW, PATIENCE_S, Running, World, wait_until

SUBJECT = "nostr.events"
SERVER = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
(ALICE,) = authors(89, 1)
_T = TypeVar("_T")


class NatsServer:
    """A server with JetStream, which keeps its streams in a folder over a restart."""

    def __init__(self, folder: Path) -> None:
        self.host = loopback_address()
        self.port = free_port(self.host)
        self._folder = folder
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    def start(self) -> None:
        assert SERVER is not None
        self._child = Child([SERVER, "-a", self.host, "-p", str(self.port), "-js", "-sd", str(self._folder)])
        wait_listening(self.host, self.port, PATIENCE_S)

    def stop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def create_stream(self) -> None:
        self._ask(lambda stream: stream.add_stream(name="events", subjects=[SUBJECT]))

    def messages(self) -> list[Any]:
        """All that the stream has."""

        async def read(stream: Any) -> list[Any]:
            count = (await stream.stream_info("events")).state.messages
            return [await stream.get_msg("events", number) for number in range(1, count + 1)]

        return self._ask(read)

    def _ask(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        async def asked() -> _T:
            client = await nats.connect(self.url)
            try:
                return await work(client.jetstream(timeout=PATIENCE_S))
            finally:
                await client.close()

        return asyncio.run(asked())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsServer]:
    """It runs, and the plugin is installed."""
    if SERVER is None:
        pytest.skip("nats-server is not installed")
    install_sample(tmp_path / "site", ROOT / "pipeline/docs/plugins/nats")
    monkeypatch.syspath_prepend(tmp_path / "site")
    running = NatsServer(tmp_path / "streams")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def sink(server: NatsServer) -> Iterator[Sink]:
    made = load_sink("nats", f"{server.url}/{SUBJECT}")
    yield made
    made.close()


def test_event_comes_from_the_outbox_with_its_attributes(server: NatsServer, world: World) -> None:
    """By the setting, through the stages."""
    server.create_stream()
    world.register(ALICE.pubkey)
    event = ALICE.sign("hello", created_at=NOW)
    with Running(world.context("saver"), saver.run):
        world.put([event])
        world.wait_saved()
    setting = {"EVENTS_SINK": f"nats:{server.url}/{SUBJECT}"}
    with Running(world.context("forwarder", setting), forwarder.run):
        wait_until(lambda: world.value("SELECT count(*) FROM deliveries WHERE outcome = 'delivered'") == 1)
    (found,) = server.messages()
    assert found.data == message(event).payload
    assert found.headers["Nats-Msg-Id"] == found.headers["event_id"] == event.id
    assert (found.headers["rule_user"], found.headers["schema"]) == ("1", "1")


@pytest.mark.timeout(400)
def test_beside_a_file_both_have_all_over_a_kill_and_an_outage(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the whole service: the file has all while NATS is away; NATS has each once when it is back."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    server.create_stream()
    began = int(time())
    events = [person.sign("{}", kind=0, created_at=began - 300 + n) for n, person in enumerate(authors(90, 300))]
    file = tmp_path / "events.jsonl"
    with ScriptedRelay(events=[]) as relay:
        env = settings(relays=[relay.url], EVENTS_SINK=f"jsonl:{file},nats:{server.url}/{SUBJECT}")
        with closing(EventService(tmp_path / "service", env)) as service:

            def queued(sink: str) -> float:
                return service.scrape().value("event_service_queue_length", queue=f"outbox-{sink}")

            service.start()
            relay.publish(*events[:150])
            (victim,) = (one for one in service.stages("forwarder") if one.sink == "nats")
            victim.signal(signal.SIGKILL)
            until(lambda: len(server.messages()) == 150, lambda: len(server.messages()))
            until(lambda: queued("nats") == queued("jsonl") == 0, lambda: queued("nats"))
            server.stop()
            relay.publish(*events[150:])
            until(lambda: file.read_bytes().count(b"\n") == 300, file.read_bytes)
            until(lambda: (queued("nats"), queued("jsonl")) == (150, 0), lambda: queued("nats"))
            assert complaint(service, "forwarder-nats-0", "sink nats is down")
            server.start()
            until(lambda: queued("nats") == 0, lambda: queued("nats"))
            assert service.scrape().value("event_service_dead_rows") == 0
            assert service.stop() == 0
    delivered = [each.headers["Nats-Msg-Id"] for each in server.messages()]
    assert sorted(delivered) == sorted(event.id for event in events)


def test_event_that_is_published_again_is_kept_once(server: NatsServer, sink: Sink) -> None:
    server.create_stream()
    batch = [message(event) for event in notes(50)]
    for _ in range(2):
        assert list(sink.deliver(batch)) == [DELIVERED] * 50
    sink.keep_alive()
    assert sorted(each.data for each in server.messages()) == sorted(each.payload for each in batch)


def test_sink_is_down_without_stream_or_server_and_comes_back(server: NatsServer, sink: Sink) -> None:
    batch = [message(event) for event in notes(3)]
    with pytest.raises(SinkDown, match="create a stream"):
        sink.deliver(batch)
    server.create_stream()
    server.stop()
    with pytest.raises(SinkDown, match="start the NATS server"):
        sink.deliver(batch)
    server.start()
    assert list(sink.deliver(batch)) == [DELIVERED] * 3
    assert len(server.messages()) == 3


def test_event_larger_than_the_server_takes_is_a_dead_letter(server: NatsServer, sink: Sink) -> None:
    """And holds up no other."""
    server.create_stream()
    small, large = notes(1), notes(1, first=1, size=1_100_000)
    verdicts = list(sink.deliver([message(event) for event in (*large, *small)]))
    assert verdicts == [Refused("too-large", dead_letter=True), DELIVERED]


@pytest.mark.parametrize("argument", ["", "nats://127.0.0.1:4222", "subject"])
def test_argument_without_server_or_subject_ends_the_start(server: NatsServer, argument: str) -> None:
    del server
    with pytest.raises(CannotStart, match="nats needs server and subject"):
        load_sink("nats", argument)
