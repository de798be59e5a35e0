"""The outbox: events that are pending for each sink."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.store import sinks
from pipeline.store.database import Row, Tx
from pipeline.store.lease import MAX_LEASE_MS, MAX_WAIT_MS, LeaseQueue, QueueSize, QueueStatements, Receipt
from pipeline.store.sinks import SinkName

APPEND = """
INSERT INTO outbox (event, sink, ready_at, bytes)
VALUES (?1, ?2, ?3, coalesce((SELECT length(payload) FROM payloads WHERE event = ?1), 0))
"""
CLAIM = """
UPDATE outbox SET ready_at = ?3, claims = claims + 1, holder = ?5
 WHERE seq IN (SELECT seq FROM outbox WHERE sink = ?1 AND ready_at <= ?2 ORDER BY ready_at LIMIT ?4)
RETURNING seq, claims, failures, event, returned
"""
# The same from the other end.
CLAIM_NEWEST = CLAIM.replace("ORDER BY ready_at", "ORDER BY ready_at DESC")
EVENT = """
SELECT event, event_id, payload, received_at, retracted, rules, mentions, relay
  FROM events JOIN payloads USING (event) WHERE event = ?
"""
# Looked up once for many events: a join costs as much as all the rest.
ADDRESS = "SELECT id, address FROM relays WHERE id = ?"
ANY_READY = "SELECT 1 FROM outbox WHERE sink = ? AND ready_at <= ? LIMIT 1"
# Rows of a sink that a clock scheduled that was ahead, and their repair.
FUTURE = """
SELECT 1 FROM outbox WHERE sink = ?1 AND ready_at > ?2 AND (failures = 0 OR ready_at > ?3) LIMIT 1
"""
RESET_FUTURE = """
UPDATE outbox SET ready_at = ?4 WHERE sink = ?1 AND ready_at > ?2 AND (failures = 0 OR ready_at > ?3)
"""
WAITING = "SELECT count(*) FROM outbox WHERE sink = ?"
WAITING_FOR_ALL = "SELECT count(*) FROM outbox"
SIZE = "SELECT count(*), coalesce(sum(bytes), 0) FROM outbox WHERE sink = ?"
SIZE_AT_MOST = "SELECT count(*), coalesce(sum(bytes), 0) FROM (SELECT bytes FROM outbox WHERE sink = ? LIMIT ?)"
# Walks over the sink's part of the index, as counting does, and looks up one row.
OLDEST = """
SELECT received_at FROM events
 WHERE event = (SELECT event FROM outbox WHERE seq = (SELECT min(seq) FROM outbox WHERE sink = ?))
"""
# Rows that failed are retried when it is time; only rows without an attempt show that the sink stands still. In the
# order of the table, which begins with the oldest, since the index would have to be scanned as a whole.
OLDEST_UNATTEMPTED = """
SELECT received_at FROM events
 WHERE event = (SELECT event FROM outbox WHERE +sink = ? AND failures = 0 ORDER BY seq LIMIT 1)
"""
# In the order of the table, as above; rows that a sender has leased are left to it.
OLDEST_UNLEASED = "SELECT seq, event, bytes FROM outbox WHERE +sink = ? AND holder IS NULL ORDER BY seq LIMIT ?"
REMOVE = "DELETE FROM outbox WHERE seq = ?"
# Among the oldest rows of a sink, those of events first seen before a time.
OLD_AMONG = """
SELECT old.seq, old.event, coalesce(events.received_at, 0) < ?3
  FROM (SELECT seq, event FROM outbox WHERE +sink = ?1 ORDER BY seq LIMIT ?2) AS old
  LEFT JOIN events ON events.event = old.event ORDER BY old.seq
