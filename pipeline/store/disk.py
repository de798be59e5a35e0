"""How much room a database takes, and how much is left for it."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.database import wal_bytes


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes of the database file and its write-ahead log, those that are free on its disk, and the size of that."""

    database: int
    wal: int
    free: int
    size: int


def disk_use(path: Path) -> DiskUse:
    """Of the database at `path`, which need not be there; its folder must."""
    disk = os.statvfs(path.parent)
    database = path.stat().st_size if path.exists() else 0
    return DiskUse(database, wal_bytes(path), disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
