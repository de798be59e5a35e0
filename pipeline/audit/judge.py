"""What of a relay's answer counts: events that the service has, and those that it should have.

A relay may return anything. Only what is signed by its author, matches the question and would have been saved counts as
missing; whatever else is unknown here is left out of account, and counted by reason.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.audit.findings import Suspect
from pipeline.nostr.event import Event
from pipeline.process.clock import Clock
from pipeline.rules.acceptance import EventLimits, rejection_reason
from pipeline.rules.relevance import Rule
from pipeline.store import audits, retractions
from pipeline.store.audits import AuditSubject
from pipeline.store.database import Database

BEYOND: Final = "before the crawl's reach"
"""Reason for events dated before what the crawl looks back for."""
SUPPRESSED: Final = "retracted"
"""Reason for events that EVENTS_RETRACTED=suppress drops."""


@dataclass(frozen=True, slots=True)
class CrawlReach:
    """How far back the crawl looks (seconds): for a relay's first crawl, and for a newly wanted author."""

    backfill: int
    lookback: int

    def since(self, wanted_since: int, crawled_since: int) -> int:
        """Return from when on a relay crawled since one time is asked for an author wanted since another (s)."""
        since = max(wanted_since, crawled_since) - self.lookback
        return min(since, crawled_since - self.backfill) if wanted_since <= crawled_since else since


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer taken apart; `had`: time and id."""

    had: tuple[tuple[int, bytes], ...]
    candidates: tuple[Suspect, ...]
    excluded: Counter[str]


class Judge:
    """Compares what relays return with what `database` has. For the thread that opened it."""

    def __init__(
        self, database: Database, limits: EventLimits, reach: CrawlReach, clock: Clock, *, suppresses_retracted: bool
    ) -> None:
        self._database = database
        self._limits = limits
        self._reach = reach
        self._clock = clock
        self._suppresses_retracted = suppresses_retracted

    def judge(
        self, events: Iterable[Event], subject: AuditSubject, rule: Rule, relay: int, crawled_since: int
    ) -> Judged:
        """Take apart what a relay, crawled since then (ms), returned to a question about `subject`."""
        now = self._clock.now_ms()
        by_id = {event.id: event for event in events}
        with self._database.read() as tx:
            known = audits.known(tx, [(event.id, event.created_at) for event in by_id.values()])
        had = tuple((by_id[event_id].created_at, event_id) for event_id in known)
        excluded: Counter[str] = Counter()
        candidates: list[Suspect] = []
        reached = self._reach.since(subject.since // 1000, crawled_since // 1000)
        for event in (event for event in by_id.values() if event.id not in known):
            raw = event.to_json()
            reason = rejection_reason(event, len(raw), self._limits, now // 1000)
            if reason is None and event.created_at < reached:
                reason = BEYOND
            if reason is None and self._is_suppressed(event, now // 1000):
                reason = SUPPRESSED
            if reason is not None:
                excluded[reason] += 1
            else:
                candidates.append(Suspect(relay, rule, event.id, event.created_at, raw, now))
        return Judged(had, tuple(candidates), excluded)

    def _is_suppressed(self, event: Event, now_s: int) -> bool:
        if not self._suppresses_retracted:
            return False
        with self._database.read() as tx:
            return retractions.how_retracted(tx, event, now_s) is not None
