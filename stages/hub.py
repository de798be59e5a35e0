"""`stage hub`: takes what other hosts handed over from the hub, in order, into this home host's inbox."""

from collections.abc import Sequence
from typing import Final

from pipeline.crawl.flow_control import Backpressure, Marks
from pipeline.crawl.home_wish import HomeWish
from pipeline.hub import (
    act_replay,
    backfill_feed,
    home_role,
    hub_log,
    known_ids,
    log_keeping,
    plan_feed,
    share_wish,
    state_taking,
)
from pipeline.hub.act_replay import ActReplay
from pipeline.hub.backfill_feed import BackfillFeed
from pipeline.hub.connection import HubConnection, HubUnavailable
from pipeline.hub.home_role import HomeRole
from pipeline.hub.hub_log import HubLog
from pipeline.hub.known_ids import KnownIdsFeed
from pipeline.hub.line import HubLine
from pipeline.hub.log_keeping import LogKeeping
from pipeline.hub.plan_feed import PlanFeed
from pipeline.hub.share_wish import ShareWish
from pipeline.hub.state_taking import StateTaking
from pipeline.hub.taking import HubParcel, Opened, open_parcel, take
from pipeline.hub.unread_parcels import UnreadParcels
from pipeline.process.clock import since_boot_s
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.stage import StageContext
from pipeline.process.stage_times import WaitReason
from pipeline.rules.acceptance import EventLimits
from pipeline.settings.config import Config
from pipeline.store import disk, pending
from pipeline.store.counters import StageCounters
from pipeline.store.database import Database
from pipeline.store.schema import open_database
from pipeline.store.user_acts import ActRules

FUNCTIONS: Final = (
    *hub_log.FUNCTIONS, *log_keeping.FUNCTIONS, *home_role.FUNCTIONS, *act_replay.FUNCTIONS, *share_wish.FUNCTIONS,
    *plan_feed.FUNCTIONS, *known_ids.FEED_FUNCTIONS,
    *backfill_feed.FUNCTIONS, *state_taking.FUNCTIONS,
)  # fmt: skip
CHANNEL: Final = "parcels"
# A notification may be lost with its connection; stop is looked at so often too.
_IDLE_S: Final = 0.5
_BEHIND_S: Final = 0.25
_COMPARE_EVERY_S: Final = 10.0


