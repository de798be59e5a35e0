"""Relays that may be dialled, and what they are worth."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipeline.store.database import Tx

# After this time an event that a relay brought first counts half.
FIRST_SEEN_HALF_LIFE_MS = 3 * 86_400_000
CANDIDATES = """
SELECT id, address, source = 'bootstrap' OR operator = 'added', crawled_since, failures, next_dial_at, limits, ask,
  named_by_user, namers, novel, novel_at, connected_ms, disconnected_ms, tried_at, seen_up_at,
  state IN ('connected', 'backpressured'), spelling, state_since, productive_at, resolved, owed_since
  FROM relays
 WHERE operator <> 'removed' AND (
   source IN ('bootstrap', 'hub') OR operator = 'added'
   OR (?1 AND (namers >= 2 OR named_by_user OR source = 'go-import'))
 )
 ORDER BY source = 'bootstrap' OR operator = 'added' DESC, productive_at > 0 DESC, connected_ms > 0 DESC,
   named_by_user DESC, namers DESC, id LIMIT ?2
"""
NOVEL = "SELECT novel, novel_at FROM relays WHERE id = ?"
PUT_NOVEL = "UPDATE relays SET novel = ?, novel_at = ? WHERE id = ?"
PUT_PRODUCTIVE = "UPDATE relays SET productive_at = ? WHERE id = ?"
PUT_TRIED = "UPDATE relays SET tried_at = ? WHERE id = ?"


class RelayCandidate(NamedTuple):
    """A relay that may be dialled, one of many thousands, so that it must be cheap.

    Times in ms, `crawled_since` is `None` if it never was, `limits` is JSON. `by_operator`: named in the settings or by
    hand; `ask`: how the operator wants it asked; `novel`: events that it was the first to bring, as of `novel_at`;
    `tried_at`: when it was last dialled to see what it is worth; `seen_up_at`: when a monitor last saw it up;
    `spelling`: the address as it is dialled, empty for the canonical one;
    `state_since`: when its state was written, and with it `next_dial_at`; `productive_at`: when it was last the first
    to bring an event of a wanted author, 0 for never; `resolved`: the IP address that its name led to last, if known;
    `owed_since`: when (Unix seconds) the oldest absence began that is not made up for, 0 for none.
    """

    relay: int
    address: str
    by_operator: bool
    crawled_since: int | None
    failures: int
    next_dial_at: int
    limits: str
    ask: str = "auto"
    named_by_user: bool = False
    namers: int = 0
    novel: float = 0.0
    novel_at: int = 0
    connected_ms: int = 0
    disconnected_ms: int = 0
    tried_at: int = 0
    seen_up_at: int = 0
    is_connected: bool = False
    spelling: str = ""
    state_since: int = 0
    productive_at: int = 0
    resolved: str = ""
    owed_since: int = 0


def candidates(tx: Tx, *, discovered: bool, limit: int) -> list[RelayCandidate]:
    """Return relays worth dialling, the best known first: the operator's, and if `discovered` those that others trust.

    These are mentioned by a registered user or by two authors, or crawled by the service that was imported. What home
    ordered is among them where several hosts crawl; what the operator removed is not.
    """
    return list(map(RelayCandidate._make, tx.execute(CANDIDATES, (discovered, limit))))


def add_first_seen(tx: Tx, worth: Mapping[int, float], now: int, *, productive: Iterable[int] = ()) -> None:
    """Add what the events are worth that each relay brought first.

    `productive`: relays some of whose events are of wanted authors.
    """
    tx.executemany(PUT_PRODUCTIVE, ((now, relay) for relay in productive))
    for relay, number in worth.items():
        row = tx.execute(NOVEL, (relay,)).fetchone()
        if row is not None:
            novel, at = row
            aged = novel * 0.5 ** (max(0, now - at) / FIRST_SEEN_HALF_LIFE_MS)
            tx.execute(PUT_NOVEL, (aged + number, now, relay))


def mark_tried(tx: Tx, tried: Iterable[int], now: int) -> None:
    """Mark relays as tried from `now` on."""
    tx.executemany(PUT_TRIED, ((now, relay) for relay in tried))
