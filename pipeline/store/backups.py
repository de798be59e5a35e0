"""The newest backup of this database: when it was made, and what it has of what the hub keeps for this host."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.store.database import Row, Tx
from pipeline.store.database_file import TABLES

NEWEST = "SELECT at, user_acts FROM backups"
POSITIONS = "SELECT stream, number FROM backup_positions"
TAKEN = "SELECT stream, number FROM hub_positions"
USER_ACTS = "SELECT coalesce(max(number), 0) FROM user_act_position"
PUT = "REPLACE INTO backups (only_row, at, user_acts) VALUES (1, ?, ?)"
FORGET_POSITIONS = "DELETE FROM backup_positions"
PUT_POSITION = "INSERT INTO backup_positions (stream, number) VALUES (?, ?)"


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup made at `at` (ms) has: by stream the number of its last parcel, and the number of the last act."""

    at: int
    user_acts: int
    positions: Mapping[str, int]


def newest(tx: Tx) -> BackedUp | None:
    """Return the newest backup that is known of; None if there is none, or in a database of an older schema."""
    if not _can_note(tx):
        return None
    row = tx.execute(NEWEST).fetchone()
    return None if row is None else BackedUp(int(row[0]), int(row[1]), _numbers(tx, POSITIONS))


def held(tx: Tx, now: int) -> BackedUp | None:
    """Return what a copy made now has; None for a database of an older schema."""
    if not _can_note(tx):
        return None
    return BackedUp(now, int(tx.execute(USER_ACTS).get), _numbers(tx, TAKEN))


def note(tx: Tx, backup: BackedUp) -> None:
    """Note that this backup is complete; written into the copy, too, which is one."""
    tx.execute(PUT, (backup.at, backup.user_acts))
    tx.execute(FORGET_POSITIONS)
    tx.executemany(PUT_POSITION, backup.positions.items())


def _numbers(tx: Tx, statement: str) -> dict[str, int]:
    rows: list[Row] = tx.execute(statement).fetchall()
    return {str(stream): int(number) for stream, number in rows}


def _can_note(tx: Tx) -> bool:
    return ("backups",) in tx.execute(TABLES).fetchall()
