"""Messages sent to a sink within the last minute, so that a rate limit holds over restarts."""

from typing import Final

from pipeline.store.database import Tx
from pipeline.store.sinks import SinkName

KEPT_MS: Final = 60_000
APPEND = "INSERT INTO sent (sink, at, count) VALUES (?, ?, ?)"
# Times in the future were recorded by a clock that was ahead.
TRIM = "DELETE FROM sent WHERE sink = ?1 AND (at <= ?2 OR at > ?3)"
RECENT = "SELECT at, count FROM sent WHERE sink = ? AND at > ? AND at <= ? ORDER BY at"


def note(tx: Tx, sink: SinkName, count: int, now: int) -> None:
    """Record that `count` messages are about to be sent to `sink` at `now` (ms), and drop what is over a minute old."""
    tx.execute(TRIM, (sink, now - KEPT_MS, now))
    tx.execute(APPEND, (sink, now, count))


def recent(tx: Tx, sink: SinkName, now: int) -> list[tuple[int, int]]:
    """Return when (ms) messages were sent within the last minute, and how many each time, the oldest first."""
    return [(int(at), int(count)) for at, count in tx.execute(RECENT, (sink, now - KEPT_MS, now))]
