"""A file or standard output: one plain NIP-01 event per line."""

import contextlib
import errno
import fcntl
import os
import select
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.errors import CannotStart
from pipeline.sinks.base import DELIVERED, Message, SinkDown, Verdict

_MAX_MESSAGES: Final = 500
_MODE: Final = 0o640
# How far back the beginning of a line is looked for; beyond the largest event that the settings allow.
_LONGEST_LINE: Final = 16 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LINE_BEGINS: Final = b'{"id":"'
# A reader of standard output that takes nothing for as long is one that is not there.
_STDOUT_PATIENCE_S: Final = 20.0


class JsonlSink:
    """Appends whole lines to a file, which is opened again when it was moved away. For one thread."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = _open(path)
        except OSError as error:
            raise CannotStart(f"EVENTS_SINK: cannot append to {path}: {error.strerror}") from error

    @property
    def max_messages(self) -> int:
        """See `Sink.max_messages`."""
        return _MAX_MESSAGES

    def deliver(self, messages: Sequence[Message]) -> list[Verdict]:
        """See `Sink.deliver`; the lines are with the operating system when this returns."""
        try:
            self._follow_rotation()
            _append(self._descriptor, _lines(messages))
        except OSError as error:
            advice = "make room on its disk" if error.errno in _FULL else ""
            raise SinkDown(_label(error), f"{self._path}: {error.strerror}", advice) from error
        return [DELIVERED] * len(messages)

    def keep_alive(self) -> None:
        """Close a file that was moved away, so that log rotation need not wait for the next event."""
        # What is wrong with the path is said when there is something to write.
        with contextlib.suppress(OSError):
            self._follow_rotation()

    def close(self) -> None:
        """See `Sink.close`."""
        os.close(self._descriptor)

    def _follow_rotation(self) -> None:
        ours = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
            moved = (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)
        except FileNotFoundError:
            moved = True
        if moved:
            opened = _open(self._path)
            os.close(self._descriptor)
            self._descriptor = opened


class StdoutSink:
    """Sink that writes whole lines to standard output. For one thread."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        # The rest of a line that a reader who stopped reading has the beginning of.
        self._begun = b""

    @property
    def max_messages(self) -> int:
        """See `Sink.max_messages`."""
        return _MAX_MESSAGES

    def deliver(self, messages: Sequence[Message]) -> list[Verdict]:
        """See `Sink.deliver`; a reader that has gone away, or stopped reading, is a sink that is down."""
        data = self._begun + _lines(messages)
        written = 0
        try:
            while written < len(data):
                written += _write_soon(data[written : written + select.PIPE_BUF])
        except OSError as error:
            whole = data.count(b"\n", 0, written) - bool(self._begun)
            if written:
                self._begun = data[written : data.index(b"\n", written - 1) + 1]
            detail = f"standard output: {error.strerror}"
            raise SinkDown(_label(error), detail, verdicts=[DELIVERED] * max(whole, 0)) from error
        self._begun = b""
        return [DELIVERED] * len(messages)

    def keep_alive(self) -> None:
        """See `Sink.keep_alive`."""

    def close(self) -> None:
        """See `Sink.close`."""


def _lines(messages: Sequence[Message]) -> bytes:
    return b"".join(message.payload + b"\n" for message in messages)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)


def _append(descriptor: int, data: bytes) -> None:
    """Append all of `data` or, as far as the file can be cut back, nothing: a full disk must leave no half line."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        size = _finish_last_line(descriptor)
        try:
            _write_all(descriptor, data)
        except OSError:
            # A pipe or device cannot be cut back; what went wrong before is what matters.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _finish_last_line(descriptor: int) -> int:
    """Cut off an unfinished line of a crashed process, which is written again; return where the next line begins."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
        return found.st_size
    try:
        reader = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a file that may be written but not read
        return found.st_size
    try:
        if os.pread(reader, 1, found.st_size - 1) == b"\n":
            return found.st_size
        begin = max(0, found.st_size - _LONGEST_LINE)
        tail = os.pread(reader, _LONGEST_LINE, begin)
    finally:
        os.close(reader)
    begin += tail.rfind(b"\n") + 1
    line = tail[tail.rfind(b"\n") + 1 :]
    if line.startswith(_LINE_BEGINS) or _LINE_BEGINS.startswith(line):
        os.ftruncate(descriptor, begin)
        return begin
    # Not ours to take back.
    _write_all(descriptor, b"\n")
    return found.st_size + 1


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_soon(data: bytes) -> int:
    """Write some of at most `PIPE_BUF` bytes to standard output, whose reader may take its time but not for ever."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    if not poll.poll(_STDOUT_PATIENCE_S * 1000):
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return os.write(1, data)


def _label(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "EIO")
