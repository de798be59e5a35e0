"""Pruning of relay addresses: a bound for each author who mentions them, and one for those that never answered.

Strangers invent addresses without end. Those that answered once are kept, those that did not make room for each other,
however often they were named. Writers only refuse an author who names far too many at once; the sweeper prunes.
"""

from dataclasses import dataclass
from typing import Final

from pipeline.store.database import Row, Tx

# Addresses that never answered: the whole network is some thousands.
MAX_UNANSWERED: Final = 40_000
# Recorded namings of one author: relay lists hold a few, a lifetime of hints some hundreds.
MAX_MENTIONED: Final = 500
# Of one monitor (NIP-66): twice the relays that exist.
MAX_MONITORED: Final = 3_000
# Two authors make an address worth dialling; beyond this many it is not recorded who else names it.
MAX_MENTIONS: Final = 16
# Until the sweeper has been there, an author may have this many times the bound.
_SLACK: Final = 2

# The terms of the index `relays_unanswered`.
UNANSWERED: Final = (
    "connected_ms = 0 AND state NOT IN ('connected', 'backpressured') AND novel = 0 AND operator = ''"
    " AND source NOT IN ('bootstrap', 'go-import')"
)
NAMED_BY = """
SELECT count(*) FROM (SELECT 1 FROM relay_namers WHERE author = ?1 AND as_monitor = ?2 LIMIT ?3)
"""
COUNT_UNANSWERED = f"SELECT count(*) FROM relays WHERE {UNANSWERED}"  # noqa: S608
# The highest number stays, so that it is not given to another address; it is also the row that was just added.
OLDEST_UNANSWERED = f"""
SELECT id FROM relays WHERE {UNANSWERED} AND id <> (SELECT max(id) FROM relays) ORDER BY last_seen LIMIT ?
"""  # noqa: S608
CROWDED = f"""
SELECT author, as_monitor, count(*) - iif(as_monitor, {MAX_MONITORED}, {MAX_MENTIONED}) AS surplus
  FROM relay_namers GROUP BY author, as_monitor HAVING surplus > 0
"""  # noqa: S608
# The addresses that an author named first, those that answered last of all.
OLDEST_MENTIONED = f"""
SELECT relay FROM relay_namers JOIN relays ON id = relay
 WHERE author = ? AND as_monitor = ? ORDER BY {UNANSWERED} DESC, relay LIMIT ?
"""  # noqa: S608
FORGET_MENTION = "DELETE FROM relay_namers WHERE relay = ? AND author = ?"
# With `MAX_MENTIONS` of them there may be more than are recorded.
UNCOUNT_MENTION = """
UPDATE relays SET namers = max(0, namers - 1), named_by_user = named_by_user AND (namers >= ?2 OR EXISTS (
  SELECT 1 FROM relay_namers JOIN monitored ON monitored.author = relay_namers.author
   WHERE relay = ?1 AND NOT as_monitor AND removed_at IS NULL
)) WHERE id = ?1
"""
IS_UNMENTIONED = f"""
SELECT 1 FROM relays WHERE id = ? AND namers = 0 AND NOT named_by_user AND {UNANSWERED}
   AND id <> (SELECT max(id) FROM relays)
"""  # noqa: S608
FORGET = (
    "DELETE FROM relay_spellers WHERE spelling IN (SELECT id FROM relay_spellings WHERE relay = ?)",
    "DELETE FROM relay_spellings WHERE relay = ?",
    "DELETE FROM relay_namers WHERE relay = ?",
    "DELETE FROM relays WHERE id = ?",
)


@dataclass(frozen=True, slots=True)
class Crowded:
    """An author, as a monitor or not, whose recorded mentions are `surplus` more than the bound."""

    author: int
    as_monitor: bool
    surplus: int


def may_mention(tx: Tx, author: int, *, as_monitor: bool) -> bool:
    """Return True if `author` may mention one more address."""
    most = _SLACK * (MAX_MONITORED if as_monitor else MAX_MENTIONED)
    return int(tx.execute(NAMED_BY, (author, as_monitor, most)).get) < most


def unanswered_surplus(tx: Tx, most: int | None = None) -> int:
    """Return how many addresses that never answered there are beyond `most`, by default `MAX_UNANSWERED`."""
    bound = MAX_UNANSWERED if most is None else most
    return max(0, int(tx.execute(COUNT_UNANSWERED).get) - bound)


def crowded(tx: Tx) -> list[Crowded]:
    """Return the authors who mention more than the bound."""
    return [Crowded(int(author), bool(as_monitor), int(surplus)) for author, as_monitor, surplus in tx.execute(CROWDED)]


def forget_unanswered(tx: Tx, limit: int) -> int:
    """Remove `limit` addresses that never answered, those first that were mentioned longest ago; return how many."""
    oldest: list[Row] = tx.execute(OLDEST_UNANSWERED, (limit,)).fetchall()
    for (relay,) in oldest:
        _forget(tx, relay)
    return len(oldest)


def prune_mentions(tx: Tx, of: Crowded, limit: int) -> int:
    """Remove up to `limit` of an author's surplus mentions, and addresses without mentions; return how many."""
    oldest: list[Row] = tx.execute(OLDEST_MENTIONED, (of.author, of.as_monitor, min(limit, of.surplus))).fetchall()
    for (relay,) in oldest:
        tx.execute(FORGET_MENTION, (relay, of.author))
        tx.execute(UNCOUNT_MENTION, (relay, MAX_MENTIONS))
        if tx.execute(IS_UNMENTIONED, (relay,)).fetchone() is not None:
            _forget(tx, relay)
    return len(oldest)


def _forget(tx: Tx, relay: int) -> None:
    for statement in FORGET:
        tx.execute(statement, (relay,))
