"""Mentions of relays by authors: who wrote which address, counted up to a bound."""

from enum import Enum, auto
from typing import NamedTuple

from pipeline.nostr.address import parse_address
from pipeline.nostr.extract import MentionSource
from pipeline.store import relay_pruning, spellings
from pipeline.store.database import Row, Tx
from pipeline.store.relay_pruning import MAX_MENTIONS
from pipeline.store.relays import find, has_default_port, preferred

UPSERT = """
INSERT INTO relays (address, source, first_seen, last_seen, seen_up_at) VALUES (?1, ?2, ?3, ?3, ?4)
ON CONFLICT (address) DO UPDATE SET
  last_seen = excluded.last_seen,
  seen_up_at = iif(seen_up_at > ?3, excluded.seen_up_at, max(seen_up_at, excluded.seen_up_at)) RETURNING id, namers
"""
HAS_MENTIONED = "SELECT 1 FROM relay_namers WHERE relay = ? AND author = ?"
ADD_MENTION = "INSERT INTO relay_namers (relay, author, as_monitor) VALUES (?, ?, ?)"
COUNT_MENTION = "UPDATE relays SET namers = namers + 1 WHERE id = ?"
MARK_MENTIONED_BY_USER = "UPDATE relays SET named_by_user = 1 WHERE id = ? AND named_by_user = 0"
MARK_MENTIONED_BY = """
UPDATE relays SET named_by_user = 1
 WHERE id IN (SELECT relay FROM relay_namers WHERE author = ? AND as_monitor = 0)
"""
# A mention of a ws address is one of the relay with the same wss address.
COPY_MENTIONS = """
INSERT INTO relay_namers (relay, author, as_monitor)
SELECT ?2, author, as_monitor FROM relay_namers WHERE relay = ?1
"""
TAKE_OVER = """
UPDATE relays SET namers = twin.namers, named_by_user = twin.named_by_user
  FROM (SELECT namers, named_by_user FROM relays WHERE id = ?1) AS twin WHERE id = ?2
"""
MENTIONS_OF = """
SELECT relay_namers.author, as_monitor, monitored.author IS NOT NULL
  FROM relay_namers LEFT JOIN monitored ON monitored.author = relay_namers.author AND removed_at IS NULL
 WHERE relay = ?
"""
MENTIONS = "SELECT namers FROM relays WHERE id = ?"


class MentionOutcome(Enum):
    """Outcome of a mention."""

    NEW = auto()
    KNOWN = auto()
    REFUSED = auto()
    """Its author mentions too many; the address was renewed if it was known."""


class Mention(NamedTuple):
    """An author who mentions a relay; `as_monitor`: only in a report (NIP-66), `is_user`: registered."""

    author: int
    as_monitor: bool
    is_user: bool


def record_mention(
    tx: Tx, spelling: str, *, source: str, author: int, is_user: bool, now: int, seen_up_at: int = 0
) -> MentionOutcome:
    """Record that `author` (a registered user if `is_user`) mentions a relay; refused beyond bounds of `relay_pruning`.

    `spelling`: the address as it is written. Raises `InvalidAddress`.
    `seen_up_at`: when `author` says that the relay answered (ms), 0 for nothing said. The reports of a monitor have a
    bound of their own and make no relay a user's.
    """
    as_monitor = source == MentionSource.MONITOR
    address = preferred(tx, parse_address(spelling).url)
    known = find(tx, address)
    has_named = known is not None and tx.execute(HAS_MENTIONED, (known, author)).fetchone() is not None
    may_mention = has_named or relay_pruning.may_mention(tx, author, as_monitor=as_monitor)
    if known is None and not may_mention:
        return MentionOutcome.REFUSED
    rows: list[Row] = tx.execute(UPSERT, (address, source, now, seen_up_at)).fetchall()
    relay, namers = rows[0]
    if known is None:
        namers = _merge_ws_duplicate(tx, relay, address) or namers
        has_named = tx.execute(HAS_MENTIONED, (relay, author)).fetchone() is not None
    if not may_mention:
        return MentionOutcome.REFUSED
    if namers < MAX_MENTIONS and not has_named:
        tx.execute(ADD_MENTION, (relay, author, as_monitor))
        tx.execute(COUNT_MENTION, (relay,))
    spellings.add(tx, relay, spellings.of_scheme(spelling, address), author, now)
    if is_user and not as_monitor:
        tx.execute(MARK_MENTIONED_BY_USER, (relay,))
    return MentionOutcome.NEW if known is None else MentionOutcome.KNOWN


def mark_mentioned_by_user(tx: Tx, author: int) -> None:
    """Mark the relays that `author` mentions as mentioned by a registered user."""
    tx.execute(MARK_MENTIONED_BY, (author,))


def mentions_of(tx: Tx, relay: int) -> list[Mention]:
    """Return who mentions a relay, at most `MAX_MENTIONS` and those of its ws duplicate."""
    rows: list[Row] = tx.execute(MENTIONS_OF, (relay,)).fetchall()
    return [Mention(author, bool(as_monitor), bool(is_user)) for author, as_monitor, is_user in rows]


def _merge_ws_duplicate(tx: Tx, relay: int, address: str) -> int | None:
    """Copy the mentions of a ws address to its new wss address; return how many."""
    scheme, _, rest = address.partition("://")
    twin = find(tx, f"ws://{rest}") if scheme == "wss" and has_default_port(rest) else None
    if twin is None:
        return None
    tx.execute(COPY_MENTIONS, (twin, relay))
    tx.execute(TAKE_OVER, (twin, relay))
    return int(tx.execute(MENTIONS, (relay,)).get)
