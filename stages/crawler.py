"""`stage crawler`: reads its share of the relays and appends verified events to the inbox."""

import functools
import gc
import math
import resource
import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.crawl.context import CrawlContext
from pipeline.crawl.crew import Crew, Share
from pipeline.crawl.dial_queue import DialBounds
from pipeline.crawl.flow_control import Backpressure, Marks, TransactionBatcher
from pipeline.crawl.ingester import Batch, EventLimits, Ingester
from pipeline.crawl.ranking import ranked
from pipeline.crawl.reconnect import dial_rate, fast_dial_rate
from pipeline.crawl.relay_pool import JOIN_S, RelayPool
from pipeline.crawl.selection import (
    Selection,
    Skipped,
    choose,
    fetching_lists,
    is_share_of,
    passed_over,
    share_of,
    tried_anew,
    trusted,
)
from pipeline.crawl.stored_item_sets import StoredItemSets
from pipeline.crawl.sync.plan import Plan, Planner
from pipeline.crawl.sync.timing import CrawlSettings
from pipeline.nostr.address import RelayAddress
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.process import procfs
from pipeline.process.liveness import utc
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.metrics import LEFT
from pipeline.process.rate import TokenBucket
from pipeline.process.slots import held_indexes, is_supervised
from pipeline.process.stage import StageContext
from pipeline.relay.authentication import AuthState
from pipeline.relay.dial import Compression, DialPolicy, dial
from pipeline.relay.dial_gate import DialGate, DialRates
from pipeline.relay.nip11 import RelayInformation, fetch_information
from pipeline.relay.secret_key import read_secret_key
from pipeline.relay.websocket import WebSocket
from pipeline.settings.choices import SinkKind
from pipeline.settings.config import Config
from pipeline.store import (
    backfills,
    disk,
    inbox,
    outbox,
    relay_candidates,
    relay_lists,
    relay_status,
    relays,
    runs,
    wanted_authors,
)
from pipeline.store.counters import StageCounters
from pipeline.store.database import Database, Tx
from pipeline.store.known_mentions import KnownMentions
from pipeline.store.lease import QueueSize
from pipeline.store.outbox import SinkName
from pipeline.store.relay_status import RelayState
from pipeline.store.runs import Run
from pipeline.store.schema import open_database

USER_AGENT: Final = "event-service"
# The websocket is open already; what the relay says of itself is worth a short wait only.
_INFORMATION_TIMEOUT_S: Final = 5.0
_SPARE_DESCRIPTORS: Final = 256
_TURN_S: Final = 0.1
_LOOK_AT_RELAYS_S: Final = 5.0
_LOOK_AT_QUEUES_S: Final = 0.25
_LOOK_AT_LISTS_S: Final = 2.0
# A thread that turns every second or two and has not for this time is hung; sorting a million items takes longer.
_THREAD_LIMIT_S: Final = 8.0
_SLOW_THREAD_LIMIT_S: Final = 60.0
_ALIVE_EVERY_S: Final = runs.ALIVE_EVERY_MS / 1000
# A live relay's cursors move every five minutes.
_BEHIND_BOUNDS_S: Final = (60.0, 600.0, 3600.0, 86_400.0, math.inf)
# Candidates looked at beyond those dialled, since some fall to the skip list and the bound per host.
_SPARE_CANDIDATES: Final = 20_000
# A fiftieth of one core at most goes into looking through them.
_LOOK_SHARE: Final = 50.0
_MAX_LOOK_S: Final = 30.0

# Objects, and collections of the younger generation, before each generation of Python's garbage is looked through.
_GC_THRESHOLDS: Final = (50_000, 20, 50)


