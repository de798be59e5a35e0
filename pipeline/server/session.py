"""One websocket from its first message to its end."""

import asyncio
from typing import Final

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from pipeline.nostr.client_message import (
    InvalidPublish,
    OtherMessage,
    PublishMessage,
    RequestMessage,
    encode_closed,
    encode_notice,
    encode_ok,
    parse_client_message,
)
from pipeline.nostr.event import Event
from pipeline.nostr.frame import InvalidMessage
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.process.clock import Clock
from pipeline.process.rate import TokenBucket
from pipeline.server.connection import LimitedConnection
from pipeline.server.limits import ClientRates, Refuse, RejectReason, ServerLimits
from pipeline.server.registrations import Registrations, RegistrationVerdict

UNSUPPORTED: Final = "unsupported: this is not a relay, it takes registrations (kind 6666) only"
# Nothing is open that could be closed, and no client is asked to authenticate.
_IGNORED: Final = ("CLOSE", "AUTH")
TOO_FAST: Final = RegistrationVerdict(False, "rate-limited: too many registrations, try again in a minute")


class Sessions:
    """Server of the websockets of all clients; used by the event loop alone."""

    def __init__(self, registrations: Registrations, limits: ServerLimits, clock: Clock, refuse: Refuse) -> None:
        self._registrations = registrations
        self._limits = limits
        self._clock = clock
        self._refuse = refuse
        self._rates = ClientRates(limits.registrations)
        self._bounds = FrameBounds(limits.event_bytes, limits.event_tags)

    async def serve(self, connection: ServerConnection) -> None:
        """Answer a client until one side ends the connection or a bound is reached."""
        assert isinstance(connection, LimitedConnection)
        try:
            await self._answer_all(connection)
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                self._refuse(RejectReason.FRAME_SIZE)

    async def _answer_all(self, connection: LimitedConnection) -> None:
        client = connection.client
        bucket = TokenBucket(self._limits.messages, self._clock.monotonic())
        while True:
            connection.waiting_since = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    raw = await connection.recv(decode=False)
            except TimeoutError:
                return await self._close(connection, RejectReason.IDLE, CloseCode.NORMAL_CLOSURE, "idle for too long")
            connection.waiting_since = None
            if not bucket.take(self._clock.monotonic()):
                return await self._close(
                    connection, RejectReason.MESSAGES, CloseCode.POLICY_VIOLATION, "rate-limited: too many messages"
                )
            try:
                answer = await self._answer(client, raw)
            except InvalidMessage as error:
                return await self._close(connection, RejectReason.NO_MESSAGE, CloseCode.INVALID_DATA, str(error))
            if answer is not None:
                await connection.send(answer)

    async def _answer(self, client: str | None, raw: bytes) -> str | None:
        """Return the answer to a message, if it wants one. Raises `InvalidMessage`."""
        if (excess := self._bounds.excess(raw)) is not None:
            return encode_notice(self._registrations.refuse_malformed(excess).reason)
        try:
            message = parse_client_message(raw)
        except InvalidPublish as error:
            verdict = self._registrations.refuse_malformed(str(error))
            if error.id_text is None:
                # An OK could not name its event.
                return encode_notice(verdict.reason)
            return encode_ok(error.id_text, verdict.accepted, verdict.reason)
        match message:
            case PublishMessage(event):
                verdict = await self._verdict(client, event)
                return encode_ok(event.id.hex(), verdict.accepted, verdict.reason)
            case RequestMessage(_, subscription):
                return encode_closed(subscription, UNSUPPORTED)
            case OtherMessage(label):
                return None if label in _IGNORED else encode_notice(UNSUPPORTED)

    async def _verdict(self, client: str | None, event: Event) -> RegistrationVerdict:
        if not self._rates.take(client, self._clock.monotonic()):
            self._refuse(RejectReason.REGISTRATIONS)
            return TOO_FAST
        return await self._registrations.take(event)

    async def _close(self, connection: LimitedConnection, reason: RejectReason, code: CloseCode, why: str) -> None:
        self._refuse(reason)
        await connection.close(code, why)
