"""Relay addresses: where each was learned, how it fares, what it allows. Restarts forget nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pipeline.store.database import Row, Tx

# Two authors make an address worth dialling; beyond this many nobody asks how many more there are.
MAX_NAMERS = 16

UPSERT = """
INSERT INTO relays (address, source, first_seen, last_seen) VALUES (?1, ?2, ?3, ?3)
ON CONFLICT (address) DO UPDATE SET last_seen = excluded.last_seen RETURNING id, namers
"""
ADD_BOOTSTRAP = """
INSERT INTO relays (address, source, first_seen, last_seen) VALUES (?1, 'bootstrap', ?2, ?2)
ON CONFLICT (address) DO UPDATE SET source = 'bootstrap', last_seen = excluded.last_seen
"""
DEMOTE_BOOTSTRAP = "UPDATE relays SET source = 'former-bootstrap' WHERE source = 'bootstrap'"
ADD_NAMER = "INSERT INTO relay_namers (relay, author) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING relay"
COUNT_NAMER = "UPDATE relays SET namers = namers + 1 WHERE id = ?"
MARK_NAMED_BY_USER = "UPDATE relays SET named_by_user = 1 WHERE id = ? AND named_by_user = 0"
CANDIDATES = """
SELECT id, address, source = 'bootstrap', crawled_since, failures, next_dial_at, limits, ask
  FROM relays WHERE source = 'bootstrap' OR (?1 AND (namers >= 2 OR named_by_user OR source = 'go-import'))
 ORDER BY source = 'bootstrap' DESC, named_by_user DESC, namers DESC, id LIMIT ?2
"""
START_CRAWLING = "UPDATE relays SET crawled_since = ? WHERE id = ? AND crawled_since IS NULL"
PUT_STATUS = """
UPDATE relays SET state_since = iif(state = ?2, state_since, ?3), state = ?2, subscriptions = ?4,
  rate_limit_backoff = ?5, failures = ?6, next_dial_at = ?7, last_error = ?8, asked = ?9 WHERE id = ?1
"""
PUT_LIMITS = "UPDATE relays SET limits = ? WHERE id = ?"
STATUSES = """
SELECT id, address, state, state_since, subscriptions, rate_limit_backoff, failures, next_dial_at, last_error,
  asked FROM relays WHERE crawled_since IS NOT NULL
"""
COUNT = "SELECT count(*) FROM relays"
FIND = "SELECT id FROM relays WHERE address = ?"


class RelayState(StrEnum):
    """The states of `relay_connection_state_gauge`."""

    INITIALIZING = "initializing"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    BACKPRESSURED = "backpressured"


@dataclass(frozen=True, slots=True)
class RelayCandidate:
    """A relay that may be dialled; times in ms, `crawled_since` is `None` if it never was, `limits` is JSON."""

    relay: int
    address: str
    is_bootstrap: bool
    crawled_since: int | None
    failures: int
    next_dial_at: int
    limits: str
    ask: str = "auto"


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """How a relay fares, as its crawler last said; times and durations in ms. `asked`: `query`, `whole` or unknown."""

    relay: int
    address: str
    state: RelayState
    state_since: int
    subscriptions: int
    rate_limit_backoff: int
    failures: int
    next_dial_at: int
    last_error: str
    asked: str = ""


def set_bootstrap(tx: Tx, addresses: Iterable[str], now: int) -> None:
    """Make `addresses` the bootstrap relays, and those that were before ordinary ones."""
    tx.execute(DEMOTE_BOOTSTRAP)
    tx.executemany(ADD_BOOTSTRAP, ((address, now) for address in addresses))


def name(tx: Tx, address: str, *, source: str, author: int, is_user: bool, now: int) -> bool:
    """Note that `author` (a registered user if `is_user`) named a relay; returns whether the address is new."""
    is_new = find(tx, address) is None
    rows: list[Row] = tx.execute(UPSERT, (address, source, now)).fetchall()
    relay, namers = rows[0]
    if namers < MAX_NAMERS and tx.execute(ADD_NAMER, (relay, author)).fetchone() is not None:
        tx.execute(COUNT_NAMER, (relay,))
    if is_user:
        tx.execute(MARK_NAMED_BY_USER, (relay,))
    return is_new


def candidates(tx: Tx, *, discovered: bool, limit: int) -> list[RelayCandidate]:
    """Relays worth dialling, best first: bootstrap ones, and if `discovered` those that others trust.

    That is: named by a registered user or by two authors, or crawled by the service that was imported."""
    return [
        RelayCandidate(relay, address, bool(bootstrap), *rest)
        for relay, address, bootstrap, *rest in tx.execute(CANDIDATES, (discovered, limit))
    ]


def start_crawling(tx: Tx, relay: int, now: int) -> None:
    """Note when a relay first came to be crawled; later calls change nothing."""
    tx.execute(START_CRAWLING, (now, relay))


def put_statuses(tx: Tx, statuses: Iterable[RelayStatus]) -> None:
    """Write how relays fare; `state_since` stays what it was while the state stays the same."""
    tx.executemany(
        PUT_STATUS,
        (
            (
                each.relay,
                each.state.value,
                each.state_since,
                each.subscriptions,
                each.rate_limit_backoff,
                each.failures,
                each.next_dial_at,
                each.last_error,
                each.asked,
            )
            for each in statuses
        ),
    )


def put_limits(tx: Tx, relay: int, limits: str) -> None:
    """Remember what a relay allows, as JSON."""
    tx.execute(PUT_LIMITS, (limits, relay))


def statuses(tx: Tx) -> list[RelayStatus]:
    """How every relay fares that is or was crawled."""
    return [
        RelayStatus(relay, address, RelayState(state), *rest) for relay, address, state, *rest in tx.execute(STATUSES)
    ]


def count(tx: Tx) -> int:
    """How many addresses are known."""
    return int(tx.execute(COUNT).get)


def find(tx: Tx, address: str) -> int | None:
    """The number of a canonical address."""
    row = tx.execute(FIND, (address,)).fetchone()
    return None if row is None else int(row[0])
