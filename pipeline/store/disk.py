"""How much room a database takes, and how much is left for it.

What is done as it comes to use more than `EVENTS_MAX_DATABASE_BYTES`, so that it never uses much more than a quarter
beyond:

| in use | what makes room |
|---|---|
| more than the bound | payloads go as soon as they are delivered |
| an eighth more | events of strangers are dropped; the fuller it is, the sooner ids and outcomes are forgotten |
| a quarter more | relays are not read until there is room; nothing that is not delivered is lost |
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.database import Tx
from pipeline.store.database_file import wal_bytes

# Free pages are used again before the file grows.
USED = """
SELECT (page_count - freelist_count) * page_size FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()
"""


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


def has_room_for_strangers(tx: Tx, most: int) -> bool:
    """Return True if events of strangers may be saved in a database that is to use `most` bytes (0: any number).

    Beyond the bound payloads make room first, which takes some time.
    """
    return pressure(tx, most) <= 0


def is_full(tx: Tx, most: int) -> bool:
    """Return True if nothing more may come into a database that is to use `most` bytes (0: any number)."""
    return pressure(tx, most) >= 1


def pressure(tx: Tx, most: int) -> float:
    """Return how much has to be done about the use of a database: 0 up to an eighth more than `most`, 1 at a quarter.

    Less than 0 and more than 1 are cut off.
    """
    if not most:
        return 0.0
    return min(1.0, max(0.0, 8 * (used_bytes(tx) / most - 1) - 1))


def used_bytes(tx: Tx) -> int:
    """Return the bytes of the database that hold anything."""
    return int(tx.execute(USED).get)
