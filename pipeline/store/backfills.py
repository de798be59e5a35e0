"""Backfills by hand: spans of the past that an operator wants fetched, and how far each relay is with them.

A command writes a job and which relays take part; crawlers do it and note how far they are; what is done of a job is in
`cursors`, moved like any other. Times of a job are Unix seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.store.database import Tx

KEY_BYTES = 32

ADD = "INSERT INTO backfills (since, until, authors, created_at) VALUES (?, ?, ?, ?) RETURNING id"
ADD_RELAY = "INSERT INTO backfill_relays (job, relay) VALUES (?, ?)"
ALL = "SELECT id, since, until, authors, created_at, cancelled_at IS NOT NULL FROM backfills ORDER BY id"
OPEN = """
SELECT id, since, until, authors, created_at, relay
  FROM backfills JOIN backfill_relays ON job = id WHERE cancelled_at IS NULL AND NOT is_over ORDER BY id, relay
"""
CANCEL = "UPDATE backfills SET cancelled_at = ? WHERE id = ? AND cancelled_at IS NULL RETURNING id"
PUT_PROGRESS = """
UPDATE backfill_relays SET parts = ?3, done = ?4, incomplete = ?5, events = ?6, is_over = ?7
 WHERE job = ?1 AND relay = ?2
"""
PROGRESS = """
SELECT job, relay, parts, done, incomplete, events, is_over FROM backfill_relays WHERE job = ? ORDER BY relay
"""
FORGET_PARTS = "DELETE FROM cursors WHERE relay = ?1 AND query >= ?2 AND query < ?3"
CONNECTED = "SELECT id, address FROM relays WHERE state IN ('connected', 'backpressured') ORDER BY id"
# Events of that time that were not known when the job was written.
NEW = "SELECT count(*) FROM seen WHERE created_at BETWEEN ?1 AND ?2 AND seen_at >= ?3"
NEW_BY = "SELECT count(*) FROM seen WHERE created_at BETWEEN ?1 AND ?2 AND seen_at >= ?3 AND author = ?4"


@dataclass(frozen=True, slots=True)
class Backfill:
    """A job: everything wanted from `since` to `until`, both included, or only what `authors` (32 bytes each) wrote.

    `created_at` is in ms.
    """

    job: int
    since: int
    until: int
    authors: tuple[bytes, ...]
    created_at: int
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """How far a relay is: of `parts` requests (0: not begun) `done`, of which `incomplete` could not be had whole.

    `events` counts what the relay returned, known or not, wanted or not.
    """

    job: int
    relay: int
    parts: int = 0
    done: int = 0
    incomplete: int = 0
    events: int = 0
    is_over: bool = False


def add(tx: Tx, since: int, until: int, authors: Iterable[bytes], relays: Iterable[int], now: int) -> int:
    """Write a job for these relays; return its number."""
    job = int(tx.execute(ADD, (since, until, b"".join(authors), now)).get)
    tx.executemany(ADD_RELAY, ((job, relay) for relay in relays))
    return job


def every(tx: Tx) -> list[Backfill]:
    """Return all jobs, the oldest first."""
    return [
        Backfill(job, since, until, _keys(keys), at, bool(gone))
        for job, since, until, keys, at, gone in tx.execute(ALL)
    ]


def still_open(tx: Tx) -> dict[int, list[Backfill]]:
    """By relay, the jobs that it has not come to the end of."""
    found: dict[int, list[Backfill]] = {}
    for job, since, until, keys, at, relay in tx.execute(OPEN):
        found.setdefault(relay, []).append(Backfill(job, since, until, _keys(keys), at))
    return found


def cancel(tx: Tx, job: int, now: int) -> bool:
    """End a job; return True if there was one to be ended."""
    return tx.execute(CANCEL, (now, job)).fetchone() is not None


def put_progress(tx: Tx, progress: Iterable[BackfillProgress]) -> None:
    """Note how far relays are; of a relay that is over with a job nothing more is remembered in `cursors`."""
    for each in progress:
        counts = (each.parts, each.done, each.incomplete, each.events, each.is_over)
        tx.execute(PUT_PROGRESS, (each.job, each.relay, *counts))
        if each.is_over:
            tx.execute(FORGET_PARTS, (each.relay, f"backfill:{each.job}:", f"backfill:{each.job};"))


def progress(tx: Tx, job: int) -> list[BackfillProgress]:
    """How far each relay is with a job."""
    return [
        BackfillProgress(job, relay, parts, done, incomplete, events, bool(is_over))
        for _, relay, parts, done, incomplete, events, is_over in tx.execute(PROGRESS, (job,))
    ]


def connected(tx: Tx) -> dict[int, str]:
    """Return the relays that crawlers are connected to, and their addresses."""
    return {int(relay): str(address) for relay, address in tx.execute(CONNECTED)}


def count_new(tx: Tx, job: Backfill, authors: Iterable[int]) -> int:
    """Return how many events of the job's time, by `authors` if it is about some, came in since it was written."""
    span = (job.since, job.until, job.created_at)
    if not job.authors:
        return int(tx.execute(NEW, span).get)
    return sum(int(tx.execute(NEW_BY, (*span, author)).get) for author in authors)


def _keys(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[first : first + KEY_BYTES] for first in range(0, len(joined), KEY_BYTES))
