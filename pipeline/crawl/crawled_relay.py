"""One relay that a crawler process crawls, and how it is taken up again from what the database knows of it."""

import random
from dataclasses import dataclass, field

from pipeline.crawl.connection import Connection
from pipeline.crawl.context import CrawlContext
from pipeline.crawl.dial_queue import DueRelay
from pipeline.crawl.reconnect import resumed_at
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.selection import Selected
from pipeline.crawl.sync.absences import Places
from pipeline.crawl.sync.costs import RelayCosts
from pipeline.crawl.sync.cursors import CursorTable, up_to_generation
from pipeline.crawl.sync.item_sets import ItemSetProvider
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.relay_lists import RelayLists
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.crawl.sync.timing import CrawlSettings, Horizon
from pipeline.process.metrics import Metrics
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.settings.choices import CrawlMode
from pipeline.store import cursors, gaps, relay_forms, relay_samples, runs, sweeps
from pipeline.store.backfills import Backfill
from pipeline.store.database import Database
from pipeline.store.runs import Doubt


@dataclass(frozen=True, slots=True)
class RelayOrders:
    """How the operator, or the process, wants one relay to be asked."""

    mode: CrawlMode
    fetches_lists: bool
    """Whether it is also asked for the relay lists of all wanted authors."""
    backfills: tuple[Backfill, ...]


@dataclass(slots=True)
class CrawledRelay:
    """One relay of a crawler process, over all its connections. For the main thread."""

    selected: Selected
    sync: RelaySync
    host: HostBackoff
    metrics: RelayMetrics
    failures: int
    next_dial_at: float
    """By the monotonic clock, which is never set."""
    was_connected: bool = False
    is_dropped: bool = False
    rank: int = 0
    """Its place among those that are crawled, 0 for the best."""
    is_missing: bool = False
    """Nothing was found at the address as it is spelled."""
    connection: Connection | None = None
    """While it is dialled or connected."""

    @property
    def due(self) -> DueRelay:
        """Its place among those to be dialled."""
        candidate = self.selected.candidate
        return DueRelay(candidate.relay, self.next_dial_at, self.rank, candidate.by_operator)

    def spell(self, selected: Selected, mono: float) -> None:
        """Dial by the spelling of now from the next time on, which is at once where nothing was found at another."""
        if self.selected.address.spelling != selected.address.spelling:
            self.selected = selected
            if self.is_missing:
                self.is_missing, self.next_dial_at = False, mono

    def follow(self, orders: RelayOrders, plan: Plan) -> None:
        """Go by `orders` from now on; the reactor decides by them when it next looks for what to ask."""
        sync = self.sync
        before = RelayOrders(sync.strategy.mode, sync.fetches_lists, sync.backfill_jobs.ordered)
        if orders == before:
            return
        sync.strategy.mode = orders.mode
        sync.fetches_lists = orders.fetches_lists
        sync.backfill_jobs.ordered = orders.backfills
        self.post_plan(plan)

    def post_plan(self, plan: Plan) -> None:
        """Let its connection follow `plan`, if it has one."""
        if self.connection is not None:
            self.connection.post_plan(plan)


@dataclass(slots=True)
class RelayLoader:
    """Takes up relays where a former process left them."""

    context: CrawlContext
    metrics: Metrics
    settings: CrawlSettings
    item_sets: ItemSetProvider | None
    lists: RelayLists
    rng: random.Random
    places: Places = field(default_factory=Places)
    hosts: dict[str, HostBackoff] = field(default_factory=dict)

    def load(self, database: Database, selected: Selected, plan: Plan, now: int) -> CrawledRelay:
        """Return what is crawled of `selected`, as far as a former process came with it."""
        candidate, address = selected.candidate, selected.address
        since = crawled_since(selected, now)
        with database.read() as tx:
            doubt = runs.last_doubt(tx)
            claims = up_to_generation(plan.generation, cursors.of_relay(tx, candidate.relay))
            table = CursorTable(candidate.relay, claims, sweeps.of_relay(tx, candidate.relay))
            open_gaps = gaps.of_relay(tx, candidate.relay)
            checks = relay_forms.of_relay(tx, candidate.relay)
            sample = relay_samples.of_relay(tx, candidate.relay)
        limits = LearnedLimits(RelayLimits.from_json(candidate.limits).as_of(now // 1000))
        sync = RelaySync(
            cursors=table,
            limits=limits,
            horizon=Horizon(self.settings, (now if since is None else since) // 1000, *_seconds(doubt, now)),
            plan=plan,
            item_sets=self.item_sets,
            gaps=open_gaps,
            places=self.places,
        )
        sync.share_pace(self.context.late_pace)
        sync.pacing.costs = RelayCosts(self.context.stranger_byte_rate, self.context.clock.monotonic())
        sync.audit.knowledge.recall(checks)
        sync.identity.recall(sample)
        sync.absences.recall(candidate.owed_since)
        sync.named = self.lists.at(candidate.relay)
        host = self.hosts.setdefault(address.host_key, HostBackoff(self.rng))
        wait_ms = resumed_at(candidate.next_dial_at, candidate.state_since, now) - now
        return CrawledRelay(
            selected, sync, host, RelayMetrics(self.metrics, address.url, self.context.ingester.count_dropped),
            candidate.failures, self.context.clock.monotonic() + wait_ms / 1000,
        )  # fmt: skip


def crawled_since(selected: Selected, now: int) -> int | None:
    """Return when (ms) it was first crawled; None if it never was, or by a clock that was ahead."""
    since = selected.candidate.crawled_since
    return None if since is None or since > now else since


def _seconds(doubt: Doubt | None, now: int) -> tuple[int, int]:
    """Return what `Horizon` takes of a doubt, noticed at `now` (ms) at the latest."""
    return (0, 0) if doubt is None else (doubt.since // 1000, min(doubt.noticed_at, now) // 1000)
