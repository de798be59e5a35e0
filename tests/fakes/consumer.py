"""A consumer of the topic as the known one is: it gets an envelope, decodes it, checks the event, dedupes by its id.

It reads the emulator by streaming pull. Nothing of the project's own is used: events are verified by nostr-sdk.
"""

import base64
import json
import queue
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any, Self

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import StreamingPullRequest
from nostr_sdk import Event, NostrSdkError

_ACK_DEADLINE_S = 60
_MAX_MESSAGE_BYTES = 100_000_000
_FIELDS = {"id", "pubkey", "created_at", "kind", "tags", "content", "sig"}


class Consumer:
    """Takes messages until it is closed. Its counts may be read at any time, and change only in its own thread."""

    def __init__(self, address: str, subscription: str) -> None:
        self.uuids: dict[str, set[str]] = {}
        """By event id, every `_watermill_message_uuid` that came with it."""
        self.refused: list[str] = []
        """What is wrong with messages that are no events, or that do not verify."""
        self.publications: set[str] = set()
        """Ids of messages: a second one for the same event is a redelivery by the publisher."""
        self._subscription = subscription
        self._requests: queue.Queue[StreamingPullRequest | None] = queue.Queue()
        options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._thread = threading.Thread(target=self._consume, name="consumer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._channel.close()
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def redelivered(self) -> int:
        """How many messages said again what an earlier one had said."""
        return len(self.publications) - len(self.uuids)

    def wait_events(self, count: int, timeout_s: float) -> None:
        """Return once so many different events have come; raises `TimeoutError`."""
        deadline = monotonic() + timeout_s
        pause = threading.Event()
        while len(self.uuids) < count:
            if monotonic() > deadline:
                raise TimeoutError(f"{len(self.uuids)} of {count} events; refused: {self.refused[:3]}")
            pause.wait(0.05)

    def _consume(self) -> None:
        client: Any = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        first = StreamingPullRequest(subscription=self._subscription, stream_ack_deadline_seconds=_ACK_DEADLINE_S)
        self._requests.put(first)
        try:
            for response in client.streaming_pull(requests=self._asked()):
                for received in response.received_messages:
                    self._take(received.message)
                ids = [received.ack_id for received in response.received_messages]
                self._requests.put(StreamingPullRequest(ack_ids=ids))
        except (GoogleAPICallError, ValueError):
            # How a stream ends whose channel is closed; what is missing then, the test says.
            return

    def _asked(self) -> Iterator[StreamingPullRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _take(self, message: Any) -> None:
        """What a function gets that the topic triggers, and what it does with it."""
        if message.message_id in self.publications:
            return
        self.publications.add(message.message_id)
        envelope: dict[str, Any] = {
            "data": base64.b64encode(message.data).decode(),
            "attributes": dict(message.attributes),
        }
        event_id, why_not = judge(base64.b64decode(envelope["data"], validate=True))
        if why_not:
            self.refused.append(f"{event_id}: {why_not}")
        else:
            self.uuids.setdefault(event_id, set()).add(envelope["attributes"].get("_watermill_message_uuid", ""))


def judge(data: bytes) -> tuple[str, str]:
    """The id of the event in `data`, and what is wrong with it; empty when nothing is."""
    try:
        value: Any = json.loads(data)
    except ValueError as error:
        return "", f"no JSON: {error}"
    if not isinstance(value, dict) or set(value) != _FIELDS:
        return "", "no event with its seven fields"
    if any(value[name] != str(value[name]).lower() for name in ("id", "pubkey", "sig")):
        return str(value["id"]), "hex that is not lowercase"
    try:
        verified = Event.from_json(data.decode()).verify()
    except NostrSdkError as error:
        return str(value["id"]), f"no event: {error}"
    return str(value["id"]), "" if verified else "id or signature is wrong"
