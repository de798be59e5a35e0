"""Open gaps: spans of time of which a relay holds events that it does not return.

Rows are written in or after the transaction that commits the events beside them, and deleted once a gap is closed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.store.database import Tx

PUT = """
INSERT INTO gaps (relay, form, reason, since, until, opened_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (relay, form, reason, since) DO UPDATE SET until = excluded.until, opened_at = excluded.opened_at
"""
DELETE = "DELETE FROM gaps WHERE relay = ? AND form = ? AND reason = ? AND since = ?"
OF_RELAY = "SELECT relay, form, reason, since, until, opened_at FROM gaps WHERE relay = ? ORDER BY reason, form, since"
# With the other columns of the row that was opened last.
SUMMARIES = """
SELECT relays.address, gaps.reason, count(*), gaps.form, gaps.since, gaps.until, max(gaps.opened_at)
  FROM gaps JOIN relays ON relays.id = gaps.relay
 GROUP BY gaps.relay, gaps.reason ORDER BY gaps.reason, relays.address LIMIT ?
"""
BY_REASON = "SELECT reason, count(*) FROM gaps GROUP BY reason ORDER BY reason"


@dataclass(frozen=True, slots=True)
class OpenGap:
    """What was asked of a relay (`form`) and is incomplete from `since` to `until` (Unix seconds, both included)."""

    relay: int
    form: str
    reason: str
    since: int
    until: int
    opened_at: int
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class GapChanges:
    """What differs from the rows written before: the closed are deleted first."""

    closed: tuple[OpenGap, ...] = ()
    opened: tuple[OpenGap, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.closed or self.opened)


@dataclass(frozen=True, slots=True)
class GapSummary:
    """How many gaps one relay has for one reason, and which was opened last."""

    address: str
    reason: str
    count: int
    form: str
    since: int
    until: int
    opened_at: int
    """Unix seconds."""


def put(tx: Tx, changes: Iterable[GapChanges]) -> None:
    """Write changes in order."""
    for each in changes:
        for gap in each.closed:
            tx.execute(DELETE, (gap.relay, gap.form, gap.reason, gap.since))
        for gap in each.opened:
            tx.execute(PUT, (gap.relay, gap.form, gap.reason, gap.since, gap.until, gap.opened_at))


def of_relay(tx: Tx, relay: int) -> list[OpenGap]:
    """Return every open gap of a relay."""
    return [OpenGap(*row) for row in tx.execute(OF_RELAY, (relay,))]


def summaries(tx: Tx, *, limit: int) -> list[GapSummary]:
    """Return at most `limit` summaries, by reason."""
    return [GapSummary(*row) for row in tx.execute(SUMMARIES, (limit,))]


def by_reason(tx: Tx) -> dict[str, int]:
    """Return how many gaps are open for each reason."""
    return {str(reason): int(count) for reason, count in tx.execute(BY_REASON)}