"""
DEAD = "SELECT count(*) FROM outbox_dead WHERE sink = ?"
# The first outcome stands: a redelivery does not change when the event was delivered.
# Under the name that the sink's outbox has now.
RECORD_SETTLED = """
INSERT INTO deliveries (event, sink, outcome, at) SELECT event, sink, ?2, ?3 FROM outbox WHERE seq = ?1
ON CONFLICT DO NOTHING
"""
RECORD_DELIVERY = "INSERT INTO deliveries (event, sink, outcome, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"

queue = LeaseQueue(QueueStatements.of("outbox", "event, sink, bytes"))


class OutboxRow(NamedTuple):
    """A claimed row with the event, numbered `event` and first seen at `received_at`, that it stands for.

    `returned`: how often it was claimed and released untried. `retracted`, `rules`, `mentions`: as it was when the
    event was saved, see `events.Accepted`; `rules` is `None` where that was not noted. `relay` and its `address`:
    where the event was first seen, `None` if that is not known. `claimed_at`: when it was claimed (ms). `is_replay`:
    the sink has had the event before.
    """

    receipt: Receipt
    failures: int
    returned: int
    event: int
    event_id: bytes
    payload: bytes
    received_at: int
    retracted: str | None = None
    rules: str | None = None
    mentions: bytes | None = None
    relay: int | None = None
    address: str | None = None
    claimed_at: int = 0
    is_replay: bool = False

    @property
    def lost_claims(self) -> int:
        """Number of claims, this one included, that were neither settled nor released."""
        return self.receipt.claims - self.failures - self.returned


class Settled(NamedTuple):
    """A claimed row that its sink has settled, and the outcome."""

    row: OutboxRow
    outcome: str


def append(tx: Tx, sink: SinkName, events: Iterable[int], now: int) -> None:
    """Queue events for `sink`, ready at once."""
    tx.executemany(APPEND, ((event, sink, now) for event in events))


def claim(
    tx: Tx,
    sink: SinkName,
    *,
    now: int,
    lease: int,
    limit: int,
    holder: str | None = None,
    newest: bool = False,
) -> list[OutboxRow]:
    """Lease up to `limit` ready rows of `sink` for `lease` ms. Read the clock after the lock is held.

    Those that are ready for longest, or with `newest` for the shortest time. `holder` is the slot of this process, for
    `LeaseQueue.release_all`.
    """
    claimed: list[Row] = tx.execute(
        CLAIM_NEWEST if newest else CLAIM, (sink, now, now + lease, limit, holder)
    ).fetchall()
    claimed.sort()
    return with_events(tx, claimed, now)


def with_events(tx: Tx, claimed: Sequence[Row], now: int, *, is_replay: bool = False) -> list[OutboxRow]:
    """Return claimed rows with their events; a payload that is gone is empty.

    `claimed`: number, claims, failures, event and returns of each.
    """
    events: dict[int, Row] = {row[0]: row for row in tx.executemany(EVENT, ((event,) for *_, event, _ in claimed))}
    addresses = dict(tx.executemany(ADDRESS, ((relay,) for relay in {row[-1] for row in events.values()})))
    return [
        OutboxRow._make((Receipt(seq, claims), failures, returned, *found, addresses.get(found[-1]), now, is_replay))
        for seq, claims, failures, event, returned in claimed
        for found in (events.get(event, (event, b"", b"", now, None, None, None, None)),)
    ]


def settle(tx: Tx, settled: Sequence[Settled], now: int) -> int:
    """Ack rows and record their outcome; return how many receipts were valid."""
    tx.executemany(RECORD_SETTLED, ((each.row.receipt.seq, each.outcome, now) for each in settled))
    return queue.ack(tx, (each.row.receipt for each in settled))


def drop_oldest(tx: Tx, sink: SinkName, count: int, outcome: str, now: int) -> QueueSize:
    """Remove the `count` oldest rows that are not leased, and record `outcome`; return their number and bytes."""
    rows: list[Row] = tx.execute(OLDEST_UNLEASED, (sink, count)).fetchall()
    tx.executemany(RECORD_DELIVERY, ((event, sink, outcome, now) for _, event, _ in rows))
    tx.executemany(REMOVE, ((seq,) for seq, _, _ in rows))
    return QueueSize(len(rows), sum(size for _, _, size in rows))


def drop_old(tx: Tx, sink: SinkName, *, received_before: int, limit: int, outcome: str, now: int) -> int:
    """Remove rows of a sink that is off, whose events were first seen before a time (ms); return their number.

    Looks at the `limit` oldest; a lease from before the sink was switched off is lost.
    """
    rows: list[Row] = tx.execute(OLD_AMONG, (sink, limit, received_before)).fetchall()
    old = [(seq, event) for seq, event, is_old in rows if is_old]
    tx.executemany(RECORD_DELIVERY, ((event, sink, outcome, now) for _, event in old))
    tx.executemany(REMOVE, ((seq,) for seq, _ in old))
    return len(old)


def drop(tx: Tx, rows: Sequence[tuple[int, int, str]], outcome: str, now: int) -> None:
    """Remove rows, leased or not, each with its number, its event's and its sink, and record `outcome`."""
    tx.executemany(RECORD_DELIVERY, ((event, sink, outcome, now) for _, event, sink in rows))
    tx.executemany(REMOVE, ((seq,) for seq, _, _ in rows))


def any_ready(tx: Tx, sink: SinkName, now: int) -> bool:
    """Return True if a claim at `now` would find a row."""
    return tx.execute(ANY_READY, (sink, now)).fetchone() is not None


def has_future_rows(tx: Tx, now: int) -> bool:
    """Return True if any row is scheduled later than any lease or backoff can be; see `MAX_WAIT_MS`."""
    bounds = (now + MAX_LEASE_MS, now + MAX_WAIT_MS)
    return any(tx.execute(FUTURE, (sink, *bounds)).fetchone() for sink in sinks.known(tx))


def reset_future_rows(tx: Tx, now: int) -> int:
    """Make such rows ready, leased or not; return how many there were."""
    before = tx.total_changes()
    tx.executemany(RESET_FUTURE, ((sink, now + MAX_LEASE_MS, now + MAX_WAIT_MS, now) for sink in sinks.known(tx)))
    return tx.total_changes() - before


def waiting(tx: Tx, sink: SinkName) -> int:
    """Return how many rows of `sink` are pending or leased."""
    return int(tx.execute(WAITING, (sink,)).get)


def waiting_for_all(tx: Tx) -> int:
    """Return how many rows of all sinks are pending or leased."""
    return int(tx.execute(WAITING_FOR_ALL).get)


def size(tx: Tx, sink: SinkName, at_most: int | None = None) -> QueueSize:
    """Return number and bytes of the rows of `sink`, pending or leased; with `at_most`, of no more rows than that."""
    found = tx.execute(SIZE, (sink,)) if at_most is None else tx.execute(SIZE_AT_MOST, (sink, at_most))
    return QueueSize(*found.get)


def oldest_received_at(tx: Tx, sink: SinkName) -> int | None:
    """Return when the longest pending event of `sink` was first seen; `None` if none is pending."""
    received_at = tx.execute(OLDEST, (sink,)).get
    return None if received_at is None else int(received_at)


def oldest_unattempted(tx: Tx, sink: SinkName) -> int | None:
    """Return the same for the events that have not failed."""
    received_at = tx.execute(OLDEST_UNATTEMPTED, (sink,)).get
    return None if received_at is None else int(received_at)


def dead(tx: Tx, sink: SinkName) -> int:
    """Return the number of dead letters of `sink`."""
    return int(tx.execute(DEAD, (sink,)).get)
