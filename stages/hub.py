"""`stage hub`: takes what other hosts handed over from the hub, in order, into this home host's inbox."""

from collections.abc import Sequence
from typing import Final

from pipeline.crawl.flow_control import Backpressure, Marks
from pipeline.crawl.home_wish import HomeWish
from pipeline.hub import act_replay, home_role, log_keeping, plan_feed, share_wish
from pipeline.hub.act_replay import ActReplay
from pipeline.hub.connection import HubConnection, HubUnavailable
from pipeline.hub.home_role import HomeRole
from pipeline.hub.line import HubLine
from pipeline.hub.log_keeping import LogKeeping
from pipeline.hub.plan_feed import PlanFeed
from pipeline.hub.share_wish import ShareWish
from pipeline.hub.taking import Opened, SentParcel, open_parcel, take
from pipeline.process.clock import since_boot_s
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.stage import StageContext
from pipeline.process.stage_times import WaitReason
from pipeline.rules.acceptance import EventLimits
from pipeline.settings.config import Config
from pipeline.store import disk, parcels, pending
from pipeline.store.counters import StageCounters
from pipeline.store.database import Database
from pipeline.store.schema import open_database
from pipeline.store.user_acts import ActRules

FUNCTIONS: Final = (
    "parcels_v1", "taken_v1", *log_keeping.FUNCTIONS, *home_role.FUNCTIONS, *act_replay.FUNCTIONS,
    *share_wish.FUNCTIONS, *plan_feed.FUNCTIONS,
)  # fmt: skip
CHANNEL: Final = "parcels"
# Of one look: some five transactions of the inbox.
_MOST_PARCELS: Final = 5
_MOST_BYTES: Final = 4 << 20
# A notification may be lost with its connection; stop is looked at so often too.
_IDLE_S: Final = 0.5
_BEHIND_S: Final = 0.25


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
        with database.read() as tx:
            self._positions = parcels.positions(tx)
        self._keeping = LogKeeping(ctx.clock, self._on_unbacked)
        rules = ActRules(ctx.config.public_url, ctx.config.allow_private_relays)
        self._acts = ActReplay(ctx.clock, rules, ctx.log)
        self._role = HomeRole(since_boot_s, ctx.log)
        self._reported_on: HubConnection | None = None
        self._plan = PlanFeed(ctx.clock, ctx.log)
        self._shares = ShareWish(ctx.clock, HomeWish(ctx.clock, lambda: ctx.settings), ctx.log)

    def run(self) -> None:
        self._counters.resume(self._database, self._ctx.is_abandoned)
        while not self._ctx.stop.is_set():
            self._ctx.heartbeat.beat(self._line.problem() or self._role.problem)
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
                self._report(connection)
                self._reported_on = connection
            # Before the plan: none who registered since the copy that this database is ceases to be wanted.
            if self._acts.turn(connection, self._database):
                self._ctx.bells.ring("saver")
            # What is wanted, and who crawls, is decided even while nothing is taken.
            self._shares.turn(connection, self._database)
            has_more = self._plan.turn(connection, self._database)
        if connection is None or not self._has_room():
            self._ctx.stop.wait(_BEHIND_S)
            return
        self._keeping.turn(connection, self._database)
        sent = self._look(connection)
        if not sent:
            with self._times.waiting(WaitReason.WORK):
                connection.wait(0.0 if has_more else _IDLE_S)
            return
        self._take(sent)
        self._report(connection)

    def _on_connect(self, connection: HubConnection) -> None:
        """Listen before the first look, so that nothing comes in between."""
        connection.listen(CHANNEL)

    def _has_room(self) -> bool:
        config = self._ctx.settings
        with self._database.read() as tx:
            waiting = pending.size(tx, config.backpressure_high + 1, config.sink_names)
            is_full = disk.is_full(tx, config.max_database_bytes)
        self._backpressure.set_marks(_marks(config))
        self._backpressure.update(waiting, is_full=is_full)
        return self._backpressure.is_open

    def _look(self, connection: HubConnection) -> list[SentParcel]:
        rows = connection.call(
            "parcels_v1", list(self._positions), list(self._positions.values()), _MOST_PARCELS, _MOST_BYTES
        )
        return [SentParcel(stream, host, number, bytes(body)) for stream, host, number, _, body in rows]

    def _take(self, sent: Sequence[SentParcel]) -> None:
        now = self._ctx.clock.now_ms()
        opened = [open_parcel(each, self._limits, now) for each in sent]
        if not self._role.is_held:
            # This process stood still since it asked for them: another may have taken them.
            return
        with self._database.write() as tx:
            new, tally = take(tx, opened, self._ctx.clock.now_ms())
            totals = self._counters.write(tx, tally)
        if new:
            self._ctx.bells.ring("saver")
        self._counters.show(totals)
        for each in opened:
            self._note(each)

    def _note(self, opened: Opened) -> None:
        """Go on behind a parcel that is committed, and say what is wrong with it."""
        sent = opened.sent
        before = self._positions.get(sent.stream, 0)
        if sent.number > before + 1:
            self._ctx.metrics.stage_errors.labels("hub", "parcels-missing").inc()
            self._log.error(
                "parcels-missing", "the hub kept parcels for too short a time, some are missing",
                host=sent.host, first=before + 1, last=sent.number - 1,
            )  # fmt: skip
        if opened.problem:
            self._log.error("invalid-parcel", "parcel dropped", host=sent.host, parcel=sent.number, why=opened.problem)
        self._positions[sent.stream] = max(before, sent.number)

    def _report(self, connection: HubConnection) -> None:
        if self._positions:
            connection.call("taken_v1", list(self._positions), list(self._positions.values()))

    def _on_unbacked(self, dropped: int) -> None:
        self._ctx.metrics.stage_errors.labels("hub", "unbacked-parcels").inc(dropped)
        self._log.warning(
            "unbacked-parcels", "the hub dropped parcels that no backup of this database has: run event-service backup",
            dropped=dropped,
        )  # fmt: skip


def _marks(config: Config) -> Marks:
    return Marks(config.backpressure_high, config.backpressure_low, config.backpressure_bytes)
