"""One relay's crawl: what to ask it next, and what its answers complete. A state machine without I/O or clock.

Live subscriptions are opened first. Sweeps then close what they leave open, page by page, when `Schedule` has them due.
`mono` is monotonic seconds, `wall` Unix seconds.
"""

from collections.abc import Iterable
from dataclasses import replace

from pipeline.crawl.sync.absences import Absences, Places
from pipeline.crawl.sync.backfill_jobs import BackfillJobs
from pipeline.crawl.sync.costs import RelayCosts
from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.firehose import FirehoseSync
from pipeline.crawl.sync.form_lessons import FormLessons
from pipeline.crawl.sync.forms.audit import FormAudit
from pipeline.crawl.sync.gap_retries import GapRetries
from pipeline.crawl.sync.item_sets import ItemSetProvider
from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.lag import Lag
from pipeline.crawl.sync.late_pace import LatePace
from pipeline.crawl.sync.live.check import LiveCheck
from pipeline.crawl.sync.live.subscriptions import LiveSubscriptions
from pipeline.crawl.sync.losses import Lesson, Losses
from pipeline.crawl.sync.open_gaps import MANY_FORMS, OpenGaps
from pipeline.crawl.sync.pacing import StrangerPacing
from pipeline.crawl.sync.page_answers import PageAnswers
from pipeline.crawl.sync.page_opener import PageOpener
from pipeline.crawl.sync.paging.slices import Gap
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.reconciliation_policy import ReconciliationPolicy
from pipeline.crawl.sync.refusal_probes import RefusalProbes
from pipeline.crawl.sync.refused_sweeps import RefusedSweeps
from pipeline.crawl.sync.relay_lists import NOBODY, Named
from pipeline.crawl.sync.resweeps import Resweeps, wrap_keys
from pipeline.crawl.sync.schedule import Schedule
from pipeline.crawl.sync.size_trials import SizeTrials
from pipeline.crawl.sync.stats import SyncStats
from pipeline.crawl.sync.store_identity import StoreIdentity
from pipeline.crawl.sync.strands import Strands
from pipeline.crawl.sync.strategy import FetchStrategy
from pipeline.crawl.sync.sweep import OVERLAP_S, Purpose, Sweep
from pipeline.crawl.sync.sweep_gaps import SweepGaps
from pipeline.crawl.sync.sweep_starter import SweepStarter
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.crawl.sync.sync_clock import ClockChange, SyncClock
from pipeline.crawl.sync.timing import Horizon
from pipeline.crawl.sync.unfinished import Unfinished
from pipeline.nostr.message import EventMessage
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.negentropy_session import NegFinished, NegMessageReceived
from pipeline.relay.session import Session
from pipeline.relay.silence import Silences
from pipeline.relay.subscription import LiveEnded, PageEnded
from pipeline.store.cursors import Cursor
from pipeline.store.gaps import OpenGap
from pipeline.store.relay_forms import FormChanges
from pipeline.store.sweeps import SweepProgress

# An idle relay is looked at no more often than it must be; a busy one for new work no more often than this.
MAX_CHECK_S = 60.0
MIN_CHECK_S = 0.05


