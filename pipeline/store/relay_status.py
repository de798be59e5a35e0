"""State of each relay as its crawler last wrote it: connection, backoff, errors, limits, costs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline.printable import printable
from pipeline.store import spellings
from pipeline.store.database import Tx

ADD_COSTS = "UPDATE relays SET forged = forged + ?, stranger_bytes = stranger_bytes + ? WHERE id = ?"
START_CRAWLING = """
UPDATE relays SET crawled_since = ?1 WHERE id = ?2 AND (crawled_since IS NULL OR crawled_since > ?1)
"""
# Old times are halved, so that a relay can change.
PUT_STATUS = """
UPDATE relays SET
  connected_ms = (connected_ms + iif(
    state IN ('connected', 'backpressured') AND state <> ?2, max(0, ?3 - state_since), 0
  )) / iif(connected_ms + disconnected_ms > 2592000000, 2, 1),
  disconnected_ms = (disconnected_ms + iif(
    state = 'disconnected' AND state <> ?2, max(0, ?3 - state_since), 0
  )) / iif(connected_ms + disconnected_ms > 2592000000, 2, 1),
  state_since = iif(state = ?2, state_since, ?3), state = ?2, subscriptions = ?4,
  rate_limit_backoff = ?5, failures = ?6, next_dial_at = ?7, last_error = ?8, asked = ?9,
  owed_since = ?10, resweeping = ?11, forged_at = iif(?12, ?3, forged_at),
  paced_at = iif(?13, iif(paced_at = 0, ?3, paced_at), 0), resolved = iif(?14 = '', resolved, ?14)
 WHERE id = ?1 RETURNING id
"""
PUT_LIMITS = "UPDATE relays SET limits = ? WHERE id = ?"
STATUSES = """
SELECT id, address, state, state_since, subscriptions, rate_limit_backoff, failures, next_dial_at, last_error,
  asked FROM relays WHERE crawled_since IS NOT NULL
"""


class RelayState(StrEnum):
    """The states of `relay_connection_state_gauge`."""

    INITIALIZING = "initializing"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    BACKPRESSURED = "backpressured"


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """State of a relay as its crawler last wrote it; times and durations in ms. `asked`: `query`, `whole` or unknown.

    `dialled`: the spelling of the address by which it was, if that was just tried; `is_missing`: nothing is there.
    """

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
    dialled: str = ""
    is_missing: bool = False
    owed_since: int = 0
    """From when on (Unix seconds) what came late is still owed for absences, 0 for nothing."""
    is_resweeping: bool = False
    """True while that is being swept for."""
    is_forging: bool = False
    """True if it was just cut off for forged events."""
    is_paced: bool = False
    """True while strangers' events are fetched from it at the rate that is allowed."""
    resolved: str = ""
    """The IP address that its name led to, if it was just looked up."""


@dataclass(frozen=True, slots=True)
class RelayCost:
    """What a relay's events cost: how many were forged, and bytes of authors whom no registered user follows."""

    forged: int = 0
    stranger_bytes: int = 0

    def plus(self, forged: int, stranger_bytes: int) -> "RelayCost":
        """Return both together."""
        return RelayCost(self.forged + forged, self.stranger_bytes + stranger_bytes)


def start_crawling(tx: Tx, numbers: Iterable[int], now: int) -> None:
    """Record when relays were first crawled; later calls change only times of a clock that was ahead."""
    tx.executemany(START_CRAWLING, ((now, relay) for relay in numbers))


def put_statuses(tx: Tx, statuses: Iterable[RelayStatus]) -> None:
    """Write the state of relays that are still known; `state_since` stays while the state stays the same."""
    for each in statuses:
        found = tx.execute(
            PUT_STATUS,
            (
                each.relay,
                each.state.value,
                each.state_since,
                each.subscriptions,
                each.rate_limit_backoff,
                each.failures,
                each.next_dial_at,
                # Mostly text of the relay.
                printable(each.last_error),
                each.asked,
                each.owed_since,
                each.is_resweeping,
                each.is_forging,
                each.is_paced,
                each.resolved,
            ),
        ).fetchone()
        if found is None:
            continue
        if each.is_missing:
            spellings.note_missing(tx, each.relay, each.dialled, each.state_since)
        elif each.dialled:
            spellings.note_present(tx, each.relay, each.dialled)


def put_limits(tx: Tx, relay: int, limits: str) -> None:
    """Write the limits of a relay, as JSON."""
    tx.execute(PUT_LIMITS, (limits, relay))


def add_costs(tx: Tx, costs: Mapping[int, RelayCost]) -> None:
    """Add what the events of relays cost since the last call."""
    tx.executemany(ADD_COSTS, ((cost.forged, cost.stranger_bytes, relay) for relay, cost in costs.items()))


def statuses(tx: Tx) -> list[RelayStatus]:
    """Return the state of every relay that is or was crawled."""
    return [
        RelayStatus(relay, address, RelayState(state), *rest) for relay, address, state, *rest in tx.execute(STATUSES)
    ]
