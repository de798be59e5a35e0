"""`stage uplink`: hands what this host's crawlers accepted over to the hub, in parcels, in order.

| mode | it | ends |
|---|---|---|
| crawling | hands over, follows what home wants, keeps this host's relays | when it is stopped |
| a loss | hands over; no relay is asked until what the hub lost is dropped here, too | crawling |
| left over | hands over only: a newer disk of this host, or another hub, has taken the place | with the reason |
"""

from collections.abc import Sequence
from typing import Final

from pipeline import __version__
from pipeline.hub import known_ids, parcel, plan_sync, share_sync
from pipeline.hub.connection import HubConnection, HubRefused, HubUnavailable
from pipeline.hub.known_ids import KnownIdsSync
from pipeline.hub.line import HubLine
from pipeline.hub.loss import LossSettling
from pipeline.hub.plan_sync import OtherHub, PlanSync
from pipeline.hub.share_sync import ShareSync
from pipeline.hub.state_thread import StateThread
from pipeline.hub.uplink import HubEnd, Uplink
from pipeline.process import procfs
from pipeline.process.clock import since_boot_s
from pipeline.process.slots import Slot, held_indexes
from pipeline.process.stage import StageContext
from pipeline.process.stage_times import WaitReason
from pipeline.store import inbox, parcels
from pipeline.store.authors import Authors
from pipeline.store.commit_watch import CommitWatch
from pipeline.store.counters import StageCounters, Totals
from pipeline.store.database import Database
from pipeline.store.parcels import SentParcel, StoredParcel
from pipeline.store.schema import open_database

FUNCTIONS: Final = (
    "open_stream_v1", "hand_over_v1", "confirm_v1", "report_v1", *share_sync.FUNCTIONS, *plan_sync.FUNCTIONS,
    *known_ids.FUNCTIONS,
)  # fmt: skip
# Parcels that are made ahead of the hub. What is beyond waits in the inbox, where crawlers see it.
_MAX_UNSENT: Final = 8
_IDLE_S: Final = 1.0
# A parcel costs as much as dozens of events: one follows another after this time, unless there is enough for one.
_GATHER_S: Final = 0.08
_ENOUGH: Final = 100
# How often it is written down what the hub has, where no other commit does so.
_NOTE_EVERY_S: Final = 0.5
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
_REPLACED: Final = (
    "a newer database hands over under the name of this host: give each host a name of its own. To let this host go on,"
    " set EVENTS_DATABASE_PATH to a new file"
)


