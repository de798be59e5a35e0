"""All that is known of relays, for the operator."""

from dataclasses import dataclass

from pipeline.store.database import Tx
from pipeline.store.relay_status import RelayState
from pipeline.store.relays import OperatorOverride

RECORDS = """
SELECT id, address, source, operator, first_seen, last_seen, namers, named_by_user, crawled_since, state, state_since,
  subscriptions, asked, ask, novel, novel_at, connected_ms, disconnected_ms, failures, next_dial_at, seen_up_at,
  last_error, limits, iif(spelling = '', address, spelling), owed_since, resweeping,
  iif(json_valid(limits), coalesce(json_extract(limits, '$.live_missed_at'), 0), 0),
  forged, forged_at, stranger_bytes, paced_at
  FROM relays WHERE ?1 OR crawled_since IS NOT NULL OR operator <> '' OR source = 'bootstrap'
 ORDER BY state IN ('connected', 'backpressured') DESC, novel DESC, namers DESC, id LIMIT ?2
"""


@dataclass(frozen=True, slots=True)
class RelayRecord:
    """All that is known of a relay; times and durations in ms, `limits` is JSON."""

    relay: int
    address: str
    source: str
    operator: OperatorOverride
    first_seen: int
    last_seen: int
    namers: int
    named_by_user: bool
    crawled_since: int | None
    state: RelayState
    state_since: int
    subscriptions: int
    asked: str
    ask: str
    novel: float
    novel_at: int
    connected_ms: int
    disconnected_ms: int
    failures: int
    next_dial_at: int
    seen_up_at: int
    last_error: str
    limits: str
    dialled: str = ""
    """The address as it is written where it is dialled."""
    owed_since: int = 0
    is_resweeping: bool = False
    live_missed_at: int = 0
    """When (Unix seconds) its live subscriptions turned out to leave out events, so that it is polled; 0 for never."""
    forged: int = 0
    """Events that it brought with a wrong id or signature."""
    forged_at: int = 0
    """When it was last cut off for them; 0 for never."""
    stranger_bytes: int = 0
    """Bytes of genuine events of global kinds by authors whom no registered user follows."""
    paced_at: int = 0
    """Since when these are taken no faster than they may come; 0 where they are not that many."""


def records(tx: Tx, *, everything: bool, limit: int) -> list[RelayRecord]:
    """Return relays that are or were crawled or have an override, or with `everything` all; the best first."""
    return [
        RelayRecord(relay, address, source, OperatorOverride(operator), first, last, namers, bool(by_user), since,
                    RelayState(state), *rest)
        for relay, address, source, operator, first, last, namers, by_user, since, state, *rest
        in tx.execute(RECORDS, (everything, limit))
    ]  # fmt: skip
