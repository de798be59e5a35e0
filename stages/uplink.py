"""`stage uplink`: hands what this host's crawlers accepted over to the hub, in parcels, in order."""

from typing import Final

from pipeline import __version__
from pipeline.hub import parcel, plan_sync, share_sync
from pipeline.hub.connection import HubConnection, HubUnavailable
from pipeline.hub.line import HubLine
from pipeline.hub.plan_sync import PlanSync
from pipeline.hub.share_sync import ShareSync
from pipeline.hub.uplink import KEPT_MS, Uplink
from pipeline.process import procfs
from pipeline.process.clock import since_boot_s
from pipeline.process.slots import Slot, held_indexes
from pipeline.process.stage import StageContext
from pipeline.process.stage_times import WaitReason
from pipeline.store import inbox, parcels
from pipeline.store.commit_watch import CommitWatch
from pipeline.store.counters import StageCounters, Totals
from pipeline.store.database import Database
from pipeline.store.parcels import Unsent
from pipeline.store.schema import open_database

FUNCTIONS: Final = ("open_stream_v1", "hand_over_v1", "report_v1", *share_sync.FUNCTIONS, *plan_sync.FUNCTIONS)
# Parcels that are made ahead of the hub. What is beyond waits in the inbox, where crawlers see it.
_MAX_UNSENT: Final = 8
_IDLE_S: Final = 1.0
# How often cursors and states that changed are worth a parcel without events.
_CHANGES_EVERY_S: Final = 1.0
_REPORT_EVERY_S: Final = 2.0
_FORGET_EVERY_S: Final = 10.0
# Of a megabyte each at most: a transaction that does not hold the write lock for long.
_FORGOTTEN_AT_ONCE: Final = 50
# After the hub's answer that home is behind.
_HOME_BEHIND_S: Final = 0.5
# At the end of the stage, for what the crawlers accepted last.
_FLUSH_S: Final = 5.0


