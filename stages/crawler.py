"""`stage crawler`: reads its share of the relays and appends verified events to the inbox."""

import functools
import gc
import math
import resource
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.crawl.assignment import RelayAssignment
from pipeline.crawl.context import CrawlContext
from pipeline.crawl.crawl_report import CrawlReport
from pipeline.crawl.dial_queue import DialBounds
from pipeline.crawl.eager_dialler import EagerDialler
from pipeline.crawl.flow_control import Backpressure, Marks, TransactionBatcher
from pipeline.crawl.ingester import Ingester
from pipeline.crawl.reconnect import dial_rate, fast_dial_rate
from pipeline.crawl.relay_pool import JOIN_S, RelayPool
from pipeline.crawl.relay_shares import LocalShares, RelayShares
from pipeline.crawl.stored_item_sets import StoredItemSets
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.planner import Planner
from pipeline.crawl.sync.timing import CrawlSettings
from pipeline.errors import EventServiceError
from pipeline.nostr.address import RelayAddress
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.process import memory, procfs
from pipeline.process.liveness import utc
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.rate import TokenBucket
from pipeline.process.stage import StageContext
from pipeline.process.tracing import EventTracer
from pipeline.relay.dial import Compression, DialPolicy, dial
from pipeline.relay.dial_gate import DialGate, DialRates
from pipeline.relay.nip11 import RelayInformation, fetch_information
from pipeline.relay.secret_key import read_secret_key
from pipeline.relay.websocket import WebSocket
from pipeline.rules.acceptance import EventLimits
from pipeline.settings.choices import HostRole
from pipeline.settings.config import Config
from pipeline.store import (
    disk,
    pending,
    relay_lists,
    runs,
    wanted_authors,
)
from pipeline.store.counters import StageCounters
from pipeline.store.database import Database, Tx
from pipeline.store.runs import Run
from pipeline.store.schema import open_database

USER_AGENT: Final = "event-service"
# The websocket is open already; what the relay says of itself is worth a short wait only.
_INFORMATION_TIMEOUT_S: Final = 5.0
_SPARE_DESCRIPTORS: Final = 256
# Turns are so far apart at least, however often the bell rings.
_TURN_S: Final = 0.1
# The longest time between two turns, where nothing is due.
_IDLE_S: Final = 1.0
_LOOK_AT_RELAYS_S: Final = 5.0
_LOOK_AT_QUEUES_S: Final = 0.25
_LOOK_AT_LISTS_S: Final = 2.0
# A thread that turns every second or two and has not for this time is hung; sorting a million items takes longer.
_THREAD_LIMIT_S: Final = 8.0
_SLOW_THREAD_LIMIT_S: Final = 60.0
_ALIVE_EVERY_S: Final = runs.ALIVE_EVERY_MS / 1000
# A plan of what is wanted takes milliseconds, but tenths of a second while a crowd registers, and then it is made this
# many times as long after the one before, so that a tenth of a core goes into it and several changes into one.
_PLAN_SHARE: Final = 9.0
_MAX_PLAN_REST_S: Final = 1.0
# A fiftieth of one core at most goes into looking through them.
_LOOK_SHARE: Final = 50.0
_MAX_LOOK_S: Final = 30.0

# The main loop reads little repeatedly; the connections of the ingester and of item sets have more.
_CACHE_KIB: Final = 8 << 10

# Objects, and collections of the younger generation, before each generation of Python's garbage is looked through.
_GC_THRESHOLDS: Final = (50_000, 20, 50)


def run(ctx: StageContext) -> None:
    """Crawl until stopped; what was handed over by then is committed before this returns."""
    with ctx.tracing() as tracer:
        _crawl(ctx, tracer)


