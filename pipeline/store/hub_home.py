"""Which database this is, for the hub, where one of several hosts is home and others may be copies of it.

A copy has an id of its own: it is told by its file, whose number (inode) is another.
"""

from typing import Final, NamedTuple

from pipeline.store.database import Tx
from pipeline.store.database_file import TABLES

IDENTITY = "SELECT id, file, epoch FROM hub_home"
PUT_IDENTITY = """
INSERT INTO hub_home (only_row, id, file, epoch) VALUES (1, ?1, ?2, 0)
ON CONFLICT (only_row) DO UPDATE SET id = ?1, file = ?2, epoch = 0
"""
PUT_EPOCH = "UPDATE hub_home SET epoch = ? WHERE id = ?"
MARK_COPIED = "UPDATE hub_home SET file = 0"
# What no file has.
_NO_FILE: Final = 0


class HomeIdentity(NamedTuple):
    """Id of a database, and the epoch in which it was home last; 0 if it was not."""

    id: str
    epoch: int


def identity(tx: Tx, file: int) -> HomeIdentity | None:
    """Return the id of the database in the file of this number; None if it has none yet, or has that of another."""
    row = tx.execute(IDENTITY).fetchone()
    return None if row is None or row[1] != file or file == _NO_FILE else HomeIdentity(row[0], row[2])


def put_identity(tx: Tx, new_id: str, file: int) -> None:
    """Let this database have an id of its own."""
    tx.execute(PUT_IDENTITY, (new_id, file))


def put_epoch(tx: Tx, held: HomeIdentity) -> None:
    """Note in which epoch this database is home."""
    tx.execute(PUT_EPOCH, (held.epoch, held.id))


def mark_copied(tx: Tx) -> None:
    """Mark this copy of a database as one; one of an older schema is left as it is."""
    if ("hub_home",) in tx.execute(TABLES).fetchall():
        tx.execute(MARK_COPIED)
