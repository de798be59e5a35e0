"""Google's own Pub/Sub emulator, where the Cloud SDK has it: started, given a topic, drained and ended by tests."""

import functools
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tests.fakes.child import Child
from tests.fakes.net import free_port, loopback_address, wait_listening
from tests.fakes.peer import Peer
from tests.oracle.delivery import Delivered

PROJECT = "test"
TOPIC_ID = "nostr-events"
_PROGRAM = Path("platform/pubsub-emulator/bin/cloud-pubsub-emulator")
_USUAL_ROOTS = (Path("/usr/lib/google-cloud-sdk"), Path("/usr/share/google-cloud-sdk"), Path("/opt/google-cloud-sdk"))
READY_TIMEOUT_S = 60.0
_PULL_TIMEOUT_S = 3.0
"""How long one pull waits for a first message; what a pull takes that we gave up on comes back later."""
_ACK_DEADLINE_S = 20
_MAX_PULL = 1000
_MAX_MESSAGE_BYTES = 100_000_000


@functools.cache
def emulator_program(path: Path = _PROGRAM) -> Path | None:
    """The start script of an emulator, of Pub/Sub by default; `None` when it or Java is not installed."""
    if shutil.which("java") is None:
        return None
    for root in _USUAL_ROOTS:
        if (root / path).is_file():
            return root / path
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return None
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=READY_TIMEOUT_S, check=False)
    program = Path(found.stdout.strip()) / path
    return program if program.is_file() else None


class PubSubEmulator(Peer):
    """One running emulator with a topic and a subscription to it. It keeps nothing over a restart.

    `start` after `kill` listens on the same port again and makes topic and subscription anew.
    """

    def __init__(self, *, project: str = PROJECT, topic_id: str = TOPIC_ID) -> None:
        self.topic = f"projects/{project}/topics/{topic_id}"
        self.subscription = f"projects/{project}/subscriptions/{topic_id}-test"
        self.host = loopback_address()
        self.port = 0
        self._channel: grpc.Channel | None = None

    @property
    def address(self) -> str:
        """`host:port`, for `PUBSUB_EMULATOR_HOST`."""
        return f"{self.host}:{self.port}"

    @property
    def channel(self) -> grpc.Channel:
        """For clients of its other services."""
        assert self._channel is not None, "not started"
        return self._channel

    def start(self, *, create: bool = True) -> None:
        """Start it, wait until it takes connections, and make topic and subscription unless told not to."""
        program = emulator_program()
        assert program is not None, "the Pub/Sub emulator is not installed"
        self.port = self.port or free_port(self.host)
        with self._starting(Child([str(program), f"--host={self.host}", f"--port={self.port}"])):
            wait_listening(self.host, self.port, READY_TIMEOUT_S)
            options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
            self._channel = grpc.insecure_channel(self.address, options=options)
            if create:
                self.create()

    def create(self) -> None:
        """Make the topic and the subscription, which gets what is published from now on."""
        self._publisher().create_topic(request={"name": self.topic}, timeout=READY_TIMEOUT_S)
        request = {"name": self.subscription, "topic": self.topic, "ack_deadline_seconds": _ACK_DEADLINE_S}
        self._subscriber().create_subscription(request=request, timeout=READY_TIMEOUT_S)

    def create_topic(self, topic_id: str, schema_settings: Mapping[str, str]) -> None:
        """Make another topic, which takes only what fits a schema."""
        name = f"{self.topic.rpartition('/')[0]}/{topic_id}"
        request = {"name": name, "schema_settings": dict(schema_settings)}
        self._publisher().create_topic(request=request, timeout=READY_TIMEOUT_S)

    def push_to(self, url: str) -> None:
        """Let it push messages to `url` instead of keeping them for pulls."""
        request = {"subscription": self.subscription, "push_config": {"push_endpoint": url}}
        self._subscriber().modify_push_config(request=request, timeout=READY_TIMEOUT_S)

    def kill(self) -> None:
        """End it at once."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        super().kill()

    def _publisher(self) -> Any:
        return PublisherClient(transport=PublisherGrpcTransport(channel=self._channel))

    def _subscriber(self) -> Any:
        return SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))

    def drain(self, enough: int | None = None, timeout_s: float = 60.0) -> list[Delivered]:
        """Pull and acknowledge until there are `enough`, or nothing more comes, or the time is up.

        `arrived_at` is the emulator's publish time.
        """
        deadline = monotonic() + timeout_s
        subscriber = self._subscriber()
        taken: list[Delivered] = []
        while monotonic() < deadline and (enough is None or len(taken) < enough):
            received = self._pull(subscriber)
            if not received:
                break
            taken += [_delivered(message.message) for message in received]
            ack_ids = [message.ack_id for message in received]
            subscriber.acknowledge(subscription=self.subscription, ack_ids=ack_ids, timeout=READY_TIMEOUT_S)
        return taken

    def drain_count(self, messages: int, timeout_s: float = 60.0) -> list[Delivered]:
        """Pull until so many messages have come or the time is up, however long it stays silent between them."""
        deadline = monotonic() + timeout_s
        taken: list[Delivered] = []
        while len(taken) < messages and monotonic() < deadline:
            missing = messages - len(taken)
            taken += self.drain(missing, deadline - monotonic())
        return taken

    def _pull(self, subscriber: Any) -> list[Any]:
        from google.api_core.exceptions import DeadlineExceeded

        request = {"subscription": self.subscription, "max_messages": _MAX_PULL}
        try:
            answer = subscriber.pull(request=request, timeout=_PULL_TIMEOUT_S, retry=None)
        except DeadlineExceeded:
            return []
        return list(answer.received_messages)


def _delivered(message: Any) -> Delivered:
    return Delivered(message.data, dict(message.attributes), message.publish_time.timestamp())


@pytest.fixture
def pubsub_emulator() -> Iterator[PubSubEmulator]:
    """A fresh emulator with its topic; skips where it is not installed."""
    if emulator_program() is None:
        pytest.skip("the Pub/Sub emulator is not installed")
    with PubSubEmulator() as emulator:
        yield emulator
