"""What authors have taken back, so that a copy that arrives later is not handed on."""

from collections.abc import Iterable

from pipeline.store.database import Tx

DELETE = "INSERT INTO deletions (event_id, author) VALUES (?, ?) ON CONFLICT DO NOTHING"
VANISH = """
INSERT INTO vanished (author, until) VALUES (?, ?)
ON CONFLICT (author) DO UPDATE SET until = max(until, excluded.until)
"""
# The id itself where its author has deleted it, or has vanished since.
RETRACTED = """
SELECT ?1 WHERE EXISTS (SELECT 1 FROM deletions WHERE event_id = ?1 AND author = ?2)
             OR EXISTS (SELECT 1 FROM vanished WHERE author = ?2 AND until >= ?3)
"""


def delete(tx: Tx, event_ids: Iterable[bytes], author: int) -> None:
    """Note that `author` deleted events, which count only if they are the author's own."""
    tx.executemany(DELETE, ((event_id, author) for event_id in event_ids))


def vanish(tx: Tx, author: int, until: int) -> None:
    """Note that everything of `author` up to `until` (seconds) is taken back."""
    tx.execute(VANISH, (author, until))


def retracted(tx: Tx, events: Iterable[tuple[bytes, int, int]]) -> set[bytes]:
    """Which of `events`, each with its id, author and `created_at`, their authors have taken back: the ids."""
    return {event_id for (event_id,) in tx.executemany(RETRACTED, events)}