def _crawl(ctx: StageContext, tracer: EventTracer | None) -> None:
    # Events hold no cycles: with Python's thresholds the collector takes a third of the time that parsing takes.
    gc.set_threshold(*_GC_THRESHOLDS)
    _raise_file_limit(ctx)
    times = ctx.times()
    open_here = functools.partial(open_database, ctx.config.database_path, ctx.clock, ctx.on_locked, times)
    counters = StageCounters(ctx.slot, ctx.metrics)
    shares = _shares(ctx, open_here)
    shared = _context(ctx, open_here, counters, shares)
    shared.ingester.tracer = tracer
    item_sets = StoredItemSets(
        open_here, ctx.clock, shared.log, on_turn=ctx.heartbeat.watch("holdings", _SLOW_THREAD_LIMIT_S).turn
    )
    dial_gate = DialGate(DialRates.of(ctx.config.crawlers, ctx.config.max_relays_per_host), ctx.clock)
    pool = _relay_pool(ctx, shared, item_sets, dial_gate)
    if shares.fence is not None:
        pool.on_result = shares.on_result
    with open_here() as database:
        database.pragma("cache_size", -_CACHE_KIB)
        counters.resume(database, ctx.is_abandoned)
        _begin_run(ctx, database)
        shares.begin()
        writer = threading.Thread(target=shared.ingester.run, name="intake", daemon=True)
        writer.start()
        reader = threading.Thread(target=item_sets.run, name="holdings", daemon=True)
        reader.start()
        try:
            _Crawler(ctx, database, pool, shared.ingester, shared.backpressure, dial_gate, shares).run(writer)
        finally:
            item_sets.finish()
            pool.close()
            shared.ingester.finish()
            writer.join(JOIN_S)
            reader.join(JOIN_S)
            shares.finish()
        if ctx.stop.is_set() and not writer.is_alive():
            with database.write(durable=True) as tx:
                runs.end(tx, ctx.slot.name, ctx.clock.now_ms())


def _shares(ctx: StageContext, open_here: Callable[[], Database]) -> RelayShares:
    if ctx.config.role is not HostRole.CRAWLER:
        return LocalShares(ctx)
    from pipeline.crawl.leased_shares import LeasedShares  # noqa: PLC0415

    return LeasedShares(ctx, open_here, ctx.heartbeat.watch("shares", _THREAD_LIMIT_S).turn)


def _context(
    ctx: StageContext, open_here: Callable[[], Database], counters: StageCounters, shares: RelayShares
) -> CrawlContext:
    config, watch = ctx.config, ctx.heartbeat.watch
    limits = EventLimits(config.max_event_bytes, config.max_event_tags)
    ingester = Ingester(
        open_here, limits, ctx.clock, counters, watch("intake", _THREAD_LIMIT_S).turn,
        lambda: ctx.bells.ring(_next_stage(config)), ctx.times().waiting,
    )  # fmt: skip
    return CrawlContext(
        ctx.clock, ingester, TransactionBatcher(ingester), Backpressure(_marks(config)),
        RateLimitedLogger(ctx.log, ctx.clock), FrameBounds(limits.bytes, limits.tags),
        read_secret_key(config.secret_key_path), watch("reactor", _THREAD_LIMIT_S).turn,
        lambda: ctx.settings.relay_byte_rate, waiting=ctx.times().waiting, fence=shares.fence,
    )  # fmt: skip


def _next_stage(config: Config) -> str:
    """Return the stage that what is committed here is work for."""
    return "uplink" if config.role is HostRole.CRAWLER else "saver"


def _relay_pool(ctx: StageContext, context: CrawlContext, item_sets: StoredItemSets, dial_gate: DialGate) -> RelayPool:
    config, now = ctx.config, ctx.clock.monotonic()
    policy = DialPolicy(
        allow_private=config.allow_private_relays, user_agent=USER_AGENT, socks_proxy=config.socks_proxy,
        compression=Compression() if config.relay_compression else None, gate=dial_gate, own=config.listen_address,
    )  # fmt: skip
    dials = DialBounds(TokenBucket(dial_rate(config.crawlers), now), TokenBucket(fast_dial_rate(config.crawlers), now))
    return RelayPool(
        _Dialler(ctx, policy, context.may_ask), context, ctx.metrics, _crawl_settings(config), dials, item_sets,
        gate=dial_gate, on_ended=ctx.doorbell.ring if ctx.doorbell is not None else lambda: None,
    )  # fmt: skip


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