def run(ctx: StageContext) -> None:
    """Hand over until stopped; then what is left, for a moment."""
    config = ctx.config
    assert config.hub is not None, "checked by Config"
    line = HubLine(config.hub, FUNCTIONS, ctx.clock, ctx.log)
    with open_database(config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database:
        try:
            _UplinkLoop(ctx, database, line).run()
        finally:
            line.close()


class _UplinkLoop:
    def __init__(self, ctx: StageContext, database: Database, line: HubLine) -> None:
        self._ctx = ctx
        self._database = database
        self._line = line
        self._uplink = Uplink(database)
        self._shares = ShareSync(ctx.clock, since_boot_s, procfs.boot_id(), self._crawlers, ctx.log)
        self._plan = PlanSync(ctx.clock, ctx.log)
        self._counters = StageCounters(ctx.slot, ctx.metrics)
        self._times = ctx.times()
        # The newest parcel that the hub has and that is not marked as sent yet.
        self._taken = 0
        # When these are due (monotonic).
        self._changes_at = self._report_at = self._forget_at = self._send_at = 0.0
        self._answered: str = ""

    def run(self) -> None:
        watch = CommitWatch(self._database, self._ctx.doorbell)
        self._counters.resume(self._database, self._ctx.is_abandoned)
        while not self._ctx.stop.is_set():
            self._ctx.heartbeat.beat(self._problem())
            if not self._turn():
                with self._times.waiting(WaitReason.WORK):
                    watch.wait(self._ctx.stop, self._rest_s())
        self._flush()

    def _flush(self) -> None:
        until = self._ctx.clock.monotonic() + _FLUSH_S
        while self._ctx.clock.monotonic() < until and self._turn():
            self._ctx.heartbeat.beat()
        self._leave()

    def _leave(self) -> None:
        """Release all relays at the end, so that others have them at once; as long as a crawler runs they are asked."""
        try:
            connection = self._line.get(self._on_connect)
            if connection is not None and not self._crawlers():
                self._shares.leave(connection, self._database)
        except HubUnavailable as error:
            self._line.on_failure(error)

    def _crawlers(self) -> list[str]:
        """Return the names of the crawlers that run on this database."""
        return [Slot("crawler", index).name for index in held_indexes(self._ctx.config.database_path, "crawler")]

    def _rest_s(self) -> float:
        wait_s = self._send_at - self._ctx.clock.monotonic()
        return min(_IDLE_S, wait_s) if wait_s > 0 else _IDLE_S

    def _problem(self) -> str:
        if self._answered == "wait":
            return "home host is behind: events wait here"
        return self._line.problem()

    def _turn(self) -> bool:
        """Pack what waits, and send a parcel; return True if there may be more to do at once."""
        try:
            # First: a new connection decides which parcels are sent.
            connection = self._line.get(self._on_connect)
            first = self._commit(is_connected=connection is not None)
            if connection is None:
                return False
            self._report(connection)
            has_more = self._follow_home(connection)
            if first is None or self._ctx.clock.monotonic() < self._send_at:
                return has_more
            self._send(connection, first)
        except HubUnavailable as error:
            self._line.on_failure(error)
            return False
        return True

    def _follow_home(self, connection: HubConnection) -> bool:
        """Take what home wants and which relays this host has; return True if there is more to take at once."""
        before = self._plan.followed
        has_more = self._plan.turn(connection, self._database)
        has_changed = self._shares.turn(connection, self._database)
        if has_changed or self._plan.followed != before:
            self._ctx.bells.ring("crawler")
        return has_more

    def _on_connect(self, connection: HubConnection) -> None:
        """Go on where the hub is, which may have gone back."""
        self._taken = 0
        while True:
            ((last,),) = connection.call("open_stream_v1", self._uplink.stream.name)
            if self._uplink.go_by(last, self._ctx.clock.now_ms()):
                return
            self._ctx.log.warning("the hub is ahead of this database, a new stream begins")

    def _commit(self, *, is_connected: bool) -> Unsent | None:
        """Note what the hub has, pack the inbox if there is room for a parcel; return the first that is to be sent.

        Sent parcels are forgotten while there is a connection only: a hub that was away may come back without the last.
        """
        now, now_ms = self._ctx.clock.monotonic(), self._ctx.clock.now_ms()
        with self._database.read() as tx:
            waiting = parcels.count_unsent(tx)
            is_due = now >= self._changes_at and parcels.has_changes(tx)
            has_work = parcels.has_rows(tx) or is_due
        has_room = waiting - bool(self._taken) < _MAX_UNSENT
        is_old = is_connected and now >= self._forget_at
        if not (has_work and has_room) and not self._taken and not is_old:
            return self._first_unsent()
        totals: Totals = ()
        has_older = False
        try:
            with self._database.write() as tx:
                if self._taken:
                    parcels.mark_sent(tx, self._taken, now_ms)
                if is_old:
                    has_older = parcels.forget_sent(tx, now_ms - KEPT_MS, _FORGOTTEN_AT_ONCE)
                if has_room and (tally := self._uplink.pack(tx, now_ms, is_due=is_due)) is not None:
                    totals = self._counters.write(tx, tally)
                    self._changes_at = now + _CHANGES_EVERY_S
        except BaseException:
            self._uplink.on_rollback()
            raise
        self._taken = 0
        if is_old:
            self._forget_at = now if has_older else now + _FORGET_EVERY_S
        self._counters.show(totals)
        return self._first_unsent()

    def _first_unsent(self) -> Unsent | None:
        with self._database.read() as tx:
            return next(iter(parcels.unsent(tx, 1)), None)

    def _send(self, connection: HubConnection, unsent: Unsent) -> None:
        found = parcel.decode_notes(unsent.body)
        cursors, limits = found.cursors, [each for each in found.statuses if each.limits != "{}"]
        with self._times.waiting(WaitReason.NETWORK):
            ((answer, last),) = connection.call(
                "hand_over_v1", self._uplink.stream.name, unsent.number, unsent.body,
                [each.relay for each in cursors], [each.query for each in cursors],
                [each.complete_until for each in cursors], [each.generation for each in cursors],
                [each.relay for each in limits], [each.limits for each in limits],
            )  # fmt: skip
        self._answered = answer
        match answer:
            case "taken":
                self._taken = unsent.number
            case "wait":
                self._send_at = self._ctx.clock.monotonic() + _HOME_BEHIND_S
            case _:
                self._ctx.log.warning("the hub has another last parcel", hub=last, here=unsent.number)
                self._taken = 0
                if not self._uplink.go_by(last, self._ctx.clock.now_ms()):
                    self._on_connect(connection)

    def _report(self, connection: HubConnection) -> None:
        """Let the hub know that this host lives."""
        now = self._ctx.clock.monotonic()
        if now < self._report_at:
            return
        with self._database.read() as tx:
            waiting, unsent = inbox.waiting(tx), parcels.count_unsent(tx)
        connection.call("report_v1", __version__, self._ctx.clock.now_ms(), waiting, unsent)
        self._report_at = now + _REPORT_EVERY_S
