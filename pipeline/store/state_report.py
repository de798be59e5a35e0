"""What a crawling host says of itself to home: counts, gaps, sweeps under way, drops, progress of backfills.

Relays are named by address, since their numbers differ from host to host. Each list is bounded, so that what is said is
small whatever strangers do.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pipeline.store.database import Row, Tx

MAX_TALLIES: Final = 2_000
MAX_GAPS: Final = 10_000
MAX_SWEEPS: Final = 10_000
MAX_RELAYS: Final = 5_000
MAX_DROPS: Final = 500
MAX_PROGRESS: Final = 10_000
"""Rows of each list. Of drops the newest: they answer who asks what became of an event."""

ADD_ORIGIN = "INSERT OR IGNORE INTO state_origin (only_row, origin) VALUES (1, ?)"
ORIGIN = "SELECT origin FROM state_origin"
COUNTS = "SELECT slot, what, reason, count FROM tallies ORDER BY slot, what, reason LIMIT ?"
CRAWLED = "SELECT id, address FROM relays WHERE crawled_since IS NOT NULL AND source = 'hub' ORDER BY id LIMIT ?"
GAPS = "SELECT relay, form, reason, since, until, opened_at FROM gaps ORDER BY opened_at DESC LIMIT ?"
SWEEPS = "SELECT relay, sweep, since, until, started, generation FROM sweeps LIMIT ?"
BROUGHT = """
SELECT address, novel, novel_at FROM relays WHERE crawled_since IS NOT NULL AND source = 'hub' AND novel > 0
 ORDER BY novel DESC LIMIT ?
"""
DROPS = """
SELECT seq, event_id, reason, coalesce(relays.address, ''), at FROM drops LEFT JOIN relays ON relays.id = drops.relay
 ORDER BY seq DESC LIMIT ?
"""
PROGRESS = """
SELECT job, created_at, address, parts, done, incomplete, events, is_over
  FROM backfill_relays JOIN backfills ON backfills.id = job JOIN relays ON relays.id = relay
 ORDER BY job, address LIMIT ?
"""
ANY_ROW_UP_TO = "SELECT 1 FROM inbox WHERE seq <= ? LIMIT 1"
LAST_PARCEL = "SELECT coalesce(max(last), 0) FROM hub_stream"


class BackfillRow(NamedTuple):
    """How far a relay is with a job that home ordered at `created_at` (ms)."""

    job: int
    created_at: int
    address: str
    parts: int
    done: int
    incomplete: int
    events: int
    is_over: int


def origin(tx: Tx) -> str:
    """Return the name under which this database counts, which a new one does not share; written once."""
    tx.execute(ADD_ORIGIN, (new_name(),))
    return str(tx.execute(ORIGIN).get)


def new_name() -> str:
    """Return a name that nothing else has."""
    return secrets.token_hex(8)


def counts(tx: Tx) -> list[list[Any]]:
    """Return slot, kind, reason and number of what each process has counted."""
    return [list(row) for row in tx.execute(COUNTS, (MAX_TALLIES,))]


def relays(tx: Tx) -> dict[str, list[Any]]:
    """Return which relays are crawled here, and their gaps, sweeps under way and events that they brought first."""
    crawled = {int(row[0]): str(row[1]) for row in tx.execute(CRAWLED, (MAX_RELAYS,))}
    return {
        "crawled": list(crawled.values()),
        "gaps": _named(tx.execute(GAPS, (MAX_GAPS,)).fetchall(), crawled),
        "sweeps": _named(tx.execute(SWEEPS, (MAX_SWEEPS,)).fetchall(), crawled),
        "brought": [list(row) for row in tx.execute(BROUGHT, (MAX_RELAYS,))],
    }


def drops(tx: Tx) -> list[list[Any]]:
    """Return the newest drops, the oldest first: number, id in hexadecimal, reason, relay, time (ms)."""
    rows: list[Row] = tx.execute(DROPS, (MAX_DROPS,)).fetchall()
    return [[seq, event_id.hex(), reason, address, at] for seq, event_id, reason, address, at in reversed(rows)]


def progress(tx: Tx) -> list[BackfillRow]:
    """Return how far each relay is with each job."""
    return [BackfillRow(*row) for row in tx.execute(PROGRESS, (MAX_PROGRESS,))]


def is_packed(tx: Tx, row: int) -> bool:
    """Return True if no row up to this number waits in the inbox."""
    return tx.execute(ANY_ROW_UP_TO, (row,)).fetchone() is None


def last_parcel(tx: Tx) -> int:
    """Return the number of the newest parcel of the stream."""
    return int(tx.execute(LAST_PARCEL).get)


def _named(rows: list[Row], crawled: Mapping[int, str]) -> list[list[Any]]:
    return [[crawled[relay], *columns] for relay, *columns in rows if relay in crawled]
