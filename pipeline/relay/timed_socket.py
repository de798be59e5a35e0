"""Reads and writes that block no longer than an `AttemptDeadline` allows, and take no more than a budget."""

import io
import select
import socket
import ssl
from typing import TYPE_CHECKING

from pipeline.relay.deadline import AttemptDeadline
from pipeline.relay.errors import DialError, DialReason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# One system call for the usual response head.
READ_AHEAD_BYTES = 4096


def wait_for(sock: socket.socket, events: int, attempt: AttemptDeadline, doing: str) -> None:
    """Return once `sock` is ready for `events` of poll(2); raises `DialError` when the attempt is over first."""
    poll = select.poll()
    poll.register(sock, events)
    while not poll.poll(attempt.wait_s(doing) * 1000):
        pass


class TimedSocket:
    """A non-blocking socket as code written for blocking ones wants it; the socket stays its owner's to close.

    At most `budget` bytes are handed out. Whatever goes wrong is a `DialError`: TIMEOUT, CANCELLED, TOO_LARGE, or
    `reason` for an error of the socket itself. `doing` is the step's name in those errors.
    """

    def __init__(
        self,
        sock: socket.socket,
        attempt: AttemptDeadline,
        *,
        reason: DialReason,
        doing: str,
        budget: int,
        read_ahead: int = READ_AHEAD_BYTES,
    ) -> None:
        self._sock = sock
        self._attempt = attempt
        self._reason = reason
        self._doing = doing
        self._budget = budget
        self._read_ahead = read_ahead
        self._ahead = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        """From 1 to `size` bytes; b"" at the end of the stream."""
        if self._at == len(self._ahead):
            self._ahead, self._at = self._receive(max(size, self._read_ahead)), 0
        data = self._ahead[self._at : self._at + size]
        self._at += len(data)
        self._budget -= len(data)
        if self._budget < 0:
            raise DialError(DialReason.TOO_LARGE, self._doing)
        return data

    def read_exactly(self, size: int) -> bytes:
        """`size` bytes; a stream that ends before is an error."""
        data = b""
        while len(data) < size:
            part = self.recv(size - len(data))
            if not part:
                raise DialError(self._reason, f"{self._doing}: closed by the other side")
            data += part
        return data

    def read_line(self) -> bytes:
        """Everything up to and with the next line feed; a stream that ends before is an error."""
        line = b""
        while not line.endswith(b"\n"):
            part = self.recv(1)
            if not part:
                raise DialError(self._reason, f"{self._doing}: closed by the other side")
            line += part
        return line

    def send(self, data: bytes) -> int:
        """Send all of `data`; returns its length."""
        self._attempt.check(self._doing)
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                wait_for(self._sock, select.POLLOUT, self._attempt, self._doing)
            except ssl.SSLWantReadError:
                wait_for(self._sock, select.POLLIN, self._attempt, self._doing)
            except OSError as error:
                raise self._failure(error) from error
        return len(data)

    sendall = send

    def leftover(self) -> bytes:
        """The bytes that were read ahead and not handed out."""
        return self._ahead[self._at :]

    def gettimeout(self) -> None:
        """None, as for a socket that blocks."""
        return

    def makefile(self, mode: str) -> io.BufferedReader:
        """What `http.client` reads its response from; `mode` is "rb"."""
        assert mode == "rb"
        return io.BufferedReader(_RawReader(self))

    def close(self) -> None:
        """Do nothing: the socket has another owner."""

    def _receive(self, size: int) -> bytes:
        while True:
            events = select.POLLIN
            try:
                return self._sock.recv(size)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            except OSError as error:
                raise self._failure(error) from error
            wait_for(self._sock, events, self._attempt, self._doing)

    def _failure(self, error: OSError) -> DialError:
        return DialError(self._reason, f"{self._doing}: {error.strerror or error}")


class _RawReader(io.RawIOBase):
    """A `TimedSocket` as the unbuffered side of a file."""

    def __init__(self, stream: TimedSocket) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        data = self._stream.recv(len(view))
        view[: len(data)] = data
        return len(data)
