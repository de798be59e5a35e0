"""An open websocket to a relay, as the one thread that serves the relay uses it."""

import contextlib
import os
import select
import socket
import ssl
import threading

from websocket import ABNF

from pipeline.process.clock import Clock
from pipeline.relay.deadline import Deadline
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.frames import MAX_MESSAGE_BYTES, FrameReader

# A relay that does not read for as long is of no use; our largest frame passes any usable line in less.
SEND_TIMEOUT_S = 10.0
# What one `receive` takes from the network: few system calls per frame, little to hold for a thousand relays.
READ_BYTES = 64 << 10
# OpenSSL hands out one record at a time, of at most this.
_TLS_RECORD_BYTES = 16 << 10
# `close` waits twice for another thread to leave: first asked to, then with the socket shut down under it.
_CLOSE_WAIT_S = 0.4

_CLOSE_CODES = {LossReason.PROTOCOL: 1002, LossReason.TOO_LARGE: 1009}


class Transport:
    """A websocket over `sock`, which it owns; `initial` are bytes that were read from it already.

    One thread calls `receive`, `send` and `ping`; any thread may call `wake` and `close`. Nothing is checked or decoded
    beyond the framing. After `ConnectionLost` only `close` is of use.

    `last_received` is the monotonic time of the last bytes, `bytes_received` and `bytes_sent` count what passed on the
    wire inside TLS.
    """

    def __init__(
        self,
        sock: socket.socket,
        clock: Clock,
        *,
        initial: bytes = b"",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._clock = clock
        self._send_timeout_s = send_timeout_s
        self._reader = FrameReader(max_message_bytes)
        self._reader.feed(initial)
        self._pong = b""  # what is left to be sent of the pong under way
        self._read_events = select.POLLIN
        self._drained = False  # the last read took all that was there: the next one waits first
        self._broken: OSError | None = None  # met behind records that were to be handed out first
        self._lost: tuple[LossReason, str] | None = None
        self._in_use = threading.Lock()  # held by whoever is inside the socket
        self._wake_guard = threading.Lock()
        self._woken = False  # equals "the eventfd is readable" wherever `_wake_guard` is free
        self._closing = False
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake_fd, select.POLLIN)
        self._poll.register(sock, select.POLLIN)
        self.last_received = clock.monotonic()
        self.bytes_received = len(initial)
        self.bytes_sent = 0

    @property
    def binary_ignored(self) -> int:
        """How many binary messages came; Nostr has none, so they are dropped."""
        return self._reader.binary_ignored

    def receive(self, timeout_s: float) -> list[bytes]:
        """The next complete text messages in order, at most `MAX_BATCH_MESSAGES`; `ConnectionLost` after the last one.

        [] once `timeout_s` have passed or `wake` was called. Pings are answered on the way, the newest if many came.
        """
        with self._in_use:
            self._check_open()
            deadline = Deadline(self._clock, timeout_s)
            last_pass = False
            while True:
                messages = self._reader.take()
                if self._pong or self._reader.ping is not None:
                    self._answer_ping()
                if messages:
                    return messages
                if self._reader.ended is not None:
                    raise self._lose(*self._reader.ended)
                if self._take_wake() or last_pass:
                    return []
                if self._drained and not self._wait(deadline.remaining()):
                    return []
                if not self._fill() and not self._wait(deadline.remaining()):
                    return []
                last_pass = deadline.expired

    def send(self, text: str | bytes) -> None:
        """Send one text message, all of it, within the send timeout; raises `ConnectionLost`.

        Nothing is received meanwhile.
        """
        self._transmit(ABNF.OPCODE_TEXT, text.encode() if isinstance(text, str) else text)

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping with at most 125 bytes; whatever comes back moves `last_received`. Raises `ConnectionLost`."""
        assert len(payload) <= 125, "RFC 6455 section 5.5"
        self._transmit(ABNF.OPCODE_PING, payload)

    def wake(self) -> None:
        """Make the `receive` under way, or else the next one that would wait, return early. Any thread may call it."""
        with self._wake_guard:
            if not self._woken and self._wake_fd >= 0:
                self._woken = True
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Say goodbye if that needs no waiting, and let go of the socket; takes less than 1 s. Any thread may call it.

        Another thread inside `receive` or `send` gets `ConnectionLost` there. Closing twice does nothing.
        """
        self._closing = True
        self.wake()
        if not self._in_use.acquire(timeout=_CLOSE_WAIT_S):
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which would make it a plain socket under the other thread's hands.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
            if not self._in_use.acquire(timeout=_CLOSE_WAIT_S):
                return  # the other thread is on its way out of the socket; its own `close` releases it
        try:
            self._release()
        finally:
            self._in_use.release()

    def _check_open(self) -> None:
        if self._closing:
            raise self._lose(LossReason.LOCAL, "closed by us")
        if self._lost is not None:
            raise ConnectionLost(*self._lost)

    def _lose(self, reason: LossReason, detail: str) -> ConnectionLost:
        if self._closing:
            reason, detail = LossReason.LOCAL, "closed by us"
        self._lost = self._lost or (reason, detail)
        return ConnectionLost(*self._lost)

    def _take_wake(self) -> bool:
        """Whether `wake` was called since this was last asked; raises `ConnectionLost` if it was by `close`."""
        if not self._woken:
            return False
        with self._wake_guard:
            self._woken = False
            os.eventfd_read(self._wake_fd)
        self._check_open()
        return True

    def _wait(self, timeout_s: float) -> bool:
        """Wait until there is something to do; False when `timeout_s` passed."""
        self._poll.modify(self._sock, self._read_events | (select.POLLOUT if self._pong else 0))
        self._read_events = select.POLLIN
        self._drained = False
        return bool(self._poll.poll(timeout_s * 1000))

    def _fill(self) -> bool:
        """Feed the reader with what the socket has, at most `READ_BYTES`; False when it has nothing now."""
        try:
            data = self._read_records() if self._tls else self._sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except ssl.SSLWantWriteError:
            self._read_events |= select.POLLOUT
            return False
        except OSError as error:
            raise self._lose(LossReason.ERROR, error.strerror or str(error)) from error
        if not data:
            raise self._lose(LossReason.EOF, "the stream ended without a close frame")
        if not self._tls:
            self._drained = len(data) < READ_BYTES
        self.last_received = self._clock.monotonic()
        self.bytes_received += len(data)
        self._reader.feed(data)
        return True

    def _read_records(self) -> bytes:
        """As many TLS records as are there; relays put each message into one of its own."""
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
                self._drained = isinstance(error, ssl.SSLWantReadError)
                if not isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
                    self._broken = error
                break
            if not record:
                break
            records.append(record)
            size += len(record)
        return b"".join(records)

    def _answer_ping(self) -> None:
        """Send what can be sent of a pong now, without waiting: one is under way at most, and one payload kept."""
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

    def _transmit(self, opcode: int, payload: bytes) -> None:
        frame = _frame(opcode, payload)
        with self._in_use:
            self._check_open()
            pong, self._pong = self._pong, b""
            rest = memoryview(pong + frame)
            deadline = Deadline(self._clock, self._send_timeout_s)
            while rest:
                try:
                    sent = self._sock.send(rest)
                except (BlockingIOError, ssl.SSLWantWriteError):
                    self._wait_to_send(select.POLLOUT, deadline)
                except ssl.SSLWantReadError:
                    self._wait_to_send(select.POLLIN, deadline)
                except OSError as error:
                    raise self._lose(LossReason.ERROR, error.strerror or str(error)) from error
                else:
                    self.bytes_sent += sent
                    rest = rest[sent:]

    def _wait_to_send(self, events: int, deadline: Deadline) -> None:
        poll = select.poll()  # `_poll` would also return for a wake, which is the next receive's
        poll.register(self._sock, events)
        if not poll.poll(deadline.remaining() * 1000):
            raise self._lose(LossReason.SEND_TIMEOUT, f"nothing was read for {self._send_timeout_s:g} s")

    def _release(self) -> None:
        with self._wake_guard:
            if self._wake_fd < 0:
                return
            os.close(self._wake_fd)
            self._wake_fd = -1
        reason = self._lost[0] if self._lost else LossReason.LOCAL
        if reason in (LossReason.LOCAL, LossReason.CLOSED, LossReason.PROTOCOL, LossReason.TOO_LARGE):
            code = _CLOSE_CODES.get(reason, 1000)
            with contextlib.suppress(OSError):
                self._sock.send(self._pong + _frame(ABNF.OPCODE_CLOSE, code.to_bytes(2, "big")))
        self._sock.close()


def _frame(opcode: int, payload: bytes) -> bytes:
    frame: bytes = ABNF.create_frame(payload, opcode).format()
    return frame
