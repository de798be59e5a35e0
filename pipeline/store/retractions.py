"""What authors have taken back, so that a copy that arrives later is known to be retracted."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple

from pipeline.nostr import kinds
from pipeline.nostr.event import Event, event_from_stored
from pipeline.nostr.kinds import DELETION, GIFT_WRAP
from pipeline.nostr.tags import coordinate, expiration, first_values
from pipeline.store import authors
from pipeline.store.database import Row, Tx
from pipeline.store.retention_step import RetentionBatch

# One event, whatever its time; or, with the digest of an address for an id, every version there up to a time.
DELETE = """
INSERT INTO deletions (event_id, author, until, at) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET until = max(until, excluded.until), at = excluded.at
"""
VANISH = """
INSERT INTO vanished (author, until, at) VALUES (?, ?, ?)
ON CONFLICT (author) DO UPDATE SET until = max(until, excluded.until), at = excluded.at
"""
# The id itself where its author has deleted it or its address, or has vanished since, and which of these.
RETRACTED = """
SELECT ?1, 'deleted' WHERE EXISTS (SELECT 1 FROM deletions WHERE event_id IN (?1, ?4) AND author = ?2 AND until >= ?3)
 UNION ALL
SELECT ?1, 'vanished' WHERE EXISTS (SELECT 1 FROM vanished WHERE author = ?2 AND until >= ?3)
"""
NEXT_DELETIONS = """
SELECT event_id, author, at FROM deletions WHERE (event_id, author) > (?, ?) ORDER BY event_id, author LIMIT ?
"""
FORGET_DELETION = "DELETE FROM deletions WHERE event_id = ? AND author = ?"
# Whose events are wanted is kept in mind for as long as they are.
NEXT_VANISHED = """
SELECT author, at < ?2 AND NOT EXISTS (SELECT 1 FROM wanted WHERE wanted.author = vanished.author AND refs > 0)
  FROM vanished WHERE author > ?1 ORDER BY author LIMIT ?3
"""
FORGET_VANISHED = "DELETE FROM vanished WHERE author = ?"

FIRST_DELETION: Final = (b"", 0)
"""Before every id and author."""
NOT_RETRACTABLE: Final = frozenset({DELETION, kinds.VANISH})
"""Kinds whose retraction would undo the retraction itself (NIP-09, NIP-62)."""
_WHENEVER: Final = 2**63 - 1
# A gift wrap has one recipient (NIP-59); each lookup costs a query under the write lock.
MAX_RECIPIENTS: Final = 10
_PUBLIC_KEY: Final = re.compile("[0-9a-f]{64}")


class Retracted(StrEnum):
    """How an event was retracted."""

    DELETED = "deleted"
    """By a deletion request (NIP-09)."""
    VANISHED = "vanished"
    """By a request to vanish (NIP-62)."""
    EXPIRED = "expired"
    """By its own expiration (NIP-40)."""


class Identity(NamedTuple):
    """What an event can be taken back by; `author` as interned, `created_at` in seconds, see `tags.coordinate`.

    An event that several authors can take back has several.
    """

    event_id: bytes
    author: int
    created_at: int
    coordinate: str | None = None


def delete(tx: Tx, event_ids: Iterable[bytes], author: int, now: int) -> None:
    """Note that `author` deleted events, which count only if they are the author's own."""
    tx.executemany(DELETE, ((event_id, author, _WHENEVER, now) for event_id in event_ids))


def delete_versions(tx: Tx, coordinates: Iterable[str], author: int, until: int, now: int) -> None:
    """Note that `author` deleted what was dated `until` (seconds) or before at some of their own addresses."""
    tx.executemany(DELETE, ((_digest(coordinate), author, until, now) for coordinate in coordinates))


def vanish(tx: Tx, author: int, until: int, now: int) -> None:
    """Note that everything of `author` up to `until` (seconds) is taken back."""
    tx.execute(VANISH, (author, until, now))


def identities(tx: Tx, event: Event, author: int) -> Iterator[Identity]:
    """Yield who can retract the event: its author, and for a gift wrap (NIP-59) its recipient."""
    yield Identity(event.id, author, event.created_at, coordinate(event))
    if event.kind == GIFT_WRAP:
        for value in islice(first_values(event, "p"), MAX_RECIPIENTS):
            recipient = authors.find(tx, bytes.fromhex(value)) if _PUBLIC_KEY.fullmatch(value) else None
            if recipient is not None:
                yield Identity(event.id, recipient, event.created_at)


def retracted(tx: Tx, events: Iterable[Identity]) -> dict[bytes, Retracted]:
    """Return the ids of those `events` that were taken back, each with how; a deletion comes before vanishing."""
    rows = (
        (event_id, author, created_at, None if coordinate is None else _digest(coordinate))
        for event_id, author, created_at, coordinate in events
    )
    found: dict[bytes, Retracted] = {}
    for event_id, how in tx.executemany(RETRACTED, rows):
        if found.get(event_id) is not Retracted.DELETED:
            found[event_id] = Retracted(how)
    return found


def how_retracted(tx: Tx, event: Event, now_s: int) -> Retracted | None:
    """Return how the event is retracted by now, as far as is known here; `None` if it is not."""
    author = authors.find(tx, event.pubkey)
    if author is not None and event.kind not in NOT_RETRACTABLE:
        how = retracted(tx, identities(tx, event, author)).get(event.id)
        if how is not None:
            return how
    expires = expiration(event)
    is_expired = expires is not None and expires <= now_s and event.kind not in NOT_RETRACTABLE
    return Retracted.EXPIRED if is_expired else None


def how_payload_retracted(tx: Tx, payload: bytes, now_s: int) -> Retracted | None:
    """Return the same for an event as it is stored."""
    return how_retracted(tx, event_from_stored(payload), now_s)


def _digest(coordinate: str) -> bytes:
    """As long as an event id, however long the `d` tag is, which may hold lone surrogates."""
    return hashlib.sha256(coordinate.encode("utf-8", "surrogatepass")).digest()


def forget_deletions(tx: Tx, *, after: tuple[bytes, int], before: int, limit: int) -> RetentionBatch[tuple[bytes, int]]:
    """Forget deletions noted before a time, looking at up to `limit` beyond `after`."""
    rows: list[Row] = tx.execute(NEXT_DELETIONS, (*after, limit)).fetchall()
    old = [(event_id, author) for event_id, author, at in rows if at < before]
    tx.executemany(FORGET_DELETION, old)
    return RetentionBatch(len(rows), len(old), rows[-1][:2] if rows else FIRST_DELETION)


def forget_vanished(tx: Tx, *, after: int, before: int, limit: int) -> RetentionBatch[int]:
    """Forget who vanished before a time and is not wanted, looking at up to `limit` beyond `after`."""
    rows: list[Row] = tx.execute(NEXT_VANISHED, (after, before, limit)).fetchall()
    old = [(author,) for author, is_old in rows if is_old]
    tx.executemany(FORGET_VANISHED, old)
    return RetentionBatch(len(rows), len(old), rows[-1][0] if rows else 0)
