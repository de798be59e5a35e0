"""A file or standard output: one plain NIP-01 event per line."""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.errors import CannotStart
from pipeline.sinks.base import DELIVERED, Message, SinkDown, Verdict

_MAX_MESSAGES: Final = 500
_MODE: Final = 0o640


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
            raise SinkDown(_label(error), f"{self._path}: {error.strerror}") from error
        return [DELIVERED] * len(messages)

    def keep_alive(self) -> None:
        """See `Sink.keep_alive`."""

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
    """Writes whole lines to standard output. For one thread."""

    __slots__ = ()

    @property
    def max_messages(self) -> int:
        """See `Sink.max_messages`."""
        return _MAX_MESSAGES

    def deliver(self, messages: Sequence[Message]) -> list[Verdict]:
        """See `Sink.deliver`; a reader that has gone away is a sink that is down."""
        try:
            _write_all(1, _lines(messages))
        except OSError as error:
            raise SinkDown(_label(error), f"standard output: {error.strerror}") from error
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
        size = os.fstat(descriptor).st_size
        try:
            _write_all(descriptor, data)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _label(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "EIO")
