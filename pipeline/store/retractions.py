"""What authors have taken back, so that a copy that arrives later is not handed on."""

from collections.abc import Iterable

from pipeline.store.database import Tx

DELETE = "INSERT INTO deletions (event_id, author) VALUES (?, ?) ON CONFLICT DO NOTHING"
IS_DELETED = "SELECT 1 FROM deletions WHERE event_id = ? AND author = ?"
VANISH = """
INSERT INTO vanished (author, until) VALUES (?, ?)
ON CONFLICT (author) DO UPDATE SET until = max(until, excluded.until)
"""
VANISHED_UNTIL = "SELECT until FROM vanished WHERE author = ?"


def delete(tx: Tx, event_ids: Iterable[bytes], author: int) -> None:
    """Note that `author` deleted events, which count only if they are the author's own."""
    tx.executemany(DELETE, ((event_id, author) for event_id in event_ids))


def vanish(tx: Tx, author: int, until: int) -> None:
    """Note that everything of `author` up to `until` (seconds) is taken back."""
    tx.execute(VANISH, (author, until))


def is_retracted(tx: Tx, event_id: bytes, author: int, created_at: int) -> bool:
    """Whether the author has taken this event back."""
    if tx.execute(IS_DELETED, (event_id, author)).fetchone() is not None:
        return True
    row = tx.execute(VANISHED_UNTIL, (author,)).fetchone()
    return row is not None and created_at <= int(row[0])
