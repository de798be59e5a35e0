"""What the fake Pub/Sub has taken: kept raw, read only when asked for."""

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fakes import wire
from tests.oracle.delivery import Delivered

_HEADER = struct.Struct("<dI")


@dataclass(frozen=True, slots=True)
class Batch:
    """One Publish request as it came in, and when (Unix seconds)."""

    arrived_at: float
    raw: bytes

    def messages(self) -> list[wire.Message]:
        """Its messages, parsed now."""
        return [wire.message(raw) for raw in wire.publish_request(self.raw)[1]]

    def deliveries(self) -> Iterator[Delivered]:
        """Its messages for the ledger."""
        for message in self.messages():
            yield Delivered(message.data, message.attributes, self.arrived_at)


class Recorder:
    """Keeps batches in memory, in a file, or only their number; thread-safe."""

    def __init__(self, *, count_only: bool = False, path: Path | None = None) -> None:
        self.messages = 0
        self._batches: list[Batch] = []
        self._keep = not count_only and path is None
        self._file = None if path is None else path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def add(self, batch: Batch, messages: int) -> None:
        """Note a batch of so many messages; a file has it when this returns."""
        with self._lock:
            self.messages += messages
            if self._keep:
                self._batches.append(batch)
            elif self._file is not None:
                self._file.write(_HEADER.pack(batch.arrived_at, len(batch.raw)) + batch.raw)

    def batches(self) -> list[Batch]:
        """What is kept in memory."""
        with self._lock:
            return list(self._batches)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class RecordReader:
    """Reads a file that a `Recorder` writes, each batch once; an unfinished last one is left for the next time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def batches(self) -> Iterator[Batch]:
        """Return what has come since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            while len(header := file.read(_HEADER.size)) == _HEADER.size:
                arrived_at, length = _HEADER.unpack(header)
                raw = file.read(length)
                if len(raw) < length:
                    return
                self._at = file.tell()
                yield Batch(arrived_at, raw)


def read_record(path: Path) -> list[Batch]:
    """The batches in a file that a `Recorder` writes or wrote; an unfinished last one is left out."""
    return list(RecordReader(path).batches())
