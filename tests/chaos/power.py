"""What a loss of power leaves of a database in WAL mode with `synchronous=NORMAL`.

Commits are written to the log without being synced; a checkpoint syncs the log before it copies from it, and notes in
the shared memory how many frames it means to copy. Frames after those may be lost from some point on.
"""

import random
import struct
from dataclasses import dataclass
from pathlib import Path

_WAL_HEADER = 32
_FRAME_HEADER = 24
_PAGE_SIZE_AT = 8
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


def lose_power(database: Path, state: LogState, rng: random.Random) -> int:
    """Cut the log somewhere behind what is synced, as nobody has the database open; returns the frames lost."""
    wal = _beside(database, "-wal")
    (page_size,) = struct.unpack_from(">I", wal.read_bytes()[:_WAL_HEADER], _PAGE_SIZE_AT)
    kept = rng.randint(state.synced, state.frames)
    with wal.open("r+b") as file:
        file.truncate(_WAL_HEADER + kept * (_FRAME_HEADER + page_size))
        # The next write was under way: garbage, which the checksums must tell.
        file.seek(0, 2)
        file.write(rng.randbytes(rng.randint(0, page_size)))
    _beside(database, "-shm").unlink()
    return state.frames - kept


def _beside(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)
