"""When a page, a sweep and a cursor are complete. No I/O, no clock; `mono` is monotonic seconds.

A *page* is complete once its end says that the relay gave all it will give:

| a page ends | of | and so |
|---|---|---|
| with EOSE | any sweep | it is complete |
| with EOSE | ids that only the relay has | they were had, and the reconciliation goes on |
| with an error, again and again, after some events | a window | what came counts, and the next page asks for less |
| without EOSE, at a relay that never sends one (`RelayQuirks.settles_for`) | any | it is complete, though unproven |
| refused for size, form or number | any sweep | it is asked for smaller, at once or once a trial shows what fits |
| refused, a page that is optional | a check, a control | it is dropped, and reported as a gap |
| refused otherwise, or unanswered | any sweep | it is asked for later (`RefusedSweeps`) |

A *sweep* is complete once its window has no page left (`Window.is_done`), and its strands are joined:

| a sweep is over | and so |
|---|---|
| a strand, while others are under way | it waits for them |
| of an operator's backfill | that part of the job is done |
| a retry of a gap | the gap closes, but for what was missing again |
| by one filter for everything, which brought nothing or only by kinds | it is not believed, and the strategy changes |
| unproven | it is swept again; no cursor moves |
| a chunk of new authors at such a relay | once all chunks are through, the cursor of everything covers them |
| for gift wraps | no cursor moves |
| else | the *cursor* of its query moves to when it began (`_moved_cursor`) |

The cursor is committed with or after the events before it, never earlier.
"""

import math
from collections import Counter
from dataclasses import dataclass

from pipeline.crawl.sync import backfill_jobs
from pipeline.crawl.sync.backfill_jobs import BackfillJobs
from pipeline.crawl.sync.firehose import FirehoseSync
from pipeline.crawl.sync.gap_retries import GapRetries
from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.live.check import LiveCheck
from pipeline.crawl.sync.losses import Losses
from pipeline.crawl.sync.open_gaps import OpenGaps
from pipeline.crawl.sync.paging.slices import Gap, PageResult
from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.reconciler import Reconciler
from pipeline.crawl.sync.reconciliation_policy import ReconciliationPolicy
from pipeline.crawl.sync.refused_sweeps import RefusedSweeps
from pipeline.crawl.sync.size_trials import SizeTrials, Trial, TrialVerdict
from pipeline.crawl.sync.stats import SyncStats
from pipeline.crawl.sync.strands import Strands
from pipeline.crawl.sync.strategy import FetchStrategy
from pipeline.crawl.sync.sweep import Purpose, Sweep, sweep_key
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.crawl.sync.sync_clock import SyncClock
from pipeline.crawl.sync.timing import LASTING_RETRY_S
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded
from pipeline.store.cursors import Cursor

# Those that go through all that a query asks for, so that what they do not miss is had.
_FULL = frozenset({Purpose.INITIAL, Purpose.TAIL, Purpose.WRAPS, Purpose.RESWEEP})