class EventsLost(EventServiceError):
    """What this process remembers as seen may be lost at the hub."""


class _Dialler:
    def __init__(self, ctx: StageContext, policy: DialPolicy, may_ask: Callable[[str], bool]) -> None:
        """`may_ask` says for a host key whether its relays may be asked now."""
        self._ctx = ctx
        self._policy = policy
        self._may_ask = may_ask
        quick = policy.quick()
        self._eager = EagerDialler(
            lambda address, cancelled: dial(
                address, quick, ctx.clock, lambda: cancelled() or self._is_cancelled(address)
            )
        )

    def dial(self, address: RelayAddress, *, is_fast: bool) -> WebSocket:
        if is_fast:
            return self._eager.dial(address)
        return dial(address, self._policy, self._ctx.clock, functools.partial(self._is_cancelled, address))

    def information(self, address: RelayAddress) -> RelayInformation:
        # Only a relay that has just been connected to is asked, once a day.
        return fetch_information(
            address, replace(self._policy, gate=None), self._ctx.clock,
            functools.partial(self._is_cancelled, address), _INFORMATION_TIMEOUT_S,
        )  # fmt: skip

    def _is_cancelled(self, address: RelayAddress) -> bool:
        return self._ctx.stop.is_set() or not self._may_ask(address.host_key)


