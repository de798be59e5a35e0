"""Runs of each crawler process, so that the next one knows what the database must have lost.

Commits since the last checkpoint are lost with the power, and those since a backup with its restoration. Cursors and
events of one commit go together; but what a live subscription brought out of its dated order is behind a cursor that
was committed earlier, and no tail sweep asks for it again. Hence a resweep, from `Doubt.since` on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.store.database import Tx
from pipeline.store.database_file import TABLES

RUNS = "SELECT slot, boot, file, clock, since, alive_at, is_clean FROM runs"
FORGET = "DELETE FROM runs WHERE slot = ?"
PUT = """
INSERT INTO runs (slot, boot, file, clock, since, alive_at, is_clean) VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0)
ON CONFLICT (slot) DO UPDATE SET boot = ?2, file = ?3, alive_at = ?5, is_clean = 0,
  since = iif(abs(clock - ?4) > ?6 OR boot <> ?2 OR file <> ?3, ?5, since), clock = ?4
"""
END = "UPDATE runs SET is_clean = 1, alive_at = ? WHERE slot = ?"
MARK_COPIED = "UPDATE runs SET file = 0"
DOUBT = "SELECT since, noticed_at FROM doubts"
PUT_DOUBT = "INSERT OR REPLACE INTO doubts (only_row, since, noticed_at) VALUES (1, ?, ?)"
# Relays first crawled by a clock that was behind, while events came that it took to be of the future.
FUTURE_DROPPED = "SELECT 1 FROM drops WHERE reason = 'future' AND at BETWEEN ? AND ? LIMIT 1"
FIRST_CRAWLED = "SELECT id FROM relays WHERE crawled_since BETWEEN ? AND ?"
CRAWL_FROM_NOW = "UPDATE relays SET crawled_since = ? WHERE id = ?"
FORGET_CURSORS = "DELETE FROM cursors WHERE relay = ?"
FORGET_SWEEPS = "DELETE FROM sweeps WHERE relay = ?"

CLOCK_JUMP_MS: Final = 60_000
"""A wall clock that differs by more from what it should be was set."""
ALIVE_EVERY_MS: Final = 60_000
"""How often `begin` is repeated by a process that lives on."""
_KEPT_MS: Final = 86_400_000
"""For this time the span of a doubt is added to that of a later one."""


@dataclass(frozen=True, slots=True)
class Run:
    """One process of `slot` on one boot of one machine, on the file with inode `file`.

    `boot` is empty if it is not known. `clock`: the wall-clock time (ms) of the boot by the clock as it is set
    now; on one boot it changes only when the clock is set.
    """

    slot: str
    boot: str
    file: int
    clock: int


class Doubt(NamedTuple):
    """Commits since `since` (ms) may be lost; that was noticed at `noticed_at` (ms)."""

    since: int
    noticed_at: int


class _Row(NamedTuple):
    slot: str
    boot: str
    file: int
    clock: int
    since: int
    alive_at: int
    is_clean: int


def begin(tx: Tx, run: Run, now: int) -> Doubt | None:
    """Note that `run` begins, or lives on; return what is to be doubted since the run before, if that is new."""
    rows = [_Row(*row) for row in tx.execute(RUNS)]
    unclean = [row for row in rows if row.file != run.file or (not row.is_clean and _may_be_other_boot(row, run, now))]
    doubt = None
    if unclean:
        doubt = begin_doubt(tx, min(row.alive_at for row in unclean), now)
    others = [row for row in rows if row.file != run.file or _may_be_other_boot(row, run, now)]
    tx.executemany(FORGET, ((row.slot,) for row in others))
    tx.execute(PUT, (run.slot, run.boot, run.file, run.clock, now, CLOCK_JUMP_MS))
    return doubt


def end(tx: Tx, slot: str, now: int) -> None:
    """Note that the process of `slot` ends in good order. The transaction must be synced to the disk."""
    tx.execute(END, (now, slot))


def last_doubt(tx: Tx) -> Doubt | None:
    """Return the newest doubt; its `noticed_at` tells which resweeps have dispelled it."""
    row = tx.execute(DOUBT).fetchone()
    return None if row is None else Doubt(*row)


def begin_doubt(tx: Tx, since: int, now: int) -> Doubt:
    """Doubt commits since then (ms), and since a doubt of the last day; return the doubt."""
    before = last_doubt(tx)
    if before is not None and now - before.noticed_at < _KEPT_MS:
        since = min(since, before.since)
    doubt = Doubt(min(since, now), now)
    tx.execute(PUT_DOUBT, doubt)
    return doubt


def correct_first_crawls(tx: Tx, run: Run, now: int) -> int:
    """Let relays begin now that were first crawled by a clock that was behind; return how many. Call before `begin`.

    Their cursors would otherwise be taken for an absence as long as the clock was behind. Such a clock is told by a
    different time of the same boot and by events that it took to be of the future; only both together are proof.
    """
    behind = [
        row for row in (_Row(*row) for row in tx.execute(RUNS))
        if row.file == run.file and _may_be_same_boot(row, run, now) and run.clock - row.clock > CLOCK_JUMP_MS
    ]  # fmt: skip
    corrected: set[int] = set()
    for row in behind:
        span = (row.since, row.alive_at + 2 * ALIVE_EVERY_MS)
        if tx.execute(FUTURE_DROPPED, span).fetchone() is not None:
            corrected |= {relay for (relay,) in tx.execute(FIRST_CRAWLED, span)}
    _crawl_from_now(tx, sorted(corrected), now)
    return len(corrected)


def _may_be_other_boot(row: _Row, run: Run, now: int) -> bool:
    if row.boot or run.boot:
        return row.boot != run.boot
    return not _may_be_same_boot(row, run, now) or abs(run.clock - row.clock) > CLOCK_JUMP_MS


def _may_be_same_boot(row: _Row, run: Run, now: int) -> bool:
    """Return True unless the machine is up for a shorter time than it was."""
    if row.boot or run.boot:
        return row.boot == run.boot
    return now - run.clock >= row.alive_at - row.clock - CLOCK_JUMP_MS


def _crawl_from_now(tx: Tx, numbers: Sequence[int], now: int) -> None:
    tx.executemany(CRAWL_FROM_NOW, ((now, relay) for relay in numbers))
    for statement in (FORGET_CURSORS, FORGET_SWEEPS):
        tx.executemany(statement, ((relay,) for relay in numbers))


def mark_copied(tx: Tx) -> None:
    """Mark this copy of a database as one, for its next start; one of an older schema is left as it is."""
    if ("runs",) in tx.execute(TABLES).fetchall():
        tx.execute(MARK_COPIED)