def run(ctx: StageContext) -> None:
    """Crawl until stopped; what was handed over by then is committed before this returns."""
    config = ctx.config
    # Events hold no cycles: with Python's thresholds the collector takes a third of the time that parsing takes.
    gc.set_threshold(*_GC_THRESHOLDS)
    open_here = functools.partial(open_database, config.database_path, ctx.clock, ctx.on_locked)
    counts = StageCounters(ctx.slot, ctx.metrics)
    limits = EventLimits(config.max_event_bytes, config.max_event_tags)
    watch = ctx.heartbeat.watch
    intake = Ingester(open_here, limits, ctx.clock, counts, watch("intake", _THREAD_LIMIT_S).turn)
    gate = Backpressure(_marks(config))
    secret = read_secret_key(config.secret_key_path)
    log = RateLimitedLogger(ctx.log, ctx.clock)
    turn = watch("reactor", _THREAD_LIMIT_S).turn
    bounds = FrameBounds(limits.bytes, limits.tags)
    shared = CrawlContext(
        ctx.clock,
        intake,
        TransactionBatcher(intake),
        gate,
        log,
        bounds,
        secret,
        turn,
        lambda: ctx.settings.relay_byte_rate,
    )
    dial_gate = DialGate(DialRates.of(config.crawlers, config.max_relays_per_host), ctx.clock)
    policy = DialPolicy(
        allow_private=config.allow_private_relays, user_agent=USER_AGENT, socks_proxy=config.socks_proxy,
        compression=Compression() if config.relay_compression else None, gate=dial_gate,
        own=config.listen_address,
    )  # fmt: skip
    _raise_file_limit(ctx)
    holdings = StoredItemSets(open_here, ctx.clock, log, on_turn=watch("holdings", _SLOW_THREAD_LIMIT_S).turn)
    now = ctx.clock.monotonic()
    dials = DialBounds(TokenBucket(dial_rate(config.crawlers), now), TokenBucket(fast_dial_rate(config.crawlers), now))
    fleet = RelayPool(
        _Dialler(ctx, policy), shared, ctx.metrics, _crawl_settings(config), dials, holdings, gate=dial_gate
    )
    with open_here() as database:
        counts.resume(database, ctx.is_abandoned)
        _begin_run(ctx, database)
        writer = threading.Thread(target=intake.run, name="intake", daemon=True)
        writer.start()
        reader = threading.Thread(target=holdings.run, name="holdings", daemon=True)
        reader.start()
        try:
            _Crawler(ctx, database, fleet, intake, gate, dial_gate).run(writer)
        finally:
            holdings.finish()
            fleet.close()
            intake.finish()
            writer.join(JOIN_S)
            reader.join(JOIN_S)
        if ctx.stop.is_set() and not writer.is_alive():
            with database.write(durable=True) as tx:
                runs.end(tx, ctx.slot.name, ctx.clock.now_ms())


def _begin_run(ctx: StageContext, database: Database) -> None:
    """Note that this process lives, and what the ones before it may have lost."""
    run, now = _run(ctx), ctx.clock.now_ms()
    with database.write() as tx:
        corrected = runs.correct_first_crawls(tx, run, now)
        doubt = runs.begin(tx, run, now)
    if corrected:
        ctx.log.warning(
            "the clock was behind when relays were first crawled, they are crawled from now", relays=corrected
        )
    if doubt is not None:
        ctx.log.warning(
            "unclean end or restored database, the last days are swept again", since=utc(doubt.since / 1000)
        )


def _note_alive(ctx: StageContext, database: Database) -> None:
    with database.write() as tx:
        runs.begin(tx, _run(ctx), ctx.clock.now_ms())


def _run(ctx: StageContext) -> Run:
    booted_at = ctx.clock.now_ms() - round(procfs.uptime_s() * 1000)
    return Run(ctx.slot.name, procfs.boot_id(), ctx.config.database_path.stat().st_ino, booted_at)


def _crawl_settings(config: Config) -> CrawlSettings:
    return CrawlSettings(
        backfill=config.backfill // 1000,
        lookback=config.new_author_lookback // 1000,
        resweep_window=config.resweep_window // 1000,
        resweep_every=config.resweep_every // 1000,
    )


