"""The fake Pub/Sub records what the real client publishes, and misbehaves by script."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

from tests.fakes.child import Child
from tests.fakes.pubsub import TOPIC, FakePubSub
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.pubsub_record import Batch, Recorder, read_record
from tests.fakes.pubsub_rules import Rule, rules_from_json, rules_to_json
from tests.fakes.wire import Message

TIMEOUT_S = 60.0


class Client:
    """Google's generated client on one channel."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self._client: Any = PublisherClient(transport=PublisherGrpcTransport(channel=self.channel))

    def publish(self, *data: bytes, topic: str = TOPIC, timeout: float = TIMEOUT_S) -> list[str]:
        messages = [{"data": one, "attributes": {"n": str(number)}} for number, one in enumerate(data)]
        request = {"topic": topic, "messages": messages}
        return list(self._client.publish(request=request, timeout=timeout, retry=None).message_ids)

    def status(self, *data: bytes, topic: str = TOPIC, timeout: float = TIMEOUT_S) -> str:
        from google.api_core.exceptions import GoogleAPICallError

        try:
            self.publish(*data, topic=topic, timeout=timeout)
        except GoogleAPICallError as error:
            return str(error.grpc_status_code.name if error.grpc_status_code else error)
        return "OK"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.fixture
def server() -> Iterator[FakePubSub]:
    with FakePubSub() as running:
        yield running


@pytest.fixture
def client(server: FakePubSub) -> Iterator[Client]:
    connected = Client(server.address)
    yield connected
    connected.channel.close()


def test_messages_are_taken_as_they_were_sent(server: FakePubSub, client: Client) -> None:
    """Data, attributes, order; ids are given out once."""
    ids = client.publish(b"\x00one", "zwei é".encode())
    ids += client.publish(b"x" * 300_000)
    assert len(set(ids)) == 3
    messages = [message for batch in server.batches() for message in batch.messages()]
    assert messages[:2] == [Message(b"\x00one", {"n": "0"}), Message("zwei é".encode(), {"n": "1"})]
    assert [delivered.data for delivered in server.deliveries()] == [m.data for m in messages]
    assert server.count == 3
    server.wait_count(3)


def test_topics_can_be_made_and_checked(server: FakePubSub, client: Client) -> None:
    other = TOPIC + "-2"
    assert client.get_topic(topic=TOPIC).name == TOPIC
    assert client.status(b"x", topic=other) == "NOT_FOUND"
    assert client.create_topic(name=other).name == other
    assert client.get_topic(topic=other).name == other
    assert client.status(b"x", topic=other) == "OK"
    assert [call.status for call in server.calls() if call.method == "Publish"] == ["NOT_FOUND", "OK"]


@pytest.mark.parametrize(
    "status",
    [
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "INVALID_ARGUMENT",
    ],
)
def test_chosen_messages_are_refused(server: FakePubSub, client: Client, status: str) -> None:
    server.set_rules(Rule(status=status, containing="poison", times=2))
    assert [client.status(b"good", b"a poison b"), client.status(b"poison")] == [status] * 2
    assert client.status(b"good") == "OK"
    assert client.status(b"poison") == "OK"
    assert [delivered.data for delivered in server.deliveries()] == [b"good", b"poison"]


def test_rules_skip_and_take_turns(server: FakePubSub, client: Client) -> None:
    server.set_rules(Rule(status="UNAVAILABLE", skip=1, every=3, times=2))
    met = [client.status(b"x") == "UNAVAILABLE" for _ in range(9)]
    assert met == [False, True, False, False, True, False, False, False, False]
    server.set_rules(Rule(status="INVALID_ARGUMENT", min_messages=2))
    assert [client.status(b"x"), client.status(b"x", b"y")] == ["OK", "INVALID_ARGUMENT"]


