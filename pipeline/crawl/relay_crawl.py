"""One relay's crawl: what to ask it next, and what its answers complete. A state machine without I/O or clock.

Live subscriptions are opened first. Sweeps then close what they leave open, page by page: an *initial* one where
nothing is covered, a *tail* from the cursor after each connect and at intervals, a *look-back* for members that the
cursor does not cover yet, and a *resweep* of the last days for what arrived late. A sweep survives disconnects and
refusals; only its last EOSE moves a cursor. `mono` is monotonic seconds, `wall` Unix seconds.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from pipeline.crawl import backfill
from pipeline.crawl.acquaintance import Acquaintance
from pipeline.crawl.asking import FEW_QUERIES, Asking, Newcomers
from pipeline.crawl.backfill import Backfilling
from pipeline.crawl.counts import CrawlCounts
from pipeline.crawl.coverage import Coverage
from pipeline.crawl.holdings import Holdings
from pipeline.crawl.live_subscriptions import LiveSubscriptions
from pipeline.crawl.plan import WHOLE_QUERY, Member, Plan, Query, Subject
from pipeline.crawl.reconciler import Reconciler
from pipeline.crawl.reconciling import Reconciling
from pipeline.crawl.slices import Gap, PageResult
from pipeline.crawl.sweep import FUTURE_S, OVERLAP_S, Purpose, Sweep, sweep_key
from pipeline.crawl.waits import LASTING_RETRY_S, retry_wait
from pipeline.crawl.windows import Window
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.relay.comparison import NegAnswered, NegEnded
from pipeline.relay.limits import Limits
from pipeline.relay.refusals import Refusal
from pipeline.relay.session import Session
from pipeline.relay.subscription import LiveEnded, PageEnded
from pipeline.settings import CrawlMode
from pipeline.store.cursors import Cursor
from pipeline.store.sweeps import SweepProgress

# How often a live subscription is checked by a tail sweep, and how often what has none is polled.
TAIL_EVERY_S = 300.0
POLL_EVERY_S = 60.0
# An idle relay's thread wakes no more often than it must; a busy one looks for new work no more often than this.
MAX_CHECK_S = 60.0
MIN_CHECK_S = 0.05
# A page that failed so often in a row, and each time so often again, is told as missing.
TOLD_FAILURES = 3
# Connections in a row that were lost with no answer at all until requests are made smaller.
MAX_FRUITLESS = 2
# Between two requests of chunks that take turns; longer where nothing was ever had.
_TURN_S = 2.0
_EMPTY_TURN_S = 20.0
# Sweeps begun at once; all others wait for their turn.
MAX_SWEEPS = 64
# In a whole crawl, chunks are looked through for late arrivals no more often than this.
_CHUNKS_EVERY_S = 60.0
# Later than any time that a clock shows.
_NEVER = 1 << 62
_CANARY = "canary"
_CANARY_PAGE = Filter(kinds=GLOBAL_KINDS, limit=1)
_WHOLE_CANARY = "whole-canary"
_WHOLE_CANARY_PAGE = Filter(limit=1)


@dataclass(frozen=True, slots=True)
class CrawlSettings:
    """How far sweeps reach, in seconds."""

    backfill: int
    lookback: int
    resweep_window: int
    resweep_every: int


class Lookout(Enum):
    """Whether to find out if the relay answers filters as broad as that for global kinds; once per connection."""

    NOT_NEEDED = "not needed"
    NEEDED = "needed"
    DONE = "done"


class RelayCrawl:
    """Everything wanted of one relay. Owned by the thread of its connection; outlives each connection."""

    __slots__ = (
        "_check_at", "_chunks_at", "_coverage", "_crawled_since", "_fruitless", "_held", "_hopeless", "_known",
        "_latest_wall", "_limits", "_live", "_lookout", "_newcomers", "_plan", "_progress", "_reconciling", "_settings",
        "_start_failures", "_start_not_before", "_sweeps", "_swept", "_turn", "_wanted", "asking", "backfilling",
        "counts",
    )  # fmt: skip

    def __init__(
        self, *, coverage: Coverage, limits: Limits, settings: CrawlSettings, plan: Plan, crawled_since: int,
        holdings: Holdings | None = None,
    ) -> None:  # fmt: skip
        """`holdings`: what may be compared with the relay's own; nothing is without."""
        self._limits = limits
        self.asking = Asking()
        self.backfilling = Backfilling(coverage.relay)
        self.counts = CrawlCounts()
        self._reconciling = Reconciling(holdings, self.counts)
        self._coverage = coverage
        self._settings = settings
        # What is wanted, and how this relay is asked for it.
        self._wanted = self._plan = plan
        self._crawled_since = crawled_since
        self._live = LiveSubscriptions(limits)
        self._sweeps: dict[str, Sweep] = {}
        self._swept: dict[str, float] = {}
        self._start_not_before: dict[str, float] = {}
        self._start_failures: dict[str, int] = {}
        self._progress: list[SweepProgress] = []
        self._check_at = 0.0
        self._latest_wall = _NEVER
        self._fruitless = 0
        self._known = Acquaintance()
        # By sweep, the newest change among the members of one that nothing could complete.
        self._hopeless: dict[str, int] = {}
        self._lookout = Lookout.NOT_NEEDED
        # Where the turn of chunks is; who became wanted since the whole cursor; a whole sweep that brought nothing.
        self._turn = 0
        self._newcomers: Newcomers | None = None
        self._held: Sweep | None = None
        self._chunks_at = 0.0

    def set_plan(self, plan: Plan) -> None:
        """Ask for `plan` from the next `advance` on; what it shares with the one before is left alone."""
        self._wanted = plan
        self._plan = plan.whole if self.asking.is_whole else plan
        self._check_at = 0.0

    def connected(self) -> None:
        """A new connection stands: nothing is subscribed to, and every live query has a gap behind it."""
        self._live.connected()
        self._swept.clear()
        self._held = None
        for sweep in self._sweeps.values():
            sweep.is_open = False
            if sweep.reconciler is not None:
                sweep.reconciler.interrupted()
        self._lookout = Lookout.NOT_NEEDED
        self._check_at = 0.0

    def lost(self, session: Session) -> None:
        """The connection of `session` was lost: learn from it if it was over a request too large for the relay."""
        self._reconciling.lost(session, self._latest_wall)
        if session.answers or not session.largest_request:
            self._fruitless = 0
            return
        self._fruitless += 1
        if self._fruitless >= MAX_FRUITLESS:
            session.limits = session.limits.below(session.largest_request)
            # Begun anew with smaller parts, as after a refusal for size.
            self._sweeps.clear()

    def take_progress(self) -> tuple[SweepProgress, ...]:
        """How far sweeps are, to be committed with or after the events before it."""
        taken = tuple(self._progress)
        self._progress.clear()
        return taken

    def advance(self, session: Session, mono: float, wall: int, *, may_ask: bool) -> None:
        """Open what is due. `may_ask` is false while the host asks for patience; live subscriptions wait then too."""
        if mono < self._check_at:
            return
        # The first look, or a clock that was set back; at once, while it shows which cursors are wrong.
        if wall < self._latest_wall and self._coverage.turn_back(wall + OVERLAP_S, wall - self._reach):
            self._swept.clear()
        self._latest_wall = wall
        self._choose(session, wall)
        self._limits = session.limits
        if not may_ask:
            self._check_at = mono + 1.0
            return
        self._live.open_due(self._plan.queries, session, mono)
        self._drop_unwanted()
        self._start_all_due(mono, wall)
        self._start_backfill(mono, wall)
        self._look_out(session, mono)
        self._open_pages(session, mono)
        self._check_at = self._next_check(session, mono, wall)

    def next_time(self) -> float:
        """When `advance` wants to be called again at the latest (monotonic seconds)."""
        return self._check_at

    def page_ended(self, ended: PageEnded, session: Session, mono: float) -> Cursor | None:
        """Take the end of a page; returns the cursor that it moves, to be committed with the events before it."""
        self._check_at = 0.0
        sweep = self._sweeps.get(ended.key)
        if ended.key == _CANARY:
            self._end_lookout(ended)
        elif ended.key == _WHOLE_CANARY:
            return self._end_hold(ended, mono)
        elif sweep is not None and sweep.reconciler is not None:
            self._take_ids(ended, sweep, sweep.reconciler, mono)
        elif sweep is not None:
            return self._end_page(ended, sweep, session, mono)
        return None

    def _end_page(self, ended: PageEnded, sweep: Sweep, session: Session, mono: float) -> Cursor | None:
        sweep.is_open = False
        if not self._is_answered(ended, sweep, mono):
            return None
        self._take_page(ended, sweep)
        if sweep.window.is_done:
            del self._sweeps[ended.key]
            session.limits = self._known.learn(sweep.window, session.limits, by_query=not self.asking.is_whole)
            return self._end_sweep(sweep, mono)
        if sweep.purpose is Purpose.BACKFILL:
            sweep.not_before = mono + backfill.PAUSE_S
        progress = sweep.progress(self._coverage.relay, mono)
        self._progress += [] if progress is None else [progress]
        return None

    def _is_answered(self, ended: PageEnded, sweep: Sweep, mono: float) -> bool:
        """Whether a page was answered, or as far as it will ever be; if not it is put off."""
        is_whole = sweep.query.subject is Subject.WHOLE
        if ended.refusal is None:
            self._known.has_eose = True
            if is_whole and ended.count:
                self.asking.answered()
            return True
        self.counts.incomplete_pages += 1
        if is_whole:
            self.asking.failed(ended.refusal)
        if not self._known.settles_for(ended, failures=sweep.failures, events=sweep.events):
            self._put_off(ended.key, sweep, ended.refusal, mono)
            return False
        sweep.is_unproven = True
        return True

    def _end_sweep(self, sweep: Sweep, mono: float) -> Cursor | None:
        if sweep.purpose is Purpose.BACKFILL:
            return self._complete_backfill(sweep)
        if sweep.query.subject is Subject.WHOLE:
            return self._complete_whole(sweep, mono)
        return self._complete(sweep, mono)

    def neg_answered(self, answer: NegAnswered, session: Session, mono: float) -> None:
        """Take the relay's next message in a comparison of sets (NIP-77)."""
        self._check_at = 0.0
        self._reconciling.answered(self._sweeps.get(answer.key), answer.payload, session, mono, self._latest_wall)

    def neg_ended(self, ended: NegEnded, session: Session) -> None:
        """Take the end of a comparison without a result."""
        self._check_at = 0.0
        self._reconciling.ended(self._sweeps.get(ended.key), ended.end, session, self._latest_wall)

    def _take_ids(self, ended: PageEnded, sweep: Sweep, reconciler: Reconciler, mono: float) -> None:
        """Take a page of what a comparison found only the relay to have."""
        sweep.is_open = False
        if ended.refusal is None:
            self._known.has_eose = True
            self.counts.pages += 1
            sweep.failures = 0
            sweep.events += ended.count
            reconciler.take(ended.ids)
            return
        self.counts.incomplete_pages += 1
        if ended.refusal is Refusal.TIMEOUT or ended.refusal.is_lasting:
            self._reconciling.abandon(sweep)
            return
        self._put_off(ended.key, sweep, ended.refusal, mono)

    def _take_page(self, ended: PageEnded, sweep: Sweep) -> None:
        sweep.failures = 0
        sweep.events += ended.count
        self._known.gave = self._known.gave or ended.count > 0
        before, dense = Counter(sweep.window.gap_reasons), sweep.window.dense_seconds
        sweep.window.take(PageResult(ended.count, ended.oldest, ended.newest, ended.newer, ended.older, ended.rises))
        self.counts.pages += 1
        self.counts.gap_reasons += sweep.window.gap_reasons - before
        self.counts.dense_seconds += sweep.window.dense_seconds - dense

    def _look_out(self, session: Session, mono: float) -> None:
        """Ask for one event that every relay in use has, if it gave none for a filter so broad."""
        if self._held is not None and not self._held.is_open and session.has_room_for_page():
            self._held.is_open = True
            session.open_page(_WHOLE_CANARY, _WHOLE_CANARY_PAGE, mono)
        if self._lookout is Lookout.NEEDED and self._known.gave and session.has_room_for_page():
            self._lookout = Lookout.DONE
            session.open_page(_CANARY, _CANARY_PAGE, mono)

    def _end_lookout(self, ended: PageEnded) -> None:
        if ended.refusal is None and not ended.count:
            self.counts.gap_reasons[Gap.NO_BROAD_FILTERS] += 1

    def live_ended(self, ended: LiveEnded, mono: float) -> None:
        """Take the end of a live subscription: open it again later, and sweep what it may miss."""
        self._check_at = 0.0
        if self.asking.is_whole:
            self.asking.failed(ended.refusal)
        for key in self._live.ended(ended, mono):
            self._swept.pop(key, None)

    @property
    def _reach(self) -> int:
        """How far back (seconds) anything is asked for that has been asked for before."""
        return max(self._settings.resweep_window, self._settings.backfill)

    def seconds_behind(self, wall: int) -> int:
        """How old the oldest cursor of a live query is; counted from the first crawl where there is none."""
        times = [
            cursor.complete_until if (cursor := self._coverage.of(query)) else self._crawled_since
            for query in self._plan.queries
            if query.is_live
        ]
        return max(0, wall - min(times, default=wall))

    @property
    def left_out(self) -> int:
        """How many queries this relay has no room for as live subscriptions."""
        return len(self._live.left_out)

    def _choose(self, session: Session, wall: int) -> None:
        """Ask by query or whole, as seems best now; what was covered either way stays so."""
        if self.asking.take_refusal():
            session.limits = replace(session.limits, whole_refused_at=wall)
        if self.asking.decide(self._wanted, session.limits, wall):
            if self.asking.is_whole:
                self._coverage.begin_whole(self._wanted.live)
            self.set_plan(self._wanted)
            self._newcomers = self._held = None
            self._swept.clear()
            self._turn = 0

    def _drop_unwanted(self) -> None:
        """End sweeps of queries that the plan has no longer; a relay that refuses them would be asked for ever."""
        wanted = {query.key for query in self._plan.queries}
        if self.asking.is_whole:
            wanted |= {query.key for query in self._wanted.live}
            wanted |= self._newcomers.pieces.keys() if self._newcomers is not None else set()
        for key, sweep in list(self._sweeps.items()):
            if sweep.purpose is Purpose.BACKFILL:
                is_wanted = self.backfilling.is_wanted(key)
            else:
                is_wanted = sweep.query.key in wanted
            if not is_wanted and not sweep.is_open:
                del self._sweeps[key]
                over = sweep.over(self._coverage.relay)
                self._progress += [] if over is None else [over]

    def _start_all_due(self, mono: float, wall: int) -> None:
        """Begin what is due, from where there was no room for more the last time."""
        queries = self._plan.queries
        began, self._turn = self._turn % max(len(queries), 1), -1
        for number in (*range(began, len(queries)), *range(began)):
            self._start_due(queries[number], mono, wall)
            if self._turn < 0 and not self._has_room(mono):
                self._turn = number
        self._turn = max(self._turn, 0)
        if self.asking.is_whole:
            self._look_back(mono, wall)
            self._resweep_chunks(mono, wall)

    def _start_backfill(self, mono: float, wall: int) -> None:
        """Begin the next part of what the operator ordered; one at a time, behind everything else."""
        part = self.backfilling.next_part(self._wanted, self._coverage)
        if part is None or any(sweep.purpose is Purpose.BACKFILL for sweep in self._sweeps.values()):
            return
        if self._start_not_before.get(part.key, 0.0) > mono:
            return
        since, until = part.job.since, part.job.until
        left = self._coverage.progress(part.key)
        if left is not None and left.generation == part.query.generation:
            since, until = max(since, left.since), min(until, left.until)
        window = self._window(part.query, since, until)
        failures = self._start_failures.pop(part.key, 0)
        self._sweeps[part.key] = Sweep(part.query, Purpose.BACKFILL, window, wall, failures=failures, name=part.key)

    def _complete_backfill(self, sweep: Sweep) -> Cursor | None:
        over = sweep.over(self._coverage.relay)
        self._progress += [] if over is None else [over]
        self._start_not_before.pop(sweep.key, None)
        is_complete = not sweep.is_unproven and not sweep.window.gaps
        self.backfilling.done(sweep.key, sweep.events, is_complete=is_complete)
        return self._coverage.advance(sweep.key, sweep.started, sweep.query.generation)

    def _has_room(self, mono: float) -> bool:
        """Whether another sweep may begin; those that only wait to try again take none."""
        few = len(self._sweeps) < MAX_SWEEPS
        return few or sum(sweep.not_before <= mono for sweep in self._sweeps.values()) < MAX_SWEEPS

    def _look_back(self, mono: float, wall: int) -> None:
        """Fetch by query what those who became wanted since wrote before, so that the whole cursor covers them too."""
        cursor = self._coverage.of(WHOLE_QUERY)
        if cursor is None or cursor.generation >= self._wanted.generation:
            return
        if self._newcomers is None:
            self._newcomers = Newcomers.since(self._wanted, cursor.generation)
        for piece in self._newcomers.pieces.values():
            self._start(piece, Purpose.LOOKBACK, self._lookback_since(piece.subject, piece.members), wall, mono)
        if not self._newcomers.pieces:
            # Written down with the next sweep that moves this cursor.
            self._coverage.advance(WHOLE_QUERY.key, cursor.complete_until, self._newcomers.generation)
            self._newcomers = None

    def _resweep_chunks(self, mono: float, wall: int) -> None:
        """Look for late arrivals by query where that takes fewer pages."""
        whole = self._coverage.of(WHOLE_QUERY)
        if whole is None or mono < self._chunks_at or not self._settings.resweep_every or self._resweeps_whole():
            return
        self._chunks_at = mono + _CHUNKS_EVERY_S
        for query in self._wanted.live:
            if wall - self._last_resweep(query) >= self._settings.resweep_every and self._has_room(mono):
                self._start(query, Purpose.RESWEEP, wall - self._settings.resweep_window, wall, mono)

    def _resweeps_whole(self) -> bool:
        return self.asking.resweeps_whole(self._wanted, self._settings.resweep_window, self._limits.page_limit)

    def _start_due(self, query: Query, mono: float, wall: int) -> None:
        cursor = self._coverage.of(query)
        if cursor is None:
            self._start(query, Purpose.INITIAL, self._initial_since(query), wall, mono)
            return
        if query.generation > cursor.generation and query.members:
            new = [member for member in query.members if member.generation > cursor.generation]
            self._start(query.of_members(new), Purpose.LOOKBACK, self._lookback_since(query.subject, new), wall, mono)
        if not query.is_live:
            return
        every = self._tail_every(query)
        if mono - self._swept.get(query.key, -every) >= every:
            self._start(query, Purpose.TAIL, cursor.complete_until - OVERLAP_S, wall, mono)
        is_time = wall - self._last_resweep(query) >= self._settings.resweep_every
        if self._settings.resweep_every and is_time and self._may_be_reswept(query):
            self._start(query, Purpose.RESWEEP, wall - self._settings.resweep_window, wall, mono)

    def _start(self, query: Query, purpose: Purpose, since: int, wall: int, mono: float) -> None:
        key = sweep_key(purpose, query)
        if key in self._sweeps or (purpose is not Purpose.LOOKBACK and not self._has_room(mono)):
            return
        if self._held is not None and self._held.key == key:
            return
        is_old = self._hopeless.get(key, query.generation) == query.generation
        if is_old and self._start_not_before.get(key, 0.0) > mono:
            return
        if self._hopeless.get(key) == query.generation:
            # What can never be completed is not asked for from ever further back.
            since = max(since, wall - self._reach)
        # A clock that was set back would let a window end before it begins.
        since = min(since, wall - OVERLAP_S)
        window = self._window(query, since, wall + FUTURE_S)
        failures = self._start_failures.pop(key, 0)
        sweep = self._sweeps[key] = Sweep(query, purpose, window, wall, wall - since, failures=failures)
        sweep.compares = self._reconciling.suits(sweep, self._limits, wall)
        if self._newcomers is None or query.key not in self._newcomers.pieces:
            sweep.resume(self._coverage.progress(key))
        if purpose in (Purpose.TAIL, Purpose.INITIAL):
            self._swept[query.key] = mono

    def _window(self, query: Query, since: int, until: int) -> Window:
        limits = self._limits
        return Window(
            query, since, until, limit=limits.page_limit, max_members=limits.max_members,
            manners=self._known.manners(limits),
        )  # fmt: skip

    def _initial_since(self, query: Query) -> int:
        since = self._lookback_since(query.subject, query.members)
        return min(since, self._crawled_since - self._settings.backfill)

    def _lookback_since(self, subject: Subject, members: "list[Member] | tuple[Member, ...]") -> int:
        if subject is Subject.PROFILES:
            return 0
        if subject is Subject.WHOLE:
            return self._crawled_since - self._settings.lookback
        # A relay found long after somebody became wanted is asked for as much as it would have been asked then.
        times = [max(member.since, self._crawled_since) - self._settings.lookback for member in members]
        return min(times, default=self._crawled_since)

    def _open_pages(self, session: Session, mono: float) -> None:
        for key, sweep in sorted(self._sweeps.items(), key=lambda item: item[1].purpose):
            if not session.has_room_for_page():
                return
            if sweep.is_open or sweep.not_before > mono:
                continue
            if not self._reconciling.open_next(sweep, session, mono):
                sweep.is_open = True
                session.open_page(key, sweep.window.page(), mono, patience=self._known.patience)

    def _may_resweep(self, query: Query) -> bool:
        """Whether only the time decides when the last days are swept again."""
        key = sweep_key(Purpose.RESWEEP, query)
        is_free = key not in self._sweeps and key not in self._start_not_before and self._may_be_reswept(query)
        return self._settings.resweep_every > 0 and is_free and self._coverage.of(query) is not None

    def _may_be_reswept(self, query: Query) -> bool:
        return query.subject is not Subject.WHOLE or self._resweeps_whole()

    def _last_resweep(self, query: Query) -> int:
        resweep = self._coverage.named(sweep_key(Purpose.RESWEEP, query))
        return self._crawled_since if resweep is None else resweep.complete_until

    def _next_check(self, session: Session, mono: float, wall: int) -> float:
        """When something is due that no answer of the relay brings up by itself."""
        times = [mono + MAX_CHECK_S]
        times += self._live.due_after(mono)
        times += (at for at in self._start_not_before.values() if at > mono)
        if session.has_room_for_page():
            times += (sweep.not_before for sweep in self._sweeps.values() if not sweep.is_open)
        for query in self._plan.queries:
            # Before it is covered it has an initial sweep, whose pages tell their time themselves.
            if query.is_live and self._coverage.of(query) is not None:
                times += self._due_times(query, mono, wall)
        return max(min(times), mono + MIN_CHECK_S)

    def _due_times(self, query: Query, mono: float, wall: int) -> Iterator[float]:
        """When sweeps of a covered query come due that are not under way."""
        tail, resweep = sweep_key(Purpose.TAIL, query), sweep_key(Purpose.RESWEEP, query)
        if tail not in self._sweeps and query.key in self._swept:
            yield max(self._swept[query.key] + self._tail_every(query), self._start_not_before.get(tail, 0.0))
        if self._may_resweep(query):
            wait = max(0, self._last_resweep(query) + self._settings.resweep_every - wall)
            yield max(mono + wait, self._start_not_before.get(resweep, 0.0))

    def _tail_every(self, query: Query) -> float:
        every, taking_turns = TAIL_EVERY_S, len(self._plan.live)
        if not self._live.has(query.key):
            every, taking_turns = POLL_EVERY_S, len(self._live.left_out)
        is_empty = taking_turns > FEW_QUERIES and not self._known.gave
        return max(every, taking_turns * (_EMPTY_TURN_S if is_empty else _TURN_S))

    def _put_off(self, key: str, sweep: Sweep, refusal: Refusal, mono: float) -> None:
        if sweep.purpose is Purpose.BACKFILL and sweep.failures + 1 >= backfill.MAX_FAILURES:
            del self._sweeps[key]
            self._complete_backfill(replace(sweep, is_unproven=True))
            return
        if refusal is Refusal.TOO_LARGE:
            # Begun anew with smaller parts: the window's own parts are too large for this relay.
            del self._sweeps[key]
            self._swept.pop(sweep.query.key, None)
            self._start_not_before[key] = mono + retry_wait(refusal, sweep.failures)
            self._start_failures[key] = sweep.failures + 1
            return
        if refusal.is_lasting:
            self.counts.gap_reasons[Gap.REFUSED] += 1
        sweep.not_before = mono + retry_wait(refusal, sweep.failures)
        sweep.failures += 1
        if sweep.failures % TOLD_FAILURES == 0:
            self.counts.gap_reasons[Gap.UNANSWERED] += 1

    def _complete_whole(self, sweep: Sweep, mono: float) -> Cursor | None:
        """Believe that there is nothing only of a relay that gives something when it is asked for anything."""
        if sweep.window.gap_reasons[Gap.DENSE_SECOND] and self.asking.mode is CrawlMode.AUTO:
            # Authors divide a second that kinds do not.
            self.asking.cannot()
            return None
        if sweep.window.needs_kinds:
            # It gave something by kinds alone, of which nobody knows all; by author it may give everything.
            self._leave_whole(sweep, mono)
            return None
        self.asking.measure(sweep.events, sweep.span)
        if sweep.events:
            return self._complete(sweep, mono)
        self._held = sweep
        return None

    def _end_hold(self, ended: PageEnded, mono: float) -> Cursor | None:
        sweep, self._held = self._held, None
        if sweep is None:
            return None
        self._swept.pop(sweep.query.key, None)
        if ended.refusal is not None:
            self.asking.failed(ended.refusal)
            self._start_not_before[sweep.key] = mono + retry_wait(ended.refusal, 0)
            return None
        if not ended.count:
            self._leave_whole(sweep, mono)
            return None
        self._swept[sweep.query.key] = mono
        return self._complete(sweep, mono)

    def _leave_whole(self, sweep: Sweep, mono: float) -> None:
        """Where the operator wants the relay asked whole all the same, nothing is taken for complete."""
        self.asking.cannot()
        self.counts.gap_reasons[Gap.NO_BROAD_FILTERS] += 1
        self._start_not_before[sweep.key] = mono + LASTING_RETRY_S

    def _complete(self, sweep: Sweep, mono: float) -> Cursor | None:
        over = sweep.over(self._coverage.relay)
        self._progress += [] if over is None else [over]
        if sweep.is_unproven:
            self.counts.gap_reasons[Gap.NO_EOSE] += 1
            self._start_not_before[sweep.key] = mono + min(LASTING_RETRY_S, self._settings.resweep_every or math.inf)
            self._hopeless[sweep.key] = sweep.query.generation
            return None
        self._start_not_before.pop(sweep.key, None)
        self._hopeless.pop(sweep.key, None)
        self.counts.sweeps += 1
        if sweep.query.subject is Subject.GLOBAL and not sweep.events and self._lookout is Lookout.NOT_NEEDED:
            self._lookout = Lookout.NEEDED
        elif sweep.query.subject is Subject.GLOBAL and sweep.events:
            self._lookout = Lookout.DONE
        if self._newcomers is not None and sweep.query.key in self._newcomers.pieces:
            return self._complete_piece(self._newcomers, sweep)
        cursor = self._coverage.of(sweep.query)
        started = min(sweep.started, self._latest_wall)
        match sweep.purpose:
            case Purpose.INITIAL:
                return self._coverage.advance(sweep.query.key, started, sweep.query.generation)
            case Purpose.TAIL:
                generation = 0 if cursor is None else cursor.generation
                return self._coverage.advance(sweep.query.key, started, generation)
            case Purpose.LOOKBACK:
                until = started if cursor is None else cursor.complete_until
                return self._coverage.advance(sweep.query.key, until, sweep.query.generation)
            case _:
                return self._coverage.advance(sweep_key(Purpose.RESWEEP, sweep.query), started, 0)

    def _complete_piece(self, newcomers: Newcomers, sweep: Sweep) -> Cursor | None:
        whole = self._coverage.of(WHOLE_QUERY)
        if not newcomers.done(sweep.query.key) or whole is None:
            return None
        self._newcomers = None
        return self._coverage.advance(WHOLE_QUERY.key, whole.complete_until, newcomers.generation)
