"""What the gauges show: states of relays, sizes of queues, numbers of users."""

from dataclasses import dataclass, field

from pipeline.store import audits, authors, gaps, inbox, outbox, relays, shares, sinks, target_relay, users
from pipeline.store.audits import AuditOutcome
from pipeline.store.database import Tx
from pipeline.store.relay_status import RelayState
from pipeline.store.shares import NO_BUDGET, NONE_WAITING, Budget, Waiting
from pipeline.store.sinks import SinkName
from pipeline.store.target_relay import TargetRelay

# Those that are connected come first, then those whose state changed last.
RELAYS = """
SELECT address, state, state_since, subscriptions, rate_limit_backoff, novel, novel_at FROM relays
 WHERE crawled_since IS NOT NULL ORDER BY state = 'disconnected', state_since DESC LIMIT ?
"""

# What is put off longest has failed most; leased rows are among these too, and are few.
FAILING_INBOX = """
SELECT event_id, failures, ready_at FROM (SELECT * FROM inbox WHERE ready_at > ?1 ORDER BY ready_at DESC LIMIT ?2)
 WHERE failures > 0
"""
FAILING_OUTBOX = """
SELECT coalesce(events.event_id, x''), failures, ready_at
  FROM (SELECT * FROM outbox WHERE sink = ?3 AND ready_at > ?1 ORDER BY ready_at DESC LIMIT ?2) AS late
  LEFT JOIN events ON events.event = late.event WHERE failures > 0
"""
_LOOKED_AT = 300


@dataclass(frozen=True, slots=True)
class Failing:
    """A row of the inbox (`sink` is `None`) or an outbox that failed and is retried at `ready_at` (ms)."""

    sink: SinkName | None
    event_id: bytes
    failures: int
    ready_at: int


@dataclass(frozen=True, slots=True)
class RelayGauges:
    """State of a relay; `backoff` (ms) is what was left of its host's at `state_since`, the row's time in ms.

    `novel`: events that it brought first, as of `novel_at` (ms); they count for less as they age.
    """

    address: str
    state: RelayState
    state_since: int
    subscriptions: int
    backoff: int
    novel: float
    novel_at: int


@dataclass(frozen=True, slots=True)
class QueueGauges:
    """The outbox of `sink`, or with `None` the inbox: pending rows, since when the oldest (ms), dead letters.

    `bytes`: of the events that wait.
    """

    sink: SinkName | None
    waiting: int
    oldest: int | None
    dead: int
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class StoreGauges:
    """The state of the service at one moment."""

    relays: tuple[RelayGauges, ...]
    known_addresses: int
    inbox: QueueGauges
    outboxes: tuple[QueueGauges, ...]
    registered_users: int
    keys: int
    """Public keys known."""
    gaps: dict[str, int]
    """Open gaps by reason."""
    target: TargetRelay | None = None
    budget: Budget = NO_BUDGET
    """Wanted authors."""
    waiting: Waiting = NONE_WAITING
    """Followees that are not wanted, since there are too many."""
    audit: AuditOutcome = field(default_factory=AuditOutcome)


def read(tx: Tx, *, max_relays: int) -> StoreGauges:
    """Return the gauges of one snapshot, with `max_relays` of the relays that are or were crawled."""
    return StoreGauges(
        relays=tuple(
            RelayGauges(address, RelayState(state), since, subscriptions, backoff, novel, novel_at)
            for address, state, since, subscriptions, backoff, novel, novel_at in tx.execute(RELAYS, (max_relays,))
        ),
        known_addresses=relays.found(tx),
        inbox=_inbox(tx),
        outboxes=tuple(_outbox(tx, sink) for sink in sinks.known(tx)),
        registered_users=users.count(tx),
        keys=authors.met(tx),
        gaps=gaps.by_reason(tx),
        target=target_relay.read(tx),
        budget=shares.budget(tx),
        waiting=shares.waiting(tx),
        audit=audits.latest(tx),
    )


def failing(tx: Tx, now: int) -> tuple[Failing, ...]:
    """Return rows that failed and are to be retried, the latest first; a bounded look at each queue."""
    found = [Failing(None, *row) for row in tx.execute(FAILING_INBOX, (now, _LOOKED_AT))]
    for sink in sinks.known(tx):
        found += [Failing(sink, *row) for row in tx.execute(FAILING_OUTBOX, (now, _LOOKED_AT, sink))]
    return tuple(found)


def _inbox(tx: Tx) -> QueueGauges:
    size = inbox.size(tx)
    return QueueGauges(None, size.events, inbox.oldest_received_at(tx), inbox.dead(tx), size.bytes)


def _outbox(tx: Tx, sink: SinkName) -> QueueGauges:
    size = outbox.size(tx, sink)
    return QueueGauges(sink, size.events, outbox.oldest_received_at(tx, sink), outbox.dead(tx, sink), size.bytes)
