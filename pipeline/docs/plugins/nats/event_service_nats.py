"""Sink for NATS JetStream: `EVENTS_SINK=nats:nats://127.0.0.1:4222/SUBJECT`; a stream must keep what comes to SUBJECT.

Each message has the attributes as headers, and the event's id as `Nats-Msg-Id`: what is published again within the
stream's window for duplicates is not kept twice.
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import nats
from nats.errors import Error, MaxPayloadError

from pipeline.errors import CannotStart
from pipeline.sinks.attributes import attributes
from pipeline.sinks.base import DELIVERED, Message, Refused, SinkDown, Verdict

TIMEOUT_S = 10.0
ADVICE = "start the NATS server with JetStream, and create a stream for the subject"


class NatsSink:
    """Publishes to one subject and waits for the stream's answers; used by one thread."""

    max_messages = 500

    def __init__(self, argument: str) -> None:
        address = urlsplit(argument)
        self._server, self._subject = f"{address.scheme}://{address.netloc}", address.path.removeprefix("/")
        if not address.hostname or not self._subject:
            raise CannotStart(
                "EVENTS_SINK: nats needs server and subject, as in nats:nats://127.0.0.1:4222/nostr.events"
            )
        self._loop = asyncio.new_event_loop()
        self._client: Any = None

    def deliver(self, messages: Sequence[Message]) -> list[Verdict | None]:
        """Publish all messages at once; what got no answer is tried again by the service."""
        try:
            answers = self._loop.run_until_complete(self._publish(messages))
        except (Error, OSError, TimeoutError) as error:
            raise SinkDown(type(error).__name__, str(error), ADVICE) from error
        verdicts = [None if isinstance(answer, BaseException) else answer for answer in answers]
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if failures:
            raise SinkDown(type(failures[0]).__name__, str(failures[0]), ADVICE, verdicts)
        return verdicts

    async def _publish(self, messages: Sequence[Message]) -> list[Verdict | BaseException]:
        if self._client is None or not self._client.is_connected:
            self._client = await nats.connect(self._server, allow_reconnect=False, connect_timeout=TIMEOUT_S)
        stream = self._client.jetstream(timeout=TIMEOUT_S)
        return await asyncio.gather(*(self._publish_one(stream, each) for each in messages), return_exceptions=True)

    async def _publish_one(self, stream: Any, message: Message) -> Verdict:
        headers = {"Nats-Msg-Id": message.event_id.hex(), **attributes(message)}
        try:
            await stream.publish(self._subject, message.payload, headers=headers)
        except MaxPayloadError:
            # An operator may raise the server's bound and requeue it.
            return Refused("too-large", dead_letter=True)
        return DELIVERED

    def keep_alive(self) -> None:
        """Answer the server's pings, about every second while there is nothing to deliver."""
        if self._client is not None:
            self._loop.run_until_complete(asyncio.sleep(0.01))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._loop.run_until_complete(self._client.close())
        self._loop.close()