def run(ctx: StageContext) -> None:
    """Hand over until stopped; then what is left, for a moment."""
    config = ctx.config
    assert config.hub is not None, "checked by Config"
    line = HubLine(config.hub, FUNCTIONS, ctx.clock, ctx.log, ctx.heartbeat.beat)
    with open_database(config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database:
        try:
            with StateThread(ctx, config.hub):
                _UplinkLoop(ctx, database, line).run()
        finally:
            line.close()


class _UplinkLoop:
    def __init__(self, ctx: StageContext, database: Database, line: HubLine) -> None:
        self._ctx = ctx
        self._database = database
        self._line = line
        authors = Authors()
        self._uplink = Uplink(database, authors)
        self._known_ids = KnownIdsSync(ctx.clock, authors)
        self._shares = ShareSync(ctx.clock, since_boot_s, procfs.boot_id(), self._crawlers, ctx.log)
        self._plan = PlanSync(ctx.clock, ctx.log)
        self._losses = LossSettling(self._crawlers, ctx.log)
        self._has_loss = self._losses.is_open(database)
        # Why nothing is crawled by this database any more; empty while it is.
        self._left_over = ""
        self._counters = StageCounters(ctx.slot, ctx.metrics)
        self._times = ctx.times()
        # The hub's clock (ms) at a monotonic time.
        self._hub_clock = (0, 0.0)
        # When these are due (monotonic).
        self._changes_at = self._report_at = self._forget_at = self._send_at = self._pack_at = self._note_at = 0.0
        self._gathers = False
        self._answered: str = ""

    def run(self) -> None:
        watch = CommitWatch(self._database, self._ctx.doorbell)
        self._counters.resume(self._database, self._ctx.is_abandoned)
        while not self._ctx.stop.is_set():
            self._ctx.heartbeat.beat(self._problem())
            if self._turn():
                continue
            with self._times.waiting(WaitReason.WORK):
                if self._gathers:
                    # Whatever is committed until then.
                    self._ctx.stop.wait(max(0.0, self._pack_at - self._ctx.clock.monotonic()))
                else:
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
            if connection is not None and not self._left_over and not self._crawlers():
                self._shares.leave(connection, self._database)
        except HubUnavailable as error:
            self._line.on_failure(error)

    def _crawlers(self) -> list[str]:
        """Return the names of the crawlers that run on this database."""
        return [Slot("crawler", index).name for index in held_indexes(self._ctx.config.database_path, "crawler")]

    def _rest_s(self) -> float:
        now = self._ctx.clock.monotonic()
        due = [self._send_at] if self._send_at > now else []
        due += [self._note_at] if self._uplink.has_unwritten else []
        return max(0.0, min(_IDLE_S, *(at - now for at in due))) if due else _IDLE_S

    def _problem(self) -> str:
        if self._answered == "wait":
            return "home host is behind: events wait here"
        if self._left_over:
            return f"hands over what is left: {self._left_over}"
        return self._line.problem()

    def _turn(self) -> bool:
        """Pack what waits, and send a parcel; return True if there may be more to do at once."""
        try:
            # First: a new connection decides which parcels are sent.
            connection = self._line.get(self._on_connect)
            first = self._commit(is_connected=connection is not None)
            if connection is None:
                return False
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
        if self._left_over:
            return self._end_left_over()
        self._report(connection)
        before = self._plan.followed
        try:
            has_more = self._plan.turn(connection, self._database)
        except OtherHub as error:
            self._left_over = str(error)
            return True
        self._known_ids.turn(connection, self._database)
        has_changed = self._settle() if self._has_loss else self._shares.turn(connection, self._database)
        if has_changed or self._plan.followed != before:
            self._ctx.bells.ring("crawler")
        return has_more

    def _end_left_over(self) -> bool:
        """End once all is handed over."""
        with self._database.read() as tx:
            has_rows = parcels.has_rows(tx)
        if not has_rows and not self._uplink.stream.unsent and not self._uplink.has_unwritten:
            raise HubRefused(f"{self._left_over}; the hub has all that this one had")
        return False

    def _settle(self) -> bool:
        """Go on with a loss; return True if crawlers have to look."""
        if self._losses.turn(self._database):
            self._uplink.settle()
            self._has_loss = False
            self._shares.begin_again()
        return True

    def _on_connect(self, connection: HubConnection) -> None:
        """Go on where the hub is, which may have gone back."""
        while True:
            stream = self._uplink.stream
            ((last, digest, was_unknown, is_newest, hub_now),) = connection.call(
                "open_stream_v1", stream.name, stream.predecessor
            )
            self._hub_clock = (hub_now, self._ctx.clock.monotonic())
            if not is_newest:
                self._left_over = self._left_over or _REPLACED
            if self._go_by(connection, HubEnd(last, digest, was_unknown)):
                return

    def _go_by(self, connection: HubConnection, end: HubEnd) -> bool:
        def confirm(sent: Sequence[SentParcel]) -> set[int]:
            found = connection.call(
                "confirm_v1", [each.stream for each in sent], [each.in_stream for each in sent],
                [each.digest for each in sent],
            )  # fmt: skip
            known = set(found)
            return {each.number for each in sent if (each.stream, each.in_stream) in known}

        is_same = self._uplink.go_by(end, confirm, self._ctx.clock.now_ms(), self._hub_now())
        if not is_same:
            self._ctx.log.warning("hub and database differ, a new stream begins", hub=end.number)
            self._has_loss = self._losses.is_open(self._database)
            if self._has_loss:
                self._ctx.bells.ring("crawler")
        return is_same

    def _hub_now(self) -> int:
        at, mono = self._hub_clock
        return at + round(1000 * (self._ctx.clock.monotonic() - mono))

    def _commit(self, *, is_connected: bool) -> StoredParcel | None:
        """Note what the hub has, pack the inbox if there is room for a parcel; return the first that is to be sent.

        Sent parcels are forgotten while there is a connection only: a hub that was away may come back without the last.
        """
        now, now_ms = self._ctx.clock.monotonic(), self._ctx.clock.now_ms()
        is_due, packs = self._looks_for_work(now)
        is_old = is_connected and now >= self._forget_at
        notes = self._uplink.has_unwritten and (now >= self._note_at or self._ctx.stop.is_set())
        if not (packs or notes or is_old):
            return self._first_unsent()
        totals: Totals = ()
        has_older = False
        try:
            with self._database.write() as tx:
                self._uplink.write_sent(tx)
                if is_old:
                    has_older = self._uplink.forget_sent(tx, now_ms, self._hub_now(), _FORGOTTEN_AT_ONCE)
                if packs and (tally := self._uplink.pack(tx, now_ms, is_due=is_due)) is not None:
                    totals = self._counters.write(tx, tally)
                    self._changes_at, self._pack_at = now + _CHANGES_EVERY_S, now + _GATHER_S
        except BaseException:
            self._uplink.on_rollback()
            raise
        self._uplink.on_committed()
        self._note_at = now + _NOTE_EVERY_S
        if is_old:
            self._forget_at = now if has_older else now + _FORGET_EVERY_S
        self._counters.show(totals)
        return self._first_unsent()

    def _looks_for_work(self, now: float) -> tuple[bool, bool]:
        """Return whether changes alone are worth a parcel, and whether one is to be made."""
        with self._database.read() as tx:
            is_due = now >= self._changes_at and parcels.has_changes(tx)
            rows = parcels.count_rows(tx, _ENOUGH)
        self._gathers = 0 < rows < _ENOUGH and now < self._pack_at and not self._ctx.stop.is_set()
        has_room = self._uplink.stream.unsent < _MAX_UNSENT
        return is_due, has_room and not self._gathers and (is_due or rows > 0)

    def _first_unsent(self) -> StoredParcel | None:
        if not self._uplink.stream.unsent:
            return None
        with self._database.read() as tx:
            return next(iter(parcels.beyond(tx, self._uplink.stream.sent, 1)), None)

    def _send(self, connection: HubConnection, unsent: StoredParcel) -> None:
        stream, notes = self._uplink.stream, self._uplink.notes_of(unsent)
        found = parcel.decode_notes(notes)
        cursors, limits = found.cursors, [each for each in found.statuses if each.limits != "{}"]
        with self._times.waiting(WaitReason.NETWORK):
            ((answer, last, digest, refused, hub_now),) = connection.call(
                "hand_over_v1", stream.name, stream.in_stream(unsent.number), stream.digest, unsent.body, notes,
                [each.relay for each in cursors], [each.query for each in cursors],
                [each.complete_until for each in cursors], [each.generation for each in cursors],
                [each.relay for each in limits], [each.limits for each in limits],
            )  # fmt: skip
        self._answered = answer
        self._hub_clock = (hub_now, self._ctx.clock.monotonic())
        match answer:
            case "taken":
                self._uplink.on_taken(unsent, digest, self._ctx.clock.now_ms(), hub_now)
                self._note_refused(refused)
            case "wait":
                self._send_at = self._ctx.clock.monotonic() + _HOME_BEHIND_S
            case _:
                self._ctx.log.warning("the hub has another last parcel", hub=last, here=stream.in_stream(unsent.number))
                if not self._go_by(connection, HubEnd(last, digest)):
                    self._on_connect(connection)

    def _note_refused(self, refused: int) -> None:
        if refused:
            self._ctx.metrics.stage_errors.labels("uplink", "refused-notes").inc(refused)
            self._ctx.log.warning("the hub refused cursors or limits, it keeps too many of this host", count=refused)

    def _report(self, connection: HubConnection) -> None:
        """Let the hub know that this host lives."""
        now = self._ctx.clock.monotonic()
        if now < self._report_at:
            return
        with self._database.read() as tx:
            waiting = inbox.waiting(tx)
        unsent = self._uplink.stream.unsent
        connection.call("report_v1", __version__, self._ctx.clock.now_ms(), waiting, unsent)
        self._report_at = now + _REPORT_EVERY_S
