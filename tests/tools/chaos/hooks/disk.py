"""A disk that may stop to take writes, and that remembers what a loss of power would take back.

Writes to the database's own file are made by checkpoints alone. Each is noted with what stood there before, until the
file is synced; `tests.tools.chaos.power` undoes what was not. (What of the log is synced the shared memory tells.)
"""

import mmap
import os
import signal
import struct
from pathlib import Path
from typing import Any

import apsw

from . import disk_in, points_in, unsynced_in

NAME = "chaos"
CHECKPOINT = "checkpoint"
"""The point of whoever checkpoints; its file holds how many more pages are to be written first."""
_BASE = "unix"
RECORD = struct.Struct("=QII")
"""Before each content that was overwritten: offset, its length, and the length of what was written."""


class _Disk(apsw.VFS):
    def __init__(self, folder: Path) -> None:
        super().__init__(NAME, _BASE, makedefault=True)
        self._folder = folder
        with disk_in(folder).open("rb") as file:
            self._stuck = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)

    @property
    def is_stuck(self) -> bool:
        return self._stuck[0] != 0

    def xOpen(self, name: Any, flags: list[int]) -> "apsw.VFSFile":  # noqa: N802  (apsw's name)
        if self.is_stuck and flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            flags[0] = flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
        if flags[0] & (apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_WAL):
            return _File(name, flags, self, self._folder)
        return apsw.VFSFile(_BASE, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], disk: _Disk, folder: Path) -> None:
        super().__init__(_BASE, name, flags)
        self._disk = disk
        self._is_main = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)
        self._unsynced = unsynced_in(folder)
        self._point = points_in(folder) / CHECKPOINT
        self._pages_left: int | None = None

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._disk.is_stuck:
            raise apsw.IOError("the disk takes no writes")
        if self._is_main:
            self._stand_still_if_asked()
            self._remember(offset, len(data))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._disk.is_stuck:
            raise apsw.IOError("the disk takes no writes")
        super().xSync(flags)
        if self._is_main:
            os.truncate(self._unsynced, 0)

    def _remember(self, offset: int, length: int) -> None:
        there = max(0, min(length, self.xFileSize() - offset))
        before = super().xRead(there, offset) if there else b""
        with self._unsynced.open("ab") as file:
            file.write(RECORD.pack(offset, len(before), length) + before)

    def _stand_still_if_asked(self) -> None:
        if self._pages_left is None:
            try:
                self._pages_left = int(self._point.read_text())
            except (OSError, ValueError):
                return
        self._pages_left -= 1
        if self._pages_left >= 0:
            return
        self._pages_left = None
        try:
            self._point.rename(self._point.with_name(f"{os.getpid()}.stopped"))
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGSTOP)


def install(folder: Path) -> None:
    """Let every database of this process lie on such a disk."""
    global _disk  # noqa: PLW0603  (must outlive all connections)
    _disk = _Disk(folder)


_disk: _Disk | None = None