class RelaySync:
    """Everything wanted of one relay. Owned by whoever serves its connection; outlives each."""

    __slots__ = (
        "_answers", "_check", "_check_at", "_clock", "_cursors", "_cut_to", "_firehose", "_horizon", "_known", "_lag",
        "_lessons", "_live", "_losses", "_pages", "_plan", "_reconciliation", "_refused", "_resweeps", "_retries",
        "_schedule", "_starter", "_strands", "_sweeps", "_unfinished",
        "absences", "audit", "backfill_jobs", "fetches_lists", "gaps",
        "identity", "named", "pacing", "silences", "stats", "strategy", "trials",
    )  # fmt: skip

    def __init__(
        self, *, cursors: CursorTable, limits: LearnedLimits, horizon: Horizon, plan: Plan,
        item_sets: ItemSetProvider | None = None, gaps: Iterable[OpenGap] = (), places: Places | None = None,
    ) -> None:  # fmt: skip
        """`item_sets`: what may be compared with the relay's own; nothing is without. `gaps`: those open so far.

        `places`: shared by all relays of the process, all for itself without.
        """
        self.strategy = FetchStrategy()
        self.backfill_jobs = BackfillJobs(cursors.relay)
        self.stats = SyncStats()
        self.silences = Silences()
        self.trials = SizeTrials()
        self.gaps = OpenGaps(cursors.relay, self.stats, gaps)
        # Both replaced by another thread; followed from the next plan on.
        self.fetches_lists = False
        """Whether the relay is also asked for the relay lists of all wanted authors."""
        self.named: Named = NOBODY
        self._clock = SyncClock()
        self._cursors = cursors
        self._horizon = horizon
        self._known = RelayKnowledge(cursors, horizon, limits, SweepGaps(self.stats, self.gaps))
        self._reconciliation = ReconciliationPolicy(item_sets, self.stats, self._known.gaps.give_up)
        # The limits that the sweeps under way are cut to.
        self._cut_to = limits.now
        self._live = LiveSubscriptions(limits.now)
        self._sweeps = SweepSet(self._known)
        self._strands = Strands(self._known, self._sweeps)
        self._starter = SweepStarter(self._known, self._sweeps, self._strands, self._reconciliation)
        self._refused = RefusedSweeps(self._known, self._sweeps)
        self.audit = FormAudit(self._known.forms)
        self._lessons = FormLessons(self.audit, self._known, self._sweeps, self.strategy, self.gaps)
        self.absences = Absences(cursors.relay, places or Places())
        self.identity = StoreIdentity()
        self._check = LiveCheck(self._known, self._sweeps, self._live)
        self._resweeps = Resweeps(self._known, self._sweeps, self._starter, self.absences)
        self.pacing = StrangerPacing(self._known, self._live, self._sweeps, self.strategy)
        self._firehose = FirehoseSync(
            self._known, plan, self.strategy, self._sweeps, self._starter, self.gaps, self._resweeps
        )
        self._schedule = Schedule(
            self._known, self._sweeps, self._starter, self._live, self._firehose, self._resweeps, self._check
        )
        # What is wanted, the way this relay is asked for it.
        self._plan = plan
        self._check_at = 0.0
        self._lag = Lag(cursors, self._live, self._clock, horizon.crawled_since)
        self._unfinished = Unfinished(self._known, self._sweeps, self.gaps)
        self._losses = Losses()
        self._retries = GapRetries(self._known, self._sweeps, self._starter, self.gaps)
        self._answers = PageAnswers(
            self._known, self._sweeps, self._strands, self._refused, self._reconciliation, self.trials,
            self.backfill_jobs, self._retries, self._firehose, self._check, self._losses, self.strategy, self.stats,
            self.gaps, self._clock,
        )  # fmt: skip
        self._pages = PageOpener(
            self._known, self._sweeps, self._strands, self._refused, self._reconciliation, self._answers
        )

    def share_pace(self, pace: LatePace) -> None:
        """Ask for the past of a crowd at a pace that all relays of the process share."""
        self._starter.late_pace = pace

    def set_plan(self, plan: Plan) -> None:
        """Ask for `plan` from the next `advance` on; what it shares with the one before is left alone."""
        self._firehose.follow(plan.with_lists if self.fetches_lists else plan)
        self._starter.users = plan.user_keys
        self._follow_plan()

    def _follow_plan(self) -> None:
        self._plan = self._firehose.plan
        self.gaps.follow(self._plan.keys | self._firehose.swept_queries())
        self._check_at = 0.0

    def on_connected(self) -> None:
        """A new connection stands: nothing is subscribed to, and every live query has a gap behind it."""
        self._answers.has_gained = False
        self._clock.on_connected()
        self.absences.on_lost()
        self.identity.on_connected()
        self._live.on_connected()
        self._check.on_connected()
        self._sweeps.on_connected()
        self._refused.on_connected()
        self.trials.on_connected()
        self.audit.on_connected()
        self._check_at = 0.0

    def on_lost(self, session: Session, *, is_by_relay: bool = True) -> bool:
        """The connection of `session` was lost; returns whether that taught how to ask for less from now on.

        A loss that is not `is_by_relay`, but by a host or network that is gone, teaches nothing.
        """
        self.absences.on_lost()
        if not is_by_relay:
            return False
        self._reconciliation.on_lost(session, self._clock.wall)
        lesson = self._losses.on_lost(session)
        match lesson:
            case Lesson.SMALLER_REQUESTS:
                self._refused.reform_all()
            case Lesson.SMALLER_PAGES:
                self._sweeps.shrink_pages(session.limits.page_limit)
            case Lesson.NONE:
                pass
        return lesson is not Lesson.NONE

    def take_progress(self) -> tuple[SweepProgress, ...]:
        """How far sweeps are, to be committed with or after the events before it."""
        return self._sweeps.take_progress()

    def take_form_changes(self, limits: RelayLimits) -> FormChanges:
        """Return what the audit of forms found, to be committed with or after the events before it."""
        return self._lessons.take_changes(limits)

    def take_moved(self) -> tuple[Cursor, ...]:
        """The cursors that `advance` moved, to be committed with or after the events before it."""
        return self._pages.take_moved()

    @property
    def limits(self) -> LearnedLimits:
        """What the relay allows, to be shared with the session of each connection."""
        return self._known.limits

    @property
    def costs(self) -> RelayCosts:
        """What the relay's events cost."""
        return self.pacing.costs

    def on_costly(self) -> None:
        """The relay's events cost more than they may: look at once at what to ask for."""
        self._check_at = 0.0

    def next_time(self) -> float:
        """When `advance` wants to be called again at the latest (monotonic seconds)."""
        return self._check_at

    def seconds_behind(self, wall: int, newest_live: int = 0) -> int:
        """Return how far the worst live query is behind; `newest_live`: the time of the latest event that came live."""
        return self._lag.seconds(self._plan.queries, wall, newest_live)

    @property
    def has_gained(self) -> bool:
        """Whether the last connection brought any sweep further but for the tails that follow each connect."""
        return self._answers.has_gained

    @property
    def unserved_queries(self) -> int:
        """How many queries this relay has no room for as live subscriptions."""
        return len(self._live.unserved)

    @property
    def is_resweeping(self) -> bool:
        """Whether late arrivals are being looked for since the relay was away."""
        return self.absences.since > 0 and self._resweeps.is_under_way

    # What to ask.

    def advance(self, session: Session, mono: float, wall: int, *, may_ask: bool) -> None:
        """Open what is due. `may_ask` is false while the host asks for patience; live subscriptions wait then too."""
        self._sweep_torn(session)
        if mono < self._check_at:
            return
        if not self._check_at:
            self._schedule.look_again()
        self._follow_clock(session, mono, wall)
        self.pacing.follow(mono)
        self._choose(session, wall)
        session.learn(self._check.judged(session.limits.doubted(wall), mono, wall))
        self._check.sweep_long_silence(mono)
        # What live requests may not name there comes by pages only.
        is_partial = session.limits.withholds
        self._schedule.polls = is_partial or session.limits.live_missed_at > 0 or self._check.is_suspect(wall)
        if session.limits.takes_less_than(self._cut_to):
            self._refused.reform_all()
        self._cut_to = session.limits
        self._unfinished.tell_due(self._plan.live, self._clock.connected_at, mono, wall)
        if not may_ask:
            self._check_at = mono + 1.0
            return
        self._note_absence(wall)
        named = self.named
        self._live.follow(self._known.forms.first_only)
        self._split_unanswered(session, mono)
        self._live.open_due(self._plan.queries, self._plan.users, named, session, mono, wall)
        self._sweep_torn(session)
        self._drop_unwanted()
        self._starter.follow(named)
        self.trials.open_next(session, mono)
        if not self.trials.is_under_way:
            self.audit.open_next(self._firehose.wanted, session, mono, wall)
        self._starter.postponed = frozenset({Subject.MENTIONS} if self.audit.precedes_mentions else ())
        self._schedule.begin_due(self._plan, mono, wall)
        self._firehose.begin_due(mono, wall)
        self._resweeps.begin_wraps(self._firehose.wanted, mono, wall)
        self._resweeps.settle(self._firehose.reswept, wall)
        self.backfill_jobs.begin_next(self._firehose.wanted, self._known, self._sweeps, self._starter, mono, wall)
        self._retries.begin_next((*self._firehose.wanted.live, *self._plan.queries), mono, wall)
        self._firehose.open_probe(session, mono)
        self.identity.open(session, mono)
        self.pacing.delay_pages(mono)
        self._refused.release_changed()
        self._refused.open_probe(session, mono)
        self._pages.open_due(session, mono)
        self._check_at = self._next_check(session, mono, wall)

    def _sweep_torn(self, session: Session) -> None:
        """Sweep what a live subscription missed that was closed before its successor was open."""
        for key in session.take_torn():
            self._check_at = 0.0
            for query in self._live.queries_of(key):
                self._known.times.sweep_again(query)

    def _split_unanswered(self, session: Session, mono: float) -> None:
        """Ask in smaller live requests where one stays unanswered, and sweep what it should have brought."""
        if self._known.quirks.has_eose:
            for query in self._live.split_unanswered(session, mono):
                self._known.times.sweep_again(query)

    def _follow_clock(self, session: Session, mono: float, wall: int) -> None:
        """Sweep again where a wall clock that was set leaves something to be fetched."""
        match self._clock.follow(mono, wall):
            case ClockChange.BACK | ClockChange.FAR_BACK as change:
                # At once, while it shows which times are wrong.
                session.learn(session.limits.as_of(wall))
                if change is ClockChange.FAR_BACK:
                    self._sweeps.owe_all_under_way(session, mono)
                if self._cursors.rewind(wall + OVERLAP_S, wall - self._horizon.span):
                    self._known.times.sweep_all_again()
            case ClockChange.FORWARD:
                # It was behind: what was new then lay in the future, and was refused.
                self._known.times.sweep_all_again()
            case ClockChange.NONE:
                pass
        self.gaps.now = wall

    def _note_absence(self, wall: int) -> None:
        """Note for how long the relay was away, once it is back; one that is new here was not."""
        if not self._clock.take_return():
            return
        since = self._clock.away_since
        if since is None:
            cursors = [cursor for query in self._plan.live if (cursor := self._cursors.cursor_for(query)) is not None]
            since = min((cursor.complete_until for cursor in cursors), default=None)
        if since is not None:
            self.absences.on_back(since, wall)

    def _choose(self, session: Session, wall: int) -> None:
        """Ask by query or whole, as seems best now."""
        forms, mentions = self._known.forms, Subject.MENTIONS
        self.strategy.needs_firehose = forms.has_holes(mentions) and forms.has_holes(mentions, names_kinds=True)
        if self.strategy.pop_refusal():
            session.learn(replace(session.limits, whole_refused_at=wall))
        if self.strategy.decide(self._firehose.wanted, session.limits, wall):
            self._firehose.on_strategy_changed()
            self._follow_plan()
            self._known.times.sweep_all_again()
            self._schedule.restart()

    def _drop_unwanted(self) -> None:
        """End sweeps of queries that the plan has no longer."""
        wanted, swept = self._plan.keys, self._firehose.swept_queries()

        def is_wanted(sweep: Sweep) -> bool:
            match sweep.purpose:
                case Purpose.RETRY:
                    return True
                case Purpose.BACKFILL:
                    return self.backfill_jobs.is_wanted(sweep.key)
                case Purpose.WRAPS:
                    return sweep.query.key in wrap_keys(self._firehose.wanted)
                case _:
                    return sweep.query.key in wanted or sweep.query.key in swept

        self._sweeps.cancel_unwanted(is_wanted)

    def _next_check(self, session: Session, mono: float, wall: int) -> float:
        """When something is due that no answer of the relay brings up by itself."""
        times = [mono + MAX_CHECK_S, *self._live.due_after(mono), *self._check.due_times()]
        times += self._schedule.due_times(self._plan, mono, wall)
        if self._starter.late_at > mono:
            times.append(self._starter.late_at)
        waits_until = session.pages_wait_until(mono)
        if waits_until is not None:
            times.append(waits_until)
        elif session.has_room_for_page():
            times += self.audit.due_times()
            times += self._refused.due_times()
            times += self._pages.due_times()
        return max(min(times), mono + MIN_CHECK_S)

    # What the answers complete.

    def on_live_ended(self, ended: LiveEnded, mono: float) -> None:
        """Take the end of a live subscription: open it again later, and sweep what it may miss."""
        self._check_at = 0.0
        if self.strategy.is_firehose:
            self.strategy.on_failed(ended.refusal)
        for key in self._live.on_ended(ended, mono):
            self._known.times.sweep_again(key)

    def on_page_ended(self, ended: PageEnded, session: Session, mono: float) -> Cursor | None:
        """Take the end of a page; returns the cursor that it moves, to be committed with the events before it."""
        self._check_at = 0.0
        sweep = self._sweeps.get(ended.key)
        if ended.key == FormAudit.KEY:
            self._lessons.on_page_ended(ended, session, mono, self._clock.wall)
        elif ended.key == SizeTrials.KEY:
            self._answers.end_trial(self.trials.on_page_ended(ended, session.limits, mono), session, mono)
        elif ended.key == RefusalProbes.KEY:
            self._refused.on_probe_ended(ended, mono)
        elif ended.key == StoreIdentity.KEY:
            if self.identity.is_other(ended):
                # Later than any sweep that has begun, none of which goes back as far.
                self.absences.on_back(self._clock.wall - self._horizon.span, self._clock.wall + 1)
        elif ended.key == FirehoseSync.PROBE:
            believed = self._firehose.on_probe_ended(ended, mono)
            return None if believed is None else self._answers.complete(believed, mono)
        elif sweep is not None:
            return self._answers.on_page_ended(ended, sweep, session, mono)
        return None

    def on_live_skipped(self, key: str, at: int) -> None:
        """Tell that the live subscription `key` brought an event of `at` (Unix seconds) that was too long to be read.

        By the first of its queries: the next tail sweeps find out which of them it is about.
        """
        form = next(iter(self._live.queries_of(key)), MANY_FORMS)
        self.gaps.open(form, at, at, Gap.OVERSIZED)

    def on_arrival(self, event_id: bytes, created_at: int, subscription: str, session: Session, mono: float) -> None:
        """Compare what comes live with what sweeps bring, whether it is known or new."""
        self._check.on_arrival(event_id, created_at, subscription, session, mono, self._clock.wall)

    def takes(self, message: EventMessage, session: Session) -> bool:
        """Take note of an event; returns whether it is to be saved, rather than asked for to serve as a control."""
        self.identity.note(message.event)
        return self._lessons.takes(message, session)

    def on_neg_message(self, answer: NegMessageReceived, session: Session, mono: float) -> None:
        """Take the relay's next message in a reconciliation (NIP-77)."""
        self._check_at = 0.0
        self._reconciliation.on_message(self._sweeps.get(answer.key), answer.payload, session, mono, self._clock.wall)

    def on_neg_finished(self, ended: NegFinished, session: Session) -> None:
        """Take the end of a reconciliation without a result."""
        self._check_at = 0.0
        self._reconciliation.on_finished(self._sweeps.get(ended.key), ended.end, session, self._clock.wall)