def run(ctx: StageContext) -> None:
    """Take until stopped."""
    config = ctx.config
    assert config.hub is not None, "checked by Config"
    line = HubLine(config.hub, FUNCTIONS, ctx.clock, ctx.log)
    with open_database(config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database:
        try:
            _HubLoop(ctx, database, line).run()
        finally:
            line.close()


class _HubLoop:
    def __init__(self, ctx: StageContext, database: Database, line: HubLine) -> None:
        self._ctx = ctx
        self._database = database
        self._line = line
        self._limits = EventLimits(ctx.config.max_event_bytes, ctx.config.max_event_tags)
        self._counters = StageCounters(ctx.slot, ctx.metrics)
        self._times = ctx.times()
        self._log = RateLimitedLogger(ctx.log, ctx.clock)
        self._backpressure = Backpressure(_marks(ctx.config))
        self._hub_log = HubLog(self._log)
        self._hub_log.load(database)
        self._unread = UnreadParcels(self._limits, ctx.log)
        self._compare_at = 0.0
        self._keeping = LogKeeping(ctx.clock, self._on_unbacked)
        rules = ActRules(ctx.config.public_url, ctx.config.allow_private_relays)
        self._acts = ActReplay(ctx.clock, rules, ctx.log)
        self._role = HomeRole(since_boot_s, ctx.log)
        self._reported_on: HubConnection | None = None
        self._plan = PlanFeed(ctx.clock, ctx.log)
        self._known_ids = KnownIdsFeed(ctx.clock)
        self._backfills = BackfillFeed(ctx.clock)
        self._states = StateTaking(ctx.clock, self._log, ctx.metrics.stage_errors.labels("hub", "invalid-state").inc)
        self._shares = ShareWish(ctx.clock, HomeWish(ctx.clock, lambda: ctx.settings), ctx.log)

    def run(self) -> None:
        self._counters.resume(self._database, self._ctx.is_abandoned)
        self._read_again()
        while not self._ctx.stop.is_set():
            self._ctx.heartbeat.beat(self._line.problem() or self._role.problem or self._unread.problem)
            try:
                self._turn()
            except HubUnavailable as error:
                self._line.on_failure(error)
        self._leave()

    def _leave(self) -> None:
        try:
            connection = self._line.get(self._on_connect)
            if connection is not None and self._role.is_held:
                self._role.leave(connection)
        except HubUnavailable as error:
            self._line.on_failure(error)

    def _turn(self) -> None:
        """Take a few parcels, or wait for some."""
        connection = self._line.get(self._on_connect)
        has_more = False
        if connection is not None and not self._role.turn(connection, self._database):
            connection = None
        if connection is not None:
            if connection is not self._reported_on:
                # The hub may have forgotten the positions.
                self._hub_log.report(connection)
                self._reported_on = connection
            # Before the plan: none who registered since the copy that this database is ceases to be wanted.
            if self._acts.turn(connection, self._database):
                self._ctx.bells.ring("saver")
            # What is wanted, and who crawls, is decided even while nothing is taken.
            self._shares.turn(connection, self._database)
            has_more = self._plan.turn(connection, self._database)
            self._known_ids.turn(connection, self._database)
            self._backfills.turn(connection, self._database)
            self._states.turn(connection, self._database)
        if connection is None or not self._has_room():
            self._ctx.stop.wait(_BEHIND_S)
            return
        self._keeping.turn(connection, self._database)
        self._compare(connection)
        found = self._unread.acceptable(self._hub_log.next(connection, self._database))
        if not found:
            with self._times.waiting(WaitReason.WORK):
                connection.wait(0.0 if has_more else _IDLE_S)
            return
        self._take(found)
        self._hub_log.report(connection)

    def _on_connect(self, connection: HubConnection) -> None:
        """Listen before the first look, so that nothing comes in between."""
        connection.listen(CHANNEL)
        self._compare_at = 0.0

    def _has_room(self) -> bool:
        config = self._ctx.settings
        with self._database.read() as tx:
            waiting = pending.size(tx, config.backpressure_high + 1, config.sink_names)
            is_full = disk.is_full(tx, config.max_database_bytes)
        self._backpressure.set_marks(_marks(config))
        self._backpressure.update(waiting, is_full=is_full)
        return self._backpressure.is_open

    def _take(self, found: Sequence[HubParcel]) -> None:
        now = self._ctx.clock.now_ms()
        opened = [open_parcel(each, self._limits, now) for each in found]
        if not self._role.is_held:
            # This process stood still since it asked for them: another may have taken them.
            return
        with self._database.write() as tx:
            new, tally = take(tx, opened, self._ctx.clock.now_ms())
            totals = self._counters.write(tx, tally)
        if new:
            self._ctx.bells.ring("saver")
        self._counters.show(totals)
        self._unread.on_taken(self._database, opened)
        for each in opened:
            self._known_ids.add(each.parcel.host, (taken for *_, taken in each.arrivals if taken.event_id in new))
        self._note(opened)

    def _note(self, opened: Sequence[Opened]) -> None:
        """Go on behind parcels that are committed, and say what is wrong with them."""
        for host, (first, last) in self._hub_log.on_taken([each.parcel for each in opened]).items():
            self._count_error("parcels-missing", last + 1 - first)
            self._log.error(
                "parcels-missing", "the hub kept parcels for too short a time, some are missing",
                host=host, first=first, last=last,
            )  # fmt: skip
        for each in opened:
            parcel = each.parcel
            if each.problem:
                self._count_error("unread-parcel")
                self._log.error(
                    "unread-parcel", "parcel set aside, it cannot be read",
                    host=parcel.host, parcel=parcel.number, why=each.problem,
                )  # fmt: skip
            if each.notes.unread:
                self._count_error("unread-notes", each.notes.unread)
                self._log.warning("unread-notes", "notes of a parcel cannot be read", host=parcel.host)

    def _count_error(self, kind: str, count: int = 1) -> None:
        self._ctx.metrics.stage_errors.labels("hub", kind).inc(count)

    def _read_again(self) -> None:
        """Try parcels again that an earlier version of this host could not read."""
        while (found := self._unread.next(self._database, self._ctx.clock.now_ms())) is not None:
            with self._database.write() as tx:
                totals = self._counters.write(tx, self._unread.take(tx, found, self._ctx.clock.now_ms()))
            self._counters.show(totals)
            self._ctx.heartbeat.beat()
        self._unread.look(self._database)

    def _compare(self, connection: HubConnection) -> None:
        now = self._ctx.clock.monotonic()
        if now >= self._compare_at:
            self._hub_log.compare(connection, self._database)
            self._compare_at = now + _COMPARE_EVERY_S

    def _on_unbacked(self, dropped: int) -> None:
        self._ctx.metrics.stage_errors.labels("hub", "unbacked-parcels").inc(dropped)
        self._log.warning(
            "unbacked-parcels", "the hub dropped parcels that no backup of this database has: run event-service backup",
            dropped=dropped,
        )  # fmt: skip


def _marks(config: Config) -> Marks:
    return Marks(config.backpressure_high, config.backpressure_low, config.backpressure_bytes)
