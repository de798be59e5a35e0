"""What a loss of power leaves of a database in WAL mode with `synchronous=NORMAL`.

Commits are written to the log without being synced; a checkpoint syncs the log before it copies from it, and notes in
the shared memory how many frames it means to copy. Any of the frames after those may be lost. What a checkpoint writes
to the database's own file is synced at its end; until then any sector of it may be as it was before.
"""

import random
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.tools.chaos.hooks.disk import RECORD

_WAL_HEADER = 32
_FRAME_HEADER = 24
_PAGE_SIZE_AT = 8
_SECTOR = 512
# WalIndexHdr.mxFrame and WalCkptInfo.nBackfillAttempted in the first page of the -shm file, in native order.
_LAST_FRAME_AT = 16
_BACKFILL_ATTEMPTED_AT = 128


@dataclass(frozen=True, slots=True)
class LogState:
    """How many frames the log has, and how many of them are certainly on the disk."""

    frames: int
    synced: int

    @classmethod
    def read(cls, database: Path) -> "LogState":
        """Read it while everybody stands still or is dead, before the log is recovered."""
        shm = _beside(database, "-shm").read_bytes()
        (frames,) = struct.unpack_from("=I", shm, _LAST_FRAME_AT)
        (synced,) = struct.unpack_from("=I", shm, _BACKFILL_ATTEMPTED_AT)
        return cls(frames, min(synced, frames))


@dataclass(frozen=True, slots=True)
class Lost:
    """Frames of the log, and sectors of the database's own file, that are as if they had never been written."""

    frames: int
    sectors: int


def lose_power(database: Path, state: LogState, unsynced: Path, rng: random.Random) -> Lost:
    """Take back some of what is not synced, in any order, as nobody has the database open."""
    lost = Lost(_lose_frames(database, state, rng), _lose_sectors(database, unsynced, rng))
    _beside(database, "-shm").unlink()
    return lost


def _lose_frames(database: Path, state: LogState, rng: random.Random) -> int:
    wal = _beside(database, "-wal")
    (page_size,) = struct.unpack_from(">I", wal.read_bytes()[:_WAL_HEADER], _PAGE_SIZE_AT)
    frame = _FRAME_HEADER + page_size
    kept = rng.randint(state.synced, state.frames)
    with wal.open("r+b") as file:
        if rng.random() < 0.5:
            file.truncate(_WAL_HEADER + kept * frame)
            # The next write was under way: garbage, which the checksums must tell.
            file.seek(0, 2)
            file.write(rng.randbytes(rng.randint(0, page_size)))
        else:
            # The first to be lost leaves a hole, and of those behind it any may have come to the disk.
            for number in range(kept, state.frames):
                if number == kept or rng.random() < 0.3:
                    file.seek(_WAL_HEADER + number * frame + rng.randrange(0, frame // _SECTOR) * _SECTOR)
                    file.write(bytes(_SECTOR))
    return state.frames - kept


def _lose_sectors(database: Path, unsynced: Path, rng: random.Random) -> int:
    """Undo the newest writes first, each sector of them or not; what follows an undone write is undone as well."""
    noted = unsynced.read_bytes()
    writes: list[tuple[int, bytes, int]] = []
    at = 0
    while at + RECORD.size <= len(noted):
        offset, there, length = RECORD.unpack_from(noted, at)
        writes.append((offset, noted[at + RECORD.size : at + RECORD.size + there], length))
        at += RECORD.size + there
    lost = 0
    kept: set[int] = set()
    with database.open("r+b") as file:
        for offset, before, length in reversed(writes):
            content = before.ljust(length, b"\0")
            for begin in range(0, length, _SECTOR):
                if offset + begin in kept or rng.random() < 0.5:
                    kept.add(offset + begin)
                    continue
                file.seek(offset + begin)
                file.write(content[begin : begin + _SECTOR])
                lost += 1
    unsynced.write_bytes(b"")
    return lost


def _beside(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)