def test_an_error_can_follow_the_taking(server: FakePubSub, client: Client) -> None:
    """The client cannot know, and will send again."""
    server.set_rules(Rule(status="UNAVAILABLE", store=True, times=1))
    assert [client.status(b"x"), client.status(b"x")] == ["UNAVAILABLE", "OK"]
    assert [delivered.data for delivered in server.deliveries()] == [b"x", b"x"]


def test_answers_can_be_late_or_never(server: FakePubSub, client: Client) -> None:
    server.set_rules(Rule(hang=True))
    assert client.status(b"x", timeout=0.2) == "DEADLINE_EXCEEDED"
    assert server.count == 0
    server.set_rules(Rule(delay_s=0.05, times=1))
    assert client.status(b"x") == "OK"


def test_impossible_requests_are_refused_as_google_does(client: Client) -> None:
    assert client.status(*[b"x"] * 1001) == "INVALID_ARGUMENT"
    assert client.status(b"x" * 10_000_001) == "INVALID_ARGUMENT"


def test_the_server_can_die_and_come_back(server: FakePubSub, client: Client) -> None:
    server.set_rules(Rule(die=True, times=1))
    assert client.status(b"x", timeout=2) in ("UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED")
    server.stop()
    port = server.port
    assert server.start() == port
    reconnected = Client(server.address)
    assert reconnected.status(b"x") == "OK"
    reconnected.channel.close()


def test_only_the_number_may_be_kept() -> None:
    with FakePubSub(count_only=True) as server:
        client = Client(server.address)
        client.publish(b"x", b"y")
        client.channel.close()
        assert (server.count, server.batches()) == (2, [])


def test_a_process_keeps_its_record_over_a_kill(tmp_path: Path) -> None:
    """Everything acknowledged is on record; the port stays; rules can be changed from outside."""
    with PubSubProcess(record=tmp_path / "record", rules=[Rule(status="UNAVAILABLE", times=1)]) as server:
        client = Client(server.address)
        assert [client.status(b"1"), client.status(b"2")] == ["UNAVAILABLE", "OK"]
        server.set_rules(Rule(status="NOT_FOUND"))
        assert client.status(b"3") == "NOT_FOUND"
        assert server.count == 1
        client.channel.close()
        server.set_rules()
        server.kill()
        server.start()
        client = Client(server.address)
        assert client.status(b"4") == "OK"
        client.channel.close()
        server.wait_count(1)
    assert [delivered.data for delivered in server.deliveries()] == [b"2", b"4"]


def test_it_runs_by_hand() -> None:
    """The command prints where it listens and ends with its standard input."""
    command = [sys.executable, "-m", "tests.fakes.pubsub", "--port", "0", "--topic", "projects/p/topics/t"]
    with Child([*command, "--count-only", "--script", '[{"status":"UNAVAILABLE","times":1}]']) as child:
        address = child.wait_line(r"^listening on (.*)$", 30)[1]
        client = Client(address)
        assert client.status(b"x", topic="projects/p/topics/t") == "UNAVAILABLE"
        assert client.status(b"x", topic="projects/p/topics/t") == "OK"
        client.channel.close()
        assert child.process.stdin is not None
        child.process.stdin.close()
        assert child.wait(TIMEOUT_S) == 0


def test_a_record_is_read_up_to_its_last_whole_batch(tmp_path: Path) -> None:
    path = tmp_path / "record"
    recorder = Recorder(path=path)
    for raw in (b"first", b"second"):
        recorder.add(Batch(1.5, raw), 1)
    recorder.close()
    os.truncate(path, path.stat().st_size - 1)
    assert read_record(path) == [Batch(1.5, b"first")]
    assert read_record(tmp_path / "nothing") == []


def test_rules_survive_the_command_line() -> None:
    rules = [Rule(status="UNAVAILABLE", containing="é", times=3), Rule(hang=True)]
    assert rules_from_json(rules_to_json(rules)) == rules
    with pytest.raises(TypeError):
        rules_from_json('[{"statsu": "UNAVAILABLE"}]')
