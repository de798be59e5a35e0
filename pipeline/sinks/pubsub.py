"""Google Cloud Pub/Sub: one `Publish` call per batch, so that a batch is settled as one.

The channel of the generated client is called directly: what the client adds to a call, as retries, is switched off here
and costs as much as the call. The client around it batches on its own, which would hide which rows a call settled.
Imported by the forwarder only, since the client costs 60 MB and must never cross a fork.
"""

import json
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import google.auth
import grpc
from google.api_core.exceptions import GoogleAPICallError, RetryError, from_grpc_error
from google.api_core.gapic_v1 import routing_header
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.iam.v1.iam_policy_pb2 import TestIamPermissionsRequest
from google.oauth2 import service_account
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.publisher.transports.base import DEFAULT_CLIENT_INFO
from google.pubsub_v1.types import PublishRequest

from pipeline.errors import CannotStart
from pipeline.process.clock import Clock, SystemClock
from pipeline.sinks.attributes import attributes, size_in_call
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, SinkDown, Verdict, Verdicts
from pipeline.sinks.topic_doubts import TopicDoubts

EMULATOR_VARIABLE: Final = "PUBSUB_EMULATOR_HOST"
# Pub/Sub's own bounds are 1,000 messages and 10 MB a call; attributes and framing count too.
MAX_MESSAGES: Final = 1_000
MAX_CALL_BYTES: Final = 9_000_000
# Well inside the lease, so that a call is over before its rows are claimed again.
CALL_TIMEOUT_S: Final = 20.0
# Finding one bad message among 1,000 takes 20 calls; what is left by then is offered again.
MAX_CALLS: Final = 24
# No call is begun later than this after the first, so that the last is over well inside the lease too.
_BATCH_LIMIT_S: Final = 40.0
# Messages of a batch that are tried alone, if its first ones are all refused, before the topic counts as down.
_MAX_PROBES: Final = 3
_REFUSED: Final = "INVALID_ARGUMENT"
_DEAD_LETTER: Final = Refused(_REFUSED, dead_letter=True)

# By default a channel waits ever longer before it connects again, up to two minutes: until then every call fails, long
# after the server is back.
_RECONNECT: Final = (("grpc.initial_reconnect_backoff_ms", 1_000), ("grpc.max_reconnect_backoff_ms", 5_000))

_METHOD: Final = "/google.pubsub.v1.Publisher/Publish"
_PUBLISH: Final = "pubsub.topics.publish"
# Of a library without types.
_error_of: Final[Any] = from_grpc_error
_header_of: Final[Any] = routing_header.to_grpc_metadata
_client_header: Final[Any] = DEFAULT_CLIENT_INFO.to_grpc_metadata
_SCOPES: Final = ("https://www.googleapis.com/auth/pubsub",)

_ADVICE: Final = {
    "INVALID_ARGUMENT": "check EVENTS_GOOGLE_PUBSUB_PROJECT_ID, EVENTS_PUBSUB_TOPIC and the schema of the topic",
    "NOT_FOUND": "create the topic, or set EVENTS_PUBSUB_TOPIC and EVENTS_GOOGLE_PUBSUB_PROJECT_ID to one that exists",
    "PERMISSION_DENIED": "grant roles/pubsub.publisher on the topic to the account of the credentials file",
    "UNAUTHENTICATED": "check EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH; the key may be revoked or of another project",
}


@dataclass(frozen=True, slots=True)
class PubsubSettings:
    """Which topic to publish to, and as whom; `credentials` may be `None` with an emulator."""

    project: str
    topic: str
    credentials: Path | None

    @property
    def path(self) -> str:
        """The topic's full name."""
        return f"projects/{self.project}/topics/{self.topic}"


