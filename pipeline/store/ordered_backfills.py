"""Backfill jobs between hosts: those that are open at home, and the same as a crawling host has them from home.

A crawling host gives jobs home's numbers. What it has of a job is for the relays that it holds; a relay that leaves
takes its row along, and its next holder begins with the hub's cursors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pipeline.store import backfills
from pipeline.store.backfills import BackfillProgress
from pipeline.store.database import Tx

OPEN = """
SELECT job, since, until, authors, created_at, address
  FROM backfills JOIN backfill_relays ON job = backfills.id JOIN relays ON relays.id = relay
 WHERE cancelled_at IS NULL AND NOT is_over ORDER BY job, address
"""
HELD = """
SELECT backfills.id, created_at, address FROM backfills LEFT JOIN backfill_relays ON job = backfills.id
  LEFT JOIN relays ON relays.id = backfill_relays.relay
"""
ADD = "INSERT INTO backfills (id, since, until, authors, created_at) VALUES (?, ?, ?, ?, ?)"
ADD_RELAY = """
INSERT INTO backfill_relays (job, relay) SELECT ?1, id FROM relays WHERE address = ?2 ON CONFLICT DO NOTHING
"""
REMOVE = ("DELETE FROM backfills WHERE id = ?", "DELETE FROM backfill_relays WHERE job = ?")
REMOVE_RELAY = "DELETE FROM backfill_relays WHERE job = ?1 AND relay = (SELECT id FROM relays WHERE address = ?2)"
FORGET_PARTS = "DELETE FROM cursors WHERE query >= ?1 AND query < ?2"
# An end that was noted once stays.
OF_HOME = """
SELECT relay FROM backfill_relays JOIN backfills ON backfills.id = job JOIN relays ON relays.id = relay
 WHERE job = ?1 AND created_at = ?2 AND address = ?3 AND NOT is_over
"""


@dataclass(frozen=True, slots=True)
class OrderedJob:
    """A job by home's number, and the relays that are not over with it; see `backfills.Backfill`."""

    job: int
    since: int
    until: int
    authors: bytes
    created_at: int
    relays: tuple[str, ...] = ()


def still_open(tx: Tx) -> list[OrderedJob]:
    """Return the jobs that other hosts are to do."""
    found: dict[int, OrderedJob] = {}
    addresses: dict[int, list[str]] = {}
    for job, since, until, keys, created_at, address in tx.execute(OPEN):
        found[job] = OrderedJob(job, since, until, keys, created_at)
        addresses.setdefault(job, []).append(address)
    return [replace(each, relays=tuple(addresses[job])) for job, each in found.items()]


def held(tx: Tx) -> dict[tuple[int, int], set[str]]:
    """Return by number and time of a job the relays that this host has it for."""
    found: dict[tuple[int, int], set[str]] = {}
    for job, created_at, address in tx.execute(HELD):
        found.setdefault((job, created_at), set()).update(() if address is None else (address,))
    return found


def follow(tx: Tx, wanted: Mapping[tuple[int, int], Iterable[str]], new: Iterable[OrderedJob]) -> None:
    """Have these jobs for these relays and no others; `new`: what those are about that are not held yet."""
    before = held(tx)
    for job, created_at in before.keys() - wanted.keys():
        for statement in REMOVE:
            tx.execute(statement, (job,))
        tx.execute(FORGET_PARTS, (f"backfill:{job}:", f"backfill:{job};"))
        del before[job, created_at]
    for each in new:
        tx.execute(ADD, (each.job, each.since, each.until, each.authors, each.created_at))
    for (job, created_at), addresses in wanted.items():
        there = before.get((job, created_at), set())
        tx.executemany(ADD_RELAY, ((job, address) for address in set(addresses) - there))
        tx.executemany(REMOVE_RELAY, ((job, address) for address in there - set(addresses)))


def note(tx: Tx, job: int, created_at: int, address: str, counts: tuple[int, int, int, int], *, is_over: bool) -> None:
    """Note at home how far another host is with a relay: parts, done, incomplete, events."""
    row = tx.execute(OF_HOME, (job, created_at, address)).fetchone()
    if row is not None:
        backfills.put_progress(tx, [BackfillProgress(job, int(row[0]), *counts, is_over=is_over)])