def _raise_file_limit(ctx: StageContext) -> None:
    """A relay takes a descriptor; the usual soft limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SPARE_DESCRIPTORS + ctx.config.max_relays
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        except (OSError, ValueError):
            most = soft
        if most < wanted:
            ctx.log.warning("open-file limit too low for EVENTS_MAX_RELAYS", limit=most, wanted=wanted)


@dataclass(frozen=True, slots=True)
class _Dialler:
    ctx: StageContext
    policy: DialPolicy

    def dial(self, address: RelayAddress) -> WebSocket:
        return dial(address, self.policy, self.ctx.clock, self.ctx.stop.is_set)

    def information(self, address: RelayAddress) -> RelayInformation:
        # Only a relay that has just been connected to is asked, once a day.
        return fetch_information(
            address, replace(self.policy, gate=None), self.ctx.clock, self.ctx.stop.is_set, _INFORMATION_TIMEOUT_S
        )


@dataclass(slots=True)
class _Crawler:
    """The main loop: follows the store, and lets the fleet follow it."""

    ctx: StageContext
    database: Database
    fleet: RelayPool
    intake: Ingester
    gate: Backpressure
    dial_gate: DialGate
    bootstrap: tuple[str, ...] | None = None
    """The bootstrap relays, as they are written, when this process last wrote them down."""
    list_relays: frozenset[int] = frozenset()
    """Which relays, besides the operator's, are asked for relay lists."""
    crew: Crew = field(init=False)
    share: Share | None = None
    has_looked: bool = False
    reported_behind: set[str] = field(default_factory=set)
    """The labels of relays that are said to be behind."""
    list_change: int = 0
    """The newest change of relay lists that was followed."""
    namers: KnownMentions = field(default_factory=KnownMentions)

    def __post_init__(self) -> None:
        self.crew = Crew(self.ctx.index)

    def run(self, writer: threading.Thread) -> None:
        planner = Planner()
        plan = self._refresh_plan(planner, None)
        seen_version = -1
        relays_at = queues_at = lists_at = 0.0
        alive_at = self.ctx.clock.monotonic() + _ALIVE_EVERY_S
        while not self.ctx.stop.is_set() and writer.is_alive() and self.fleet.is_alive:
            now = self.ctx.clock.monotonic()
            version = self.database.data_version()
            if version != seen_version:
                seen_version = version
                plan = self._refresh_plan(planner, plan)
            if now >= relays_at:
                self._refresh_relays(plan)
                # Looking through ten thousand takes a while; it must not become the main work.
                took = self.ctx.clock.monotonic() - now
                relays_at = now + max(_LOOK_AT_RELAYS_S, min(_LOOK_SHARE * took, _MAX_LOOK_S))
                self._report_lag()
            if now >= alive_at:
                alive_at = now + _ALIVE_EVERY_S
                _note_alive(self.ctx, self.database)
            if now >= queues_at:
                queues_at = now + _LOOK_AT_QUEUES_S
                self._refresh_backpressure()
            if now >= lists_at:
                lists_at = now + _LOOK_AT_LISTS_S
                self._refresh_relay_lists(planner.generation, plan)
            self.fleet.tick(plan)
            self.ctx.metrics.relay_downloader_gauge.set(self.fleet.connected)
            self.ctx.metrics.dials_waiting.set(self.fleet.waiting)
            self.ctx.heartbeat.beat()
            self.ctx.stop.wait(_TURN_S)

    def _refresh_plan(self, planner: Planner, current: Plan | None) -> Plan:
        """Return the plan for what is wanted now; the ingester gets it first, so that no event comes too early."""
        with self.database.read() as tx:
            if current is not None and wanted_authors.latest_generation(tx) == planner.generation:
                return current
            changes = wanted_authors.changes_since(tx, planner.generation)
            named = self._apply_relay_lists(tx, planner.generation)
        planner.apply(changes)
        plan = planner.plan()
        self.intake.update_relevance(changes)
        # First, so that what is new is ordered by it from the beginning.
        self.fleet.set_relay_lists(named, plan)
        self.fleet.set_plan(plan)
        return plan

    def _refresh_relay_lists(self, generation: int, plan: Plan) -> None:
        with self.database.read() as tx:
            named = self._apply_relay_lists(tx, generation) if relay_lists.latest(tx) != self.list_change else ()
        self.fleet.set_relay_lists(named, plan)

    def _apply_relay_lists(self, tx: Tx, generation: int) -> Collection[int]:
        """Take what changed of relay lists, and of whose are wanted since `generation`; return the relays affected."""
        named = self.fleet.lists.apply(relay_lists.changed_since(tx, self.list_change, generation))
        self.list_change = relay_lists.latest(tx)
        return named

    def _refresh_relays(self, plan: Plan) -> None:
        config = self.ctx.settings
        written = tuple(relay.spelling for relay in config.bootstrap_relays)
        if written != self.bootstrap:
            self.bootstrap = written
            with self.database.write() as tx:
                relays.set_bootstrap(tx, written, self.ctx.clock.now_ms())
        share = self._share()
        selection = Selection(
            config.max_relays, config.max_relays_per_host, config.skip_relays, config.allow_private_relays,
            allow_onion=config.socks_proxy is not None,
            ports=config.allowed_ports, own=config.public_url,
        )  # fmt: skip
        now = self.ctx.clock.now_ms()
        with self.database.read() as tx:
            found = relay_candidates.candidates(
                tx, discovered=config.discover_relays, limit=config.max_relays + _SPARE_CANDIDATES
            )
            chosen = choose(ranked(found, now), selection, now, functools.partial(self.namers.of, tx))
        selected = chosen.selected
        self.dial_gate.trust(*trusted(selected, now))
        if share is not None and share.index == 0:
            # All processes find the same; one logs it.
            skipped = passed_over(found, selection) + chosen.crowded
            for reason in Skipped:
                self.ctx.metrics.relays_skipped.labels(reason.value).set(skipped[reason])
        self.list_relays = fetching_lists(selected, self.list_relays)
        mine = [] if share is None else share_of(selected, share.index, share.count)
        if tried := tried_anew(mine, now):
            with self.database.write() as tx:
                relay_candidates.mark_tried(tx, tried, now)
        if not self.has_looked:
            self.has_looked = True
            self._correct_states({each.candidate.relay for each in mine}, share)
        with self.database.read() as tx:
            self.fleet.backfills = backfills.still_open(tx)
        self.fleet.mode = config.crawl_mode
        self.fleet.list_relays = self.list_relays
        self.fleet.set_relays(self.database, mine, plan)

    def _share(self) -> Share | None:
        """Return the share of the relays that this process takes now; says when that changes."""
        path, most = self.ctx.config.database_path, self.ctx.settings.crawlers
        held = held_indexes(path, self.ctx.slot.stage)
        # If no process holds a slot, as in a test, the settings decide.
        supervised = most if not held or is_supervised(path) else None
        share = self.crew.share(held, supervised, self.ctx.clock.monotonic())
        if share != self.share or not self.has_looked:
            self.share = share
            if share is None:
                self.ctx.log.warning("idle, the supervised crawlers take all relays", supervised=most)
            else:
                self.ctx.log.info("crawls a share of the relays", index=share.index, of=share.count)
        return share

    def _correct_states(self, mine: Collection[int], share: Share | None) -> None:
        """Correct the states that a killed process left of relays which are not crawled any more."""
        with self.database.read() as tx:
            stale = [
                each
                for each in relay_status.statuses(tx)
                if each.state is not RelayState.DISCONNECTED
                and each.relay not in mine
                and share is not None
                and is_share_of(each.address, share.index, share.count)
            ]
        now = self.ctx.clock.now_ms()
        for each in stale:
            over = replace(each, state=RelayState.DISCONNECTED, state_since=now, subscriptions=0, rate_limit_backoff=0)
            self.intake.submit(Batch(each.relay, now, status=over))

    def _report_lag(self) -> None:
        metrics = self.ctx.metrics
        wall = self.ctx.clock.now_ms() // 1000
        behind = self.fleet.seconds_behind(wall)
        # With no relay connected, all are as far behind as the best of them.
        metrics.crawl_behind.set(max(behind.values()) if behind else self.fleet.least_behind(wall))
        reported = {metrics.address_labels.label(address): seconds for address, seconds in behind.items()}
        for label in self.reported_behind - reported.keys():
            metrics.crawl_relay_behind.labels(label).set(LEFT)
        for label, seconds in reported.items():
            metrics.crawl_relay_behind.labels(label).set(seconds)
        self.reported_behind = set(reported)
        for bound in _BEHIND_BOUNDS_S:
            metrics.crawl_relays_behind.labels(f"{bound:g}").set(sum(each <= bound for each in behind.values()))
        metrics.queries_without_subscription.set(self.fleet.unserved_queries)
        metrics.crawl_live_missed.set(self.fleet.polled_for_misses)
        metrics.firehose_relays.set(self.fleet.firehose_relays)
        states = self.fleet.auth_states()
        for state in AuthState:
            metrics.crawl_auth.labels(state.value).set(states[state])

    def _refresh_backpressure(self) -> None:
        config = self.ctx.settings
        most = config.backpressure_high + 1
        with self.database.read() as tx:
            waiting = inbox.size(tx, most)
            if config.sink.kind is not SinkKind.NONE:
                # Rows of a sink that is off do not count.
                owed = outbox.size(tx, SinkName.PUBSUB, most)
                waiting = QueueSize(waiting.events + owed.events, waiting.bytes + owed.bytes)
            has_room = disk.has_room_for_strangers(tx, config.max_database_bytes)
        self.intake.has_room_for_strangers = has_room
        self.gate.set_marks(_marks(config))
        self.gate.update(waiting)


def _marks(config: Config) -> Marks:
    return Marks(config.backpressure_high, config.backpressure_low, config.backpressure_bytes)
