"""What a scripted relay puts on the wire: messages, pages of events, and everything that breaks off or never ends."""

import asyncio
import json
from collections.abc import Callable, Sequence

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode

from tests.factories.events import SignedEvent
from tests.fakes.behaviour import Behaviour, How
from tests.fakes.relay_frames import (
    COMPRESSED,
    FIN_BINARY,
    FIN_TEXT,
    deflated,
    endless_fragment,
    fragments,
    frame,
    frame_header,
    reset,
    write,
)

_WRITE_CHUNK = 64
"""Frames put on the wire at once; between two chunks other connections get their turn."""
_DRIP_S = 0.02
_DRIP_BYTES = 1024
_MAX_DRIPS = 3000
"""An endless frame ends by itself after a minute."""
_FLUSH_STEPS = 100
_FLUSH_STEP_S = 0.01


def event_frame(subscription: str, event: SignedEvent) -> bytes:
    """The EVENT message for one subscription."""
    return f'["EVENT",{json.dumps(subscription)},{event.raw}]'.encode("utf-8", "surrogatepass")


class Output:
    """The sending side of one connection; only on the relay's own thread. `behaviour` is asked for at each use."""

    def __init__(self, socket: ServerConnection, behaviour: Callable[[], Behaviour]) -> None:
        self._socket = socket
        self._behaviour = behaviour
        self._sent = 0
        if behaviour().ignore_pings:
            self._swallow_pongs()

    def _swallow_pongs(self) -> None:
        protocol = self._socket.protocol
        send = protocol.send_frame

        def send_frame(frame: Frame) -> None:
            if frame.opcode is not Opcode.PONG:
                send(frame)

        protocol.send_frame = send_frame  # type: ignore[method-assign]  # the only way to leave a ping unanswered

    def message(self, *parts: object) -> None:
        """Send one relay message."""
        self.text(json.dumps(parts, ensure_ascii=False, separators=(",", ":")))

    def text(self, text: str) -> None:
        """Send one frame as it stands."""
        self.frames([text.encode("utf-8", "surrogatepass")])

    def frames(self, payloads: Sequence[bytes]) -> None:
        """Send whole messages at once."""
        behaviour = self._behaviour()
        size = behaviour.fragment_bytes
        framed = map(self._frame, payloads) if size is None else (fragments(payload, size) for payload in payloads)
        write(self._socket, b"".join(framed))
        self._sent += len(payloads)
        if behaviour.close_every_messages is not None and self._sent >= behaviour.close_every_messages:
            self._sent = 0
            self._socket.transport.close()

    def _frame(self, payload: bytes) -> bytes:
        first = FIN_BINARY if self._behaviour().binary else FIN_TEXT
        if self._socket.protocol.extensions:
            return frame(deflated(payload), first | COMPRESSED)
        return frame(payload, first)

    async def events(self, subscription: str, events: Sequence[SignedEvent]) -> None:
        """Send stored events as fast as the script and the client allow."""
        behaviour = self._behaviour()
        chunk = 1 if behaviour.event_delay_s else _WRITE_CHUNK
        for start in range(0, len(events), chunk):
            part = events[start : start + chunk]
            self.frames([payload for event in part for payload in self.event_frames(subscription, event)])
            await asyncio.sleep(behaviour.event_delay_s)
            await self._socket.drain()

    def event_frames(self, subscription: str, event: SignedEvent) -> list[bytes]:
        """The frames for one event: a forged one first where the script says so."""
        behaviour = self._behaviour()
        sent = event if behaviour.spoil is None else behaviour.spoil(event)
        true = [event_frame(subscription, sent)] * behaviour.copies
        return true if behaviour.forge is None else [event_frame(subscription, behaviour.forge(event)), *true]

    async def misbehave(self, how: How, reason: str, subscription: str) -> None:
        """Do what stands for the answer that was due."""
        match how:
            case How.CLOSED:
                self.message("CLOSED", subscription, reason)
            case How.NOTICE:
                self.message("NOTICE", reason)
            case How.NOTICE_EOSE:
                self.message("NOTICE", reason)
                self.message("EOSE", subscription)
            case How.EOSE:
                self.message("EOSE", subscription)
            case How.CLOSE:
                await self._socket.close(1000, reason[:120])
            case How.RESET:
                await self._flush()
                reset(self._socket)
            case How.ENDLESS_FRAME:
                write(self._socket, frame_header(1 << 31))
                await self._drip(lambda _: b"x" * _DRIP_BYTES)
            case How.ENDLESS_MESSAGE:
                await self._drip(lambda number: endless_fragment(b"x" * _DRIP_BYTES, first=number == 0))
            case How.SILENT:
                return

    def reset(self) -> None:
        """Break the connection at once."""
        reset(self._socket)

    async def _flush(self) -> None:
        """Let the client read what was sent before the connection is broken under it."""
        for _ in range(_FLUSH_STEPS):
            if not self._socket.transport.get_write_buffer_size():
                break
            await asyncio.sleep(_FLUSH_STEP_S)
        await asyncio.sleep(_FLUSH_STEP_S * 5)

    async def _drip(self, part: Callable[[int], bytes]) -> None:
        for number in range(_MAX_DRIPS):
            if self._socket.transport.is_closing():
                return
            write(self._socket, part(number))
            await asyncio.sleep(_DRIP_S)