@dataclass(slots=True)
class _Crawler:
    """The main loop: follows the store, and lets the fleet follow it."""

    ctx: StageContext
    database: Database
    relay_pool: RelayPool
    ingester: Ingester
    backpressure: Backpressure
    dial_gate: DialGate
    shares: RelayShares
    assignment: RelayAssignment = field(init=False)
    crawl_report: CrawlReport = field(init=False)
    list_change: int = 0
    """The newest change of relay lists that was followed."""

    def __post_init__(self) -> None:
        self.assignment = RelayAssignment(
            self.ctx, self.database, self.relay_pool, self.ingester, self.dial_gate, self.shares
        )
        self.crawl_report = CrawlReport(self.ctx.metrics, self.ctx.clock, self.relay_pool)

    def run(self, writer: threading.Thread) -> None:
        planner = Planner()
        plan = self._refresh_plan(planner, None)
        # All that is wanted was read, which is never read again.
        self.database.forget_pages()
        memory.give_back()
        seen_version = -1
        relays_at = queues_at = lists_at = plan_at = 0.0
        alive_at = self.ctx.clock.monotonic() + _ALIVE_EVERY_S
        while not self.ctx.stop.is_set() and writer.is_alive() and self.relay_pool.is_alive:
            now = self.ctx.clock.monotonic()
            if self.shares.is_outdated:
                raise EventsLost("the hub lost events of this host: crawlers start again, to ask for them")
            if self.ctx.doorbell is not None:
                # Before the look: what is rung for from here on ends the rest.
                self.ctx.doorbell.silence()
            version = self.database.data_version()
            is_quiet = version == seen_version
            if not is_quiet and now >= plan_at:
                seen_version = version
                plan = self._refresh_plan(planner, plan)
                plan_at = now + _plan_rest(self.ctx.clock.monotonic() - now)
            if now >= relays_at or self.shares.has_changed:
                self.assignment.refresh(plan)
                # Looking through ten thousand takes a while; it must not become the main work.
                took = self.ctx.clock.monotonic() - now
                relays_at = now + max(_LOOK_AT_RELAYS_S, min(_LOOK_SHARE * took, _MAX_LOOK_S))
                self.crawl_report.refresh()
            if now >= alive_at:
                alive_at = now + _ALIVE_EVERY_S
                _note_alive(self.ctx, self.database)
            if now >= queues_at:
                queues_at = now + _LOOK_AT_QUEUES_S
                self._refresh_backpressure()
            if now >= lists_at:
                lists_at = now + _LOOK_AT_LISTS_S
                self._refresh_relay_lists(planner.generation, plan)
            self.relay_pool.tick(plan)
            if self.shares.owes_answer:
                self.shares.on_crawled(self.relay_pool.host_keys)
            self.ctx.metrics.relay_downloader_gauge.set(self.relay_pool.connected)
            self.ctx.metrics.dials_waiting.set(self.relay_pool.waiting)
            self.ctx.heartbeat.beat()
            self._rest(now, is_quiet=is_quiet, plan_at=math.inf if version == seen_version else plan_at)

    def _rest(self, began: float, *, is_quiet: bool, plan_at: float) -> None:
        """Wait until something is due, as the plan is `plan_at`, or the bell rings; after a turn that `began` then."""
        if self.ctx.doorbell is not None:
            # What others commit may be more than backpressure lets pass.
            is_easy = self.backpressure.is_far or (is_quiet and self.backpressure.is_open)
            most_s = _IDLE_S if is_easy else _LOOK_AT_QUEUES_S
            plan_in_s = max(0.0, plan_at - self.ctx.clock.monotonic())
            self.ctx.doorbell.wait(self.ctx.stop, min(most_s, plan_in_s, self.relay_pool.rest_s()))
        self.ctx.stop.wait(max(0.0, began + _TURN_S - self.ctx.clock.monotonic()))

    def _refresh_plan(self, planner: Planner, current: Plan | None) -> Plan:
        """Return the plan for what is wanted now; the ingester gets it first, so that no event comes too early."""
        with self.database.read() as tx:
            if current is not None and wanted_authors.latest_generation(tx) == planner.generation:
                return current
            named = self._apply_relay_lists(tx, planner.generation)
            has_ceased = planner.apply(wanted_authors.stream_since(tx, planner.generation))
        plan = planner.plan()
        # Elsewhere they may have ceased to be wanted for a while that was over before this host heard of it.
        may_have_ceased = has_ceased or self.ctx.config.hub is not None
        self.ingester.update_relevance(planner.wanted(plan, has_ceased=may_have_ceased))
        # First, so that what is new is ordered by it from the beginning.
        self.relay_pool.set_relay_lists(named, plan)
        self.relay_pool.set_plan(plan)
        return plan

    def _refresh_relay_lists(self, generation: int, plan: Plan) -> None:
        with self.database.read() as tx:
            named = self._apply_relay_lists(tx, generation) if relay_lists.latest(tx) != self.list_change else {}
        self.relay_pool.set_relay_lists(named, plan)

    def _apply_relay_lists(self, tx: Tx, generation: int) -> Mapping[int, Collection[bytes]]:
        """Take what changed of lists, and of whose are wanted since `generation`; return by relay whom that affects."""
        named = self.relay_pool.lists.apply(relay_lists.changed_since(tx, self.list_change, generation))
        self.list_change = relay_lists.latest(tx)
        return named

    def _refresh_backpressure(self) -> None:
        config = self.ctx.settings
        most = config.backpressure_high + 1
        with self.database.read() as tx:
            waiting = pending.size(tx, most, config.sink_names)
            has_room = disk.has_room_for_strangers(tx, config.max_database_bytes)
            is_full = disk.is_full(tx, config.max_database_bytes)
        self.ingester.has_room_for_strangers = has_room
        self.backpressure.set_marks(_marks(config))
        self.backpressure.update(waiting, is_full=is_full)


def _plan_rest(took_s: float) -> float:
    """Return how long after the begin of one plan the next may begin."""
    return min((1 + _PLAN_SHARE) * took_s, took_s + _MAX_PLAN_REST_S)


def _marks(config: Config) -> Marks:
    return Marks(config.backpressure_high, config.backpressure_low, config.backpressure_bytes)
