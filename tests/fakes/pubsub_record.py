"""What the fake Pub/Sub has taken: kept raw, read only when asked for."""

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fakes import wire
from tests.world.ledger import Delivered

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


def read_record(path: Path) -> list[Batch]:
    """The batches in a file that a `Recorder` writes or wrote; an unfinished last one is left out."""
    raw = path.read_bytes() if path.exists() else b""
    batches = []
    at = 0
    while at + _HEADER.size <= len(raw):
        arrived_at, length = _HEADER.unpack_from(raw, at)
        at += _HEADER.size
        if at + length > len(raw):
            break
        batches.append(Batch(arrived_at, raw[at : at + length]))
        at += length
    return batches
