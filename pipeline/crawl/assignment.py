"""Which relays this process crawls: its share of those that are chosen from the store for all."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from pipeline.crawl.choice import RelayChoice
from pipeline.crawl.ingester import Batch, Ingester
from pipeline.crawl.relay_pool import RelayPool
from pipeline.crawl.relay_shares import RelayShares
from pipeline.crawl.selection import (
    Selected,
    Skipped,
    fetching_lists,
    tried_anew,
    trusted,
)
from pipeline.crawl.sync.plan import Plan
from pipeline.process.stage import StageContext
from pipeline.relay.dial_gate import DialGate
from pipeline.store import backfills, relay_candidates, relay_status, relays
from pipeline.store.database import Database
from pipeline.store.relay_status import RelayState


@dataclass(slots=True)
class RelayAssignment:
    """Lets the pool of one process follow what the store knows of relays."""

    ctx: StageContext
    database: Database
    pool: RelayPool
    ingester: Ingester
    dial_gate: DialGate
    shares: RelayShares
    bootstrap: tuple[str, ...] | None = None
    """The bootstrap relays, as they are written, when this process last wrote them down."""
    list_relays: frozenset[int] = frozenset()
    """Which relays, besides the operator's, are asked for relay lists."""
    has_looked: bool = False
    choice: RelayChoice = field(default_factory=RelayChoice)

    def refresh(self, plan: Plan) -> None:
        """Choose among the relays that are known now, and let the pool follow."""
        self._note_bootstrap()
        self.shares.refresh()
        # One time for all of it: a look may take as long as a trial has left.
        now = self.ctx.clock.now_ms()
        selected = self._select(now)
        self.list_relays = fetching_lists(selected, self.list_relays)
        mine = self.shares.among(selected)
        if tried := tried_anew(mine, now):
            with self.database.write() as tx:
                relay_candidates.mark_tried(tx, tried, now)
        if not self.has_looked:
            self.has_looked = True
            self._correct_states({each.candidate.relay for each in mine})
        with self.database.read() as tx:
            self.pool.backfills = backfills.still_open(tx)
        self.pool.mode = self.ctx.settings.crawl_mode
        self.pool.list_relays = self.list_relays
        self.pool.set_relays(self.database, mine, plan)

    def _note_bootstrap(self) -> None:
        """Write the bootstrap relays down where the settings have changed."""
        written = tuple(relay.spelling for relay in self.ctx.settings.bootstrap_relays)
        if written != self.bootstrap:
            self.bootstrap = written
            with self.database.write() as tx:
                relays.set_bootstrap(tx, written, self.ctx.clock.now_ms())

    def _select(self, now: int) -> list[Selected]:
        """Return the relays that all processes crawl together, the best first."""
        # All processes find the same; one counts it.
        counts = self.shares.is_first
        selected, skipped = self.choice.choose(self.database, self.ctx.settings, now, counts_skipped=counts)
        self.dial_gate.trust(*trusted(selected, now))
        for reason in Skipped if counts else ():
            self.ctx.metrics.relays_skipped.labels(reason.value).set(skipped[reason])
        return selected

    def _correct_states(self, mine: Collection[int]) -> None:
        """Correct the states that a killed process left of relays which are not crawled any more."""
        with self.database.read() as tx:
            stale = [
                each
                for each in relay_status.statuses(tx)
                if each.state is not RelayState.DISCONNECTED
                and each.relay not in mine
                and self.shares.includes(each.address)
            ]
        now = self.ctx.clock.now_ms()
        for each in stale:
            over = replace(each, state=RelayState.DISCONNECTED, state_since=now, subscriptions=0, rate_limit_backoff=0)
            self.ingester.submit(Batch(each.relay, now, status=over))