@dataclass(slots=True)
class PageAnswers:
    """Takes the ends of pages of sweeps."""

    known: RelayKnowledge
    sweeps: SweepSet
    strands: Strands
    refused: RefusedSweeps
    reconciliation: ReconciliationPolicy
    trials: SizeTrials
    backfill_jobs: BackfillJobs
    retries: GapRetries
    firehose: FirehoseSync
    check: LiveCheck
    losses: Losses
    strategy: FetchStrategy
    stats: SyncStats
    gaps: OpenGaps
    clock: SyncClock
    has_gained: bool = False
    """Whether the last connection brought any sweep further but for the tails that follow each connect."""

    def on_page_ended(self, ended: PageEnded, sweep: Sweep, session: Session, mono: float) -> Cursor | None:
        """Take the end of a page of `sweep`; returns the cursor that it moves."""
        sweep.is_open = False
        if sweep.reconciler is not None:
            self._take_ids(ended, sweep, sweep.reconciler, mono)
            return None
        if not self._is_answered(ended, sweep, mono):
            return None
        self.losses.on_page(ended.count, sweep.window.limit)
        if ended.refusal is None:
            self.refused.on_answered(sweep)
        self._take(ended, sweep)
        self.has_gained |= sweep.purpose not in (Purpose.TAIL, Purpose.WRAPS)
        if sweep.window.is_done:
            return self.finish(sweep, session, mono)
        if self.retries.gives_up(sweep):
            return None
        sweep.not_before = mono + (backfill_jobs.PAUSE_S if sweep.purpose is Purpose.BACKFILL else sweep.pause_s)
        self.sweeps.note_progress(sweep, mono)
        return None

    def finish(self, sweep: Sweep, session: Session, mono: float) -> Cursor | None:
        """Take note that everything of a sweep was asked for; returns the cursor that it moves."""
        by_query = not self.strategy.is_firehose and sweep.query.subject is not Subject.FIREHOSE
        self.known.limits.learn(self.known.quirks.learn(sweep.window, session.limits, by_query=by_query))
        whole = self.strands.join(sweep, mono)
        if whole is None:
            return None
        self.sweeps.end(whole)
        self.check.on_swept(whole, session, mono)
        if whole.purpose is Purpose.BACKFILL:
            return self.backfill_jobs.complete(whole, self.sweeps, self.known)
        if whole.purpose is Purpose.RETRY:
            self.retries.complete(whole)
            return None
        if whole.query.subject is Subject.FIREHOSE and not self.firehose.accepts(whole, mono):
            return None
        return self.complete(whole, mono)

    def complete(self, sweep: Sweep, mono: float) -> Cursor | None:
        """Take note that a sweep that is over is believed; returns the cursor that it moves."""
        if not self._completes(sweep, mono):
            return None
        if sweep.query.subject is Subject.GLOBAL and sweep.events:
            self.gaps.note_broad(answers=True)
        if self.firehose.is_lookback_chunk(sweep.query):
            return self.firehose.on_chunk_complete(sweep.query)
        return None if sweep.purpose is Purpose.WRAPS else self._moved_cursor(sweep)

    def _completes(self, sweep: Sweep, mono: float) -> bool:
        """Take note that a sweep came to its end; returns whether that completes anything."""
        self.sweeps.forget_progress(sweep)
        if sweep.is_unproven:
            self.known.gaps.on_refused(sweep, Gap.NO_EOSE)
            wait_s = min(LASTING_RETRY_S, self.known.horizon.settings.resweep_every or math.inf)
            self.known.times.on_incomplete(sweep, mono + wait_s)
            return False
        self.known.times.on_complete(sweep.key)
        self.stats.sweeps += 1
        if sweep.purpose in _FULL:
            self.known.gaps.on_complete(sweep)
        return True

    def _moved_cursor(self, sweep: Sweep) -> Cursor:
        """The cursor of what a complete sweep was for, moved as far as it covers."""
        query, cursor = sweep.query, self.known.cursors.cursor_for(sweep.query)
        started = min(sweep.started, self.clock.wall)
        match sweep.purpose:
            case Purpose.INITIAL:
                return self.known.cursors.advance(query.key, started, query.generation)
            case Purpose.TAIL:
                return self.known.cursors.advance(query.key, started, 0 if cursor is None else cursor.generation)
            case Purpose.LOOKBACK:
                until = started if cursor is None else cursor.complete_until
                return self.known.cursors.advance(query.key, until, query.generation)
            case _:
                return self.known.cursors.advance(sweep_key(Purpose.RESWEEP, query), started, 0)

    def end_trial(self, trial: Trial | None, session: Session, mono: float) -> None:
        """Ask for what was refused within what is allowed, or believe the refusal."""
        if trial is None:
            return
        self.known.limits.learn(trial.limits)
        sweep = self.sweeps.get(trial.sweep)
        if sweep is not None:
            refusal = RelayRefusal.TOO_LARGE if trial.verdict is TrialVerdict.LEARNED else trial.refusal
            self.refused.put_off(sweep, refusal, mono)
        for key, refusal in self.trials.take_waiting().items():
            waiting = self.sweeps.get(key)
            if waiting is not None and trial.verdict is TrialVerdict.LEARNED:
                self.refused.put_off(waiting, RelayRefusal.TOO_LARGE, mono)
            elif waiting is not None:
                self._put_off(waiting, refusal, mono)

    def _take_ids(self, ended: PageEnded, sweep: Sweep, reconciler: Reconciler, mono: float) -> None:
        """Take a page of what a reconciliation found only the relay to have."""
        if ended.refusal is None:
            self.known.quirks.has_eose = True
            self.stats.pages += 1
            sweep.failures = 0
            sweep.events += ended.count
            reconciler.take(ended.ids)
            before = Counter(sweep.window.gap_reasons)
            sweep.window.note_unread(Gap.OVERSIZED, ended.skipped)
            sweep.window.note_unread(Gap.MALFORMED, ended.malformed)
            self.known.gaps.on_window_changed(sweep, before)
            return
        self.stats.incomplete_pages += 1
        if ended.refusal in (RelayRefusal.TOO_MANY_FILTERS, RelayRefusal.TOO_LARGE) and reconciler.refused():
            return
        if ended.refusal is RelayRefusal.TIMEOUT or ended.refusal.is_lasting:
            self.reconciliation.abandon(sweep)
            return
        self._put_off(sweep, ended.refusal, mono)

    def _take(self, ended: PageEnded, sweep: Sweep, *, is_broken: bool = False) -> bool:
        """Take a page that ended, as far as it ever will; `is_broken`: it broke off, as it does each time.

        Returns False if it is to be asked for as it was.
        """
        before, dense = Counter(sweep.window.gap_reasons), sweep.window.dense_seconds
        is_control = sweep.window.is_control
        result = PageResult(
            ended.count, ended.oldest, ended.newest, ended.newer, ended.older, ended.times, ended.skipped,
            ended.malformed, ended.undated, ended.strangers, ended.arrived, ended.has_left_out,
        )  # fmt: skip
        if not is_broken:
            sweep.window.take(result)
        elif not sweep.window.break_off(result):
            return False
        sweep.failures = 0
        sweep.events += 0 if is_control else ended.count
        self.known.quirks.gave = self.known.quirks.gave or ended.count > 0
        self.stats.pages += 1
        self.known.gaps.on_window_changed(sweep, before)
        self.stats.dense_seconds += sweep.window.dense_seconds - dense
        return True

    def _is_answered(self, ended: PageEnded, sweep: Sweep, mono: float) -> bool:
        """Whether a page was answered, or as far as it will ever be; if not it is put off."""
        is_whole, quirks = sweep.query.subject is Subject.FIREHOSE, self.known.quirks
        if ended.refusal is None:
            quirks.has_eose = True
            if is_whole and ended.count:
                self.strategy.on_answered()
            return True
        self.stats.incomplete_pages += 1
        if is_whole:
            self.strategy.on_failed(ended.refusal)
        is_broken = ended.refusal is RelayRefusal.ERROR and (sweep.failures >= 1 or sweep.window.breaks_off)
        if is_broken and (ended.count or sweep.window.breaks_off) and self._take(ended, sweep, is_broken=True):
            return False
        if not quirks.settles_for(ended, failures=sweep.failures, events=sweep.events):
            self._put_off(sweep, ended.refusal, mono)
            return False
        sweep.is_unproven = True
        return True

    def _put_off(self, sweep: Sweep, refusal: RelayRefusal, mono: float) -> None:
        if sweep.reconciler is None and self.refused.drops(sweep, refusal):
            return
        if sweep.reconciler is None and self.trials.on_refused(sweep.key, sweep.window.page(), refusal, mono):
            sweep.not_before = mono + LASTING_RETRY_S
            return
        jobs = self.backfill_jobs
        if not (jobs.abandon_if_exhausted(sweep, refusal, self.sweeps, self.known) or self.retries.gives_up(sweep)):
            self.refused.put_off(sweep, refusal, mono)
