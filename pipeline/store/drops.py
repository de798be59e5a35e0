"""The newest events that were refused, and why: enough to answer who asks what became of one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.store.database import Tx

# Some minutes of a busy day; what strangers can make us write stays small.
MOST = 10_000
# Of one transaction, so that a flood of forgeries costs next to nothing.
MOST_AT_ONCE = 20

APPEND = "INSERT INTO drops (event_id, reason, relay, at) VALUES (?, ?, ?, ?)"
TRIM = "DELETE FROM drops WHERE seq <= (SELECT max(seq) FROM drops) - ?"
# Walks over all of them, which are few.
OF_EVENT = """
SELECT reason, coalesce(relays.address, ''), at, host FROM drops LEFT JOIN relays ON relays.id = drops.relay
 WHERE event_id = ? ORDER BY seq DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Drop:
    """A copy of an event, from relay number `relay`, that went no further; `reason` is the metrics' word for it."""

    event_id: bytes
    reason: str
    relay: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """What is remembered of a drop; `relay` is an address, `at` in ms, `host` that of several which dropped it."""

    reason: str
    relay: str
    at: int
    host: str = ""


def append(tx: Tx, drops: Sequence[Drop], now: int) -> None:
    """Remember some of `drops`, and forget the oldest beyond the bound."""
    if drops:
        tx.executemany(APPEND, ((each.event_id, each.reason, each.relay, now) for each in drops[:MOST_AT_ONCE]))
        tx.execute(TRIM, (MOST,))


def of_event(tx: Tx, event_id: bytes, limit: int = 5) -> tuple[Dropped, ...]:
    """Return the newest drops of copies of an event."""
    rows: Iterable[tuple[str, str, int, str]] = tx.execute(OF_EVENT, (event_id, limit))
    return tuple(Dropped(*row) for row in rows)
