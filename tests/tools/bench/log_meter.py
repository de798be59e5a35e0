"""How much is written to the write-ahead log of a database that others use, counted in frames."""

import struct
import threading
from pathlib import Path
from typing import Self

from tests.fakes.net import pause

# Frames written between the last look and a restart of the log are not counted.
_LOOK_EVERY_S = 0.05
# The size of a page and the number of the log's restarts, in the header of the log, big-endian.
_PAGE_SIZE_AT = 8
_RESTARTS_AT = 12
_FRAME_HEADER = 24
# WalIndexHdr.mxFrame at the beginning of the -shm file, in native order.
_LAST_FRAME_AT = 16


class LogMeter:
    """Counts from `with` on, in a thread of its own."""

    def __init__(self, database: Path) -> None:
        self._log = database.with_name(database.name + "-wal")
        self._index = database.with_name(database.name + "-shm")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-meter", daemon=True)
        self._lock = threading.Lock()
        self._bytes = 0
        self._restarts = self._frames = 0

    def __enter__(self) -> Self:
        self._look()
        self._bytes = 0
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def bytes(self) -> int:
        """Return the bytes written by now."""
        self._look()
        return self._bytes

    def _run(self) -> None:
        while not self._stop.is_set():
            self._look()
            pause(_LOOK_EVERY_S)

    def _look(self) -> None:
        with self._lock:
            try:
                header, index = _begin_of(self._log), _begin_of(self._index)
            except FileNotFoundError:
                return
            if len(header) < _RESTARTS_AT + 4 or len(index) < _LAST_FRAME_AT + 4:
                return
            page_size, restarts = struct.unpack_from(">II", header, _PAGE_SIZE_AT)
            (frames,) = struct.unpack_from("=I", index, _LAST_FRAME_AT)
            before = self._frames if restarts == self._restarts and frames >= self._frames else 0
            self._bytes += (frames - before) * (page_size + _FRAME_HEADER)
            self._restarts, self._frames = restarts, frames


def _begin_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)
