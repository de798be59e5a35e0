"""Audits of a small sample, at intervals, within a stage."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.audit.audit import Audit
from pipeline.audit.client import Interrupted
from pipeline.audit.findings import AuditReport
from pipeline.audit.journal import Journal, Scope
from pipeline.audit.policy import SETTLE_S, is_auditable, policy_of
from pipeline.process.stage import StageContext
from pipeline.store import audits, relay_records
from pipeline.store.database import Database
from pipeline.store.relay_records import RelayRecord
from pipeline.store.relay_status import RelayState

SPAN_S: Final = 86_400
AUTHORS: Final = 20
USERS: Final = 5
RELAYS: Final = 5
RATE: Final = 1.0
"""Requests a second to one relay."""
_LOOK_S: Final = 1.0
_MAX_RELAYS: Final = 100_000
_MAX_LOGGED: Final = 20


@dataclass(frozen=True, slots=True)
class AuditPace:
    """How soon things are done.

    `first_ms`: the least time from a start, which has to catch up, to an audit. `catch_up_ms`: authors wanted and
    relays crawled for less than this are not drawn, as their past is still being fetched. `lag_s`: what is younger may
    still be on its way from a relay that is swept now and then. `settle_s`: after this time what is still unknown is a
    miss. `relay_s`: a relay that takes longer is asked no more; most take some minutes.
    """

    first_ms: int = 900_000
    catch_up_ms: int = 3_600_000
    lag_s: int = 900
    settle_s: float = SETTLE_S
    relay_s: float = 3_600.0


class ScheduledAudits:
    """Audits a sample every `EVENTS_AUDIT_EVERY`; `run` belongs in a thread of its own."""

    def __init__(self, ctx: StageContext, open_database: Callable[[], Database], pace: AuditPace | None = None) -> None:
        self._ctx = ctx
        self._open_database = open_database
        self._clock = ctx.clock
        self._stop = ctx.stop
        self._log = ctx.log
        self._pace = AuditPace() if pace is None else pace
        self._began = ctx.clock.now_ms()
        self._tried_at = 0

    def run(self) -> None:
        """Audit at intervals, until the stage stops."""
        with self._open_database() as database:
            while not self._stop.wait(_LOOK_S):
                self.turn(database)

    def turn(self, database: Database) -> None:
        """Audit if it is time. A failure is logged, and the next audit is due as usual."""
        every, now = self._ctx.settings.audit_every, self._clock.now_ms()
        soon = min(every, self._pace.first_ms)
        if not every or now < max(self._tried_at + every, self._began + soon):
            return
        self._tried_at = now
        try:
            with database.read() as tx:
                last = audits.latest(tx).at
            if last <= now < last + every:
                self._tried_at = last
                return
            scope, records = self._sample(database)
            if scope.relays and scope.subjects:
                self._audit(database, scope, records)
            else:
                # A service that has just been set up is not left alone for hours.
                self._tried_at = now - every + soon
        except Interrupted:
            return
        except Exception:
            self._log.exception("audit failed")

    def _audit(self, database: Database, scope: Scope, records: Sequence[RelayRecord]) -> None:
        pace = self._pace
        policy = policy_of(self._ctx.settings, rate=RATE, settle_s=pace.settle_s, relay_s=pace.relay_s)
        one = Audit(scope, policy, self._open_database, self._clock, self._stop, Journal(None, scope))
        one.ask(records)
        found = one.report(one.settle(database, lambda: self._ctx.bells.ring("saver")))
        self._report(found)
        with database.write() as tx:
            audits.put(tx, self._clock.now_ms(), found.total.held, found.total.missed)

    def _sample(self, database: Database) -> tuple[Scope, list[RelayRecord]]:
        now_ms = self._clock.now_ms()
        now, settled = now_ms // 1000, now_ms - self._pace.catch_up_ms
        since = now - min(SPAN_S, self._ctx.settings.seen_retention // 1000)
        with database.read() as tx:
            known = relay_records.records(tx, everything=False, limit=_MAX_RELAYS)
            drawn = (*audits.sample_users(tx, USERS), *audits.sample_wanted(tx, AUTHORS))
        connected = [each for each in known if is_auditable(each) and each.state is RelayState.CONNECTED]
        connected = [each for each in connected if (each.crawled_since or 0) <= settled]
        records = random.sample(connected, min(RELAYS, len(connected)))
        subjects = {each.key: each for each in drawn if each.since <= settled}
        until = max(since, now - self._pace.lag_s)
        return Scope(since, until, tuple(subjects.values()), tuple(each.relay for each in records)), records

    def _report(self, found: AuditReport) -> None:
        asked = sum(not each.problem for each, _ in found.by_relay)
        self._log.info(
            "sample audited", held=found.total.held, missed=found.total.missed, relays=asked, late=found.late
        )
        addresses = {each.relay: each.address for each, _ in found.by_relay}
        for miss in found.misses[:_MAX_LOGGED]:
            relays = ", ".join(addresses[relay] for relay in miss.relays)
            self._log.warning("missed event found by an audit", event=miss.event_id.hex(), relays=relays)
