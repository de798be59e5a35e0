"""An open websocket to a relay that never waits, for a thread that serves many of them."""

import contextlib
import select
import socket
import ssl
from collections.abc import Iterable

from websocket import ABNF

from pipeline.process.clock import Clock
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.frames import MAX_MESSAGE_BYTES, FrameReader, Received
from pipeline.relay.tcp_path import TcpPath, path_of

# A relay that does not read for as long is of no use; our largest frame passes any usable line in less.
SEND_TIMEOUT_S = 10.0
# What one `receive` takes from the network: few system calls per frame, little to hold for a thousand relays.
READ_BYTES = 64 << 10
# OpenSSL hands out one record at a time, of at most this.
_TLS_RECORD_BYTES = 16 << 10

_CLOSE_CODES = {LossReason.PROTOCOL: 1002, LossReason.TOO_LARGE: 1009}
# A relay that ended the stream or broke it hears nothing any more.
_WORTH_A_GOODBYE = (LossReason.LOCAL, LossReason.CLOSED, LossReason.PROTOCOL, LossReason.TOO_LARGE)


class WebSocket:
    """A websocket over `sock`, which it owns; `initial` are bytes that were read from it already. For one thread.

    `inflates`: compression was agreed on (RFC 7692, without context takeover).

    Its owner waits for `events` on `fileno()`, or not at all while `has_more`, and then calls `receive`, which also
    sends what waits to be sent. Nothing is checked or decoded beyond the framing. After `ConnectionLost` only `close`
    is of use.

    `last_received` is the monotonic time of the last bytes, `bytes_received` and `bytes_sent` count what passed on the
    wire inside TLS, `inflates` is as given.
    """

    __slots__ = (
        "_broken", "_clock", "_is_drained", "_is_tls", "_lost", "_pong", "_read_events", "_reader", "_send_by",
        "_send_events", "_send_timeout_s", "_sock", "_unsent", "bytes_received", "bytes_sent", "has_more",
        "inflates", "last_received",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        clock: Clock,
        *,
        initial: bytes = b"",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        inflates: bool = False,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._clock = clock
        self._send_timeout_s = send_timeout_s
        self._reader = FrameReader(max_message_bytes, inflates=inflates)
        self._reader.feed(initial)
        self._unsent = memoryview(b"")  # what is left of what was sent
        self._send_by: float | None = None  # when that must have left
        self._pong = b""  # what is left of the pong under way; nobody waits for it
        self._read_events = select.POLLIN
        self._send_events = select.POLLOUT
        self._broken: OSError | None = None  # met behind records that were to be handed out first
        self._lost: tuple[LossReason, str] | None = None
        self._is_drained = False  # the last read took all that OpenSSL had, which no poll tells of
        self.has_more = True
        """Whether `receive` has something to give that no poll tells of."""
        self.last_received = clock.monotonic()
        self.bytes_received = len(initial)
        self.bytes_sent = 0
        self.inflates = inflates

    def fileno(self) -> int:
        """The descriptor to wait on; -1 once closed."""
        return self._sock.fileno()

    @property
    def path(self) -> TcpPath:
        """What the kernel knows of the way to the relay."""
        return path_of(self._sock)

    @property
    def is_midway(self) -> bool:
        """Whether the relay has begun a message that it has not ended."""
        return self._reader.is_midway

    @property
    def events(self) -> int:
        """What to wait for, as poll(2) names it: that something comes, or that something can be sent."""
        if self._unsent:
            return self._read_events | self._send_events
        return self._read_events | (select.POLLOUT if self._pong else 0)

    @property
    def send_events(self) -> int:
        """The same for what is being sent alone."""
        return self._send_events

    @property
    def send_by(self) -> float | None:
        """When what is being sent must have left (monotonic); `None` once all has."""
        return self._send_by

    def receive(self) -> list[Received]:
        """The complete messages that are there, in order, at most `MAX_BATCH_MESSAGES`.

        Raises `ConnectionLost` after the last one. Takes up to `READ_BYTES` from the network. Pings are
        answered on the way, the newest if many came.
        """
        self._check_open()
        messages = self._reader.take()
        if not messages and self._reader.ended is None:
            self._is_drained = not self._fill()
            messages = self._reader.take()
        if self._pong or self._reader.ping is not None:
            self._answer_ping()
        ended = self._reader.ended
        if ended is not None and not messages:
            raise self._lose(*ended)
        self.has_more = not self._is_drained or ended is not None or self._reader.is_full(messages)
        try:
            self.flush()
        except ConnectionLost:
            if not messages:
                raise
            self.has_more = True  # the next call tells
        return messages

    def send(self, *texts: str | bytes) -> None:
        """Send text messages, together: what does not leave now does later. Raises `ConnectionLost`."""
        self._transmit(
            _frame(ABNF.OPCODE_TEXT, text.encode() if isinstance(text, str) else text) for text in texts
        )  # fmt: skip

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping with at most 125 bytes; whatever comes back moves `last_received`. Raises `ConnectionLost`."""
        assert len(payload) <= 125, "RFC 6455 section 5.5"
        self._transmit([_frame(ABNF.OPCODE_PING, payload)])

    def flush(self) -> None:
        """Send what can be sent now; raises `ConnectionLost` if it should all have left by now."""
        if not self._unsent:
            return
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent)
                self.bytes_sent += sent
                self._unsent = self._unsent[sent:]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self._send_events = select.POLLIN if isinstance(error, ssl.SSLWantReadError) else select.POLLOUT
            if self._send_by is not None and self._clock.monotonic() >= self._send_by:
                detail = f"nothing was read for {self._send_timeout_s:g} s"
                raise self._lose(LossReason.SEND_TIMEOUT, detail) from None
        except OSError as error:
            raise self._lose(LossReason.ERROR, error.strerror or str(error)) from error
        else:
            self._send_by = None

    def close(self) -> None:
        """Say goodbye if that needs no waiting, and let go of the socket. Closing twice does nothing."""
        if self._sock.fileno() < 0:
            return
        self._lost = self._lost or (LossReason.LOCAL, "closed by us")
        reason = self._lost[0]
        if reason in _WORTH_A_GOODBYE and not self._unsent:
            code = _CLOSE_CODES.get(reason, 1000)
            with contextlib.suppress(OSError):
                self._sock.send(self._pong + _frame(ABNF.OPCODE_CLOSE, code.to_bytes(2, "big")))
        self._sock.close()

    def _check_open(self) -> None:
        if self._lost is not None:
            raise ConnectionLost(*self._lost)

    def _lose(self, reason: LossReason, detail: str) -> ConnectionLost:
        self._lost = self._lost or (reason, detail)
        return ConnectionLost(*self._lost)

    def _fill(self) -> bool:
        """Feed the reader with what the socket has; returns whether it may have more that no poll tells of."""
        self._read_events = select.POLLIN
        try:
            data, has_more = self._read_records() if self._is_tls else (self._sock.recv(READ_BYTES), False)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except ssl.SSLWantWriteError:
            self._read_events |= select.POLLOUT
            return False
        except OSError as error:
            raise self._lose(LossReason.ERROR, error.strerror or str(error)) from error
        if not data:
            raise self._lose(LossReason.EOF, "the stream ended without a close frame")
        self.last_received = self._clock.monotonic()
        self.bytes_received += len(data)
        self._reader.feed(data)
        return has_more

    def _read_records(self) -> tuple[bytes, bool]:
        """As many TLS records as are there, and whether there are more; relays put each message into one of its own."""
        if self._broken is not None:
            raise self._broken
        records: list[bytes] = []
        size = 0
        while size < READ_BYTES:
            try:
                record = self._sock.recv(min(_TLS_RECORD_BYTES, READ_BYTES - size))
            except OSError as error:
                if not records:
                    raise
                if not isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
                    self._broken = error
                return b"".join(records), self._broken is not None
            if not record:
                break
            records.append(record)
            size += len(record)
        return b"".join(records), bool(records)

    def _answer_ping(self) -> None:
        """Send what can be sent of a pong now: one is under way at most, and one payload kept."""
        if self._unsent:
            return
        if not self._pong and self._reader.ping is not None:
            self._pong = _frame(ABNF.OPCODE_PONG, self._reader.ping)
            self._reader.ping = None
        try:
            sent = self._sock.send(self._pong)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._pong = b""  # reading tells what happened, after whatever is still to be read
            return
        self.bytes_sent += sent
        self._pong = self._pong[sent:]

    def _transmit(self, frames: Iterable[bytes]) -> None:
        self._check_open()
        pong, self._pong = self._pong, b""
        self._unsent = memoryview(b"".join((self._unsent, pong, *frames)))
        if self._send_by is None:
            self._send_by = self._clock.monotonic() + self._send_timeout_s
        self.flush()


def _frame(opcode: int, payload: bytes) -> bytes:
    frame: bytes = ABNF.create_frame(payload, opcode).format()
    return frame