class PubsubSink:
    """Publishes to one topic. Safe in several threads at once; make it after the last fork."""

    __slots__ = ("_call", "_client", "_clock", "_doubts", "_metadata", "_path")

    def __init__(self, settings: PubsubSettings, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._client = _client(settings)
        self._path = settings.path
        # The ids that it answers with are of no use, so that the answer is not read.
        self._call = self._client.transport.grpc_channel.unary_unary(
            _METHOD, request_serializer=PublishRequest.pb().SerializeToString, response_deserializer=None
        )
        self._metadata = (
            _header_of((("topic", self._path),)),
            _client_header(),
        )
        self._doubts = TopicDoubts()

    @property
    def max_messages(self) -> int:
        """See `Sink.max_messages`."""
        return MAX_MESSAGES

    def deliver(self, messages: Sequence[Message]) -> Verdicts:
        """See `Sink.deliver`; more than one call is made when the batch is too large for one, or has a bad message."""
        outgoing = [_Outgoing(message.event_id, message.payload, attributes(message)) for message in messages]
        batch = _Batch(outgoing, self._doubts, self._clock)
        until = self._clock.monotonic() + _BATCH_LIMIT_S
        for _ in range(MAX_CALLS):
            part = batch.next_part()
            if part is None or self._clock.monotonic() >= until:
                break
            status, detail = self._publish(part)
            if status is None:
                batch.on_success()
            elif status != _REFUSED:
                raise SinkDown(status, detail, _ADVICE.get(status, ""), batch.settled)
            elif batch.on_refusal():
                raise SinkDown(status, detail, _ADVICE[status], batch.settled)
        batch.end()
        return batch.verdicts

    def keep_alive(self) -> None:
        """See `Sink.keep_alive`; the client looks after its channel itself."""

    def close(self) -> None:
        """See `Sink.close`."""
        self._client.transport.close()

    def _publish(self, messages: Sequence["_Outgoing"]) -> tuple[str | None, str]:
        """Return the status of one call, `None` when all is well, and what the service said."""
        request = PublishRequest.pb()(topic=self._path)
        for message in messages:
            request.messages.add(data=message.payload, attributes=message.attributes)
        try:
            self._call(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata)
        except grpc.RpcError as failed:
            error = _error_of(failed)
            code = error.grpc_status_code
            # gRPC calls everything unavailable that goes wrong with tokens; the token server says when it is the key.
            if "invalid_grant" in str(error.message):
                return "UNAUTHENTICATED", str(error.message)
            return (code.name if code is not None else "UNKNOWN"), str(error.message)
        except TransportError as error:
            return "UNAVAILABLE", str(error)
        except GoogleAuthError as error:
            return "UNAUTHENTICATED", str(error)
        return None, ""


def examine_topic(settings: PubsubSettings, timeout_s: float) -> str:
    """Return a description of a topic that exists and may be published to. Raises `SinkDown` if either is not so."""
    client = _client(settings)
    try:
        client.get_topic(topic=settings.path, retry=None, timeout=timeout_s)
        request = TestIamPermissionsRequest(resource=settings.path, permissions=[_PUBLISH])
        granted = client.test_iam_permissions(request, timeout=timeout_s).permissions
    except GoogleAPICallError as error:
        status = error.grpc_status_code.name if error.grpc_status_code is not None else "UNKNOWN"
        if status == "UNIMPLEMENTED":
            return "exists; this server does not tell permissions"
        raise SinkDown(status, str(error.message), _ADVICE.get(status, "")) from error
    except (GoogleAuthError, RetryError) as error:
        raise SinkDown("UNAUTHENTICATED", str(error), _ADVICE["UNAUTHENTICATED"]) from error
    finally:
        client.transport.close()
    if _PUBLISH not in granted:
        raise SinkDown("PERMISSION_DENIED", f"{_PUBLISH} is not granted", _ADVICE["PERMISSION_DENIED"])
    return "exists and may be published to"


class _Outgoing(NamedTuple):
    """A message as it goes into a call."""

    event_id: bytes
    payload: bytes
    attributes: dict[str, str]


class _Batch:
    """One batch on its way: its parts that are to be offered, and the verdicts so far."""

    __slots__ = ("_clock", "_doubted", "_doubts", "_messages", "_part", "_parts", "_probes", "verdicts")

    def __init__(self, messages: Sequence[_Outgoing], doubts: TopicDoubts, clock: Clock) -> None:
        self._clock = clock
        self.verdicts: list[Verdict | None] = [None] * len(messages)
        self._messages = messages
        self._doubts = doubts
        # The next one last.
        self._parts = deque(reversed(list(_calls(messages))))
        self._part = range(0)
        self._doubted: list[int] = []
        self._probes = 0

    @property
    def settled(self) -> Verdicts:
        """The verdicts so far, up to the last one."""
        last = max((index for index, verdict in enumerate(self.verdicts) if verdict is not None), default=-1)
        return self.verdicts[: last + 1]

    def next_part(self) -> Sequence[_Outgoing] | None:
        """Return what to offer in one call; None when there is nothing left."""
        if not self._parts:
            return None
        if self._doubts.is_down(len(self._messages)) and self._doubted:
            # Whether the topic takes anything is asked with one message from the other end.
            part = self._parts.popleft()
            self._part = part[-1:]
            if part[:-1]:
                self._parts.appendleft(part[:-1])
            self._probes += 1
        else:
            self._part = self._parts.pop()
        return [self._messages[index] for index in self._part]

    def on_success(self) -> None:
        """The topic accepted the part: refused messages are offered once more, which shows which are at fault."""
        self._doubts.on_success(self._clock.monotonic())
        for index in self._part:
            self.verdicts[index] = DELIVERED
        self._parts += [range(index, index + 1) for index in self._doubted]
        self._doubted.clear()

    def on_refusal(self) -> bool:
        """Return the topic refused the part; return True if it refuses everything."""
        if len(self._part) > 1:
            # One bad message fails the call for all: halve until it stands alone.
            together = (self._messages[index].event_id for index in self._part)
            self._doubts.on_refusal_together(together, self._clock.monotonic())
            middle = len(self._part) // 2
            self._parts += [self._part[middle:], self._part[:middle]]
            return False
        (index,) = self._part
        if self._doubts.on_refusal(self._messages[index].event_id, self._clock.monotonic()):
            self.verdicts[index] = _DEAD_LETTER
        else:
            self._doubted.append(index)
        return self._doubts.is_down(len(self._messages)) and (self._probes >= _MAX_PROBES or not self._parts)

    def end(self) -> None:
        """No more is offered: what was refused last is tried again another time."""
        for index in self._doubted:
            self.verdicts[index] = Retry(_REFUSED)


def _calls(messages: Sequence[_Outgoing]) -> Iterator[range]:
    begin = size = 0
    for index, message in enumerate(messages):
        cost = size_in_call(message.payload, message.attributes)
        if index > begin and (size + cost > MAX_CALL_BYTES or index - begin == MAX_MESSAGES):
            yield range(begin, index)
            begin, size = index, 0
        size += cost
    if begin < len(messages):
        yield range(begin, len(messages))


def _client(settings: PubsubSettings) -> PublisherClient:
    emulator = os.environ.get(EMULATOR_VARIABLE)
    if emulator:
        channel = grpc.insecure_channel(emulator, options=_RECONNECT)
        return PublisherClient(transport=PublisherGrpcTransport(channel=channel))
    transport = partial(PublisherGrpcTransport, channel=_channel)
    return PublisherClient(credentials=_credentials(settings.credentials), transport=transport)


def _credentials(path: Path | None) -> Credentials:
    """Return the credentials in the file at `path`, of any type, or the application default credentials."""
    try:
        if path is None:
            found, _ = google.auth.default(scopes=_SCOPES)
            return found
        info = json.loads(path.read_bytes())
        if "type" not in info:
            return service_account.Credentials.from_service_account_info(info, scopes=_SCOPES)
        with warnings.catch_warnings():
            # It warns of files from strangers; this one is the operator's.
            warnings.simplefilter("ignore", DeprecationWarning)
            found, _ = google.auth.load_credentials_from_dict(info, scopes=_SCOPES)
        return found
    except (GoogleAuthError, ValueError, OSError, AttributeError, TypeError, KeyError) as error:
        # JSON of another shape ends in whatever the library trips over; the text of any error may quote the key.
        what = "none is set and the machine has none of its own" if path is None else f"{path} cannot be used"
        raise CannotStart(f"EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH: {what} ({type(error).__name__})") from None


def _channel(*arguments: Any, options: Sequence[tuple[str, Any]] = (), **named: Any) -> grpc.Channel:
    """Return the channel that the transport makes by default, with a say in how it connects again."""
    channel: grpc.Channel = PublisherGrpcTransport.create_channel(*arguments, options=[*options, *_RECONNECT], **named)
    return channel
