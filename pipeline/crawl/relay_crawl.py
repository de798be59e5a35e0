"""One relay's crawl: what to ask it next, and what its answers complete. A state machine without I/O or clock.

Live subscriptions are opened first. Sweeps then close what they leave open, page by page: an *initial* one where
nothing is covered, a *tail* from the cursor after each connect and at intervals, a *look-back* for members that the
cursor does not cover yet, and a *resweep* of the last days for what arrived late. A sweep survives disconnects and
refusals; only its last EOSE moves a cursor. `mono` is monotonic seconds, `wall` Unix seconds.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

from pipeline.crawl.coverage import Coverage
from pipeline.crawl.live import LiveGroups
from pipeline.crawl.plan import Member, Plan, Query, Subject
from pipeline.crawl.windows import PageResult, Window
from pipeline.relay.limits import Limits
from pipeline.relay.refusals import Refusal
from pipeline.relay.session import LiveEnded, PageEnded, Session
from pipeline.store.cursors import Cursor

# Events may be dated up to this far ahead, and relays may have taken them in out of order by as much.
FUTURE_S = 900
OVERLAP_S = 900
# How often a live subscription is checked by a tail sweep, and how often what has none is polled.
TAIL_EVERY_S = 300.0
POLL_EVERY_S = 60.0
# Waits after a failed page; doubled each time.
RETRY_S = 2.0
MAX_RETRY_S = 300.0
LASTING_RETRY_S = 600.0
# An idle relay's thread wakes no more often than it must; a busy one looks for new work no more often than this.
MAX_CHECK_S = 60.0
MIN_CHECK_S = 0.05


class Purpose(IntEnum):
    """Why a sweep is made; the lowest first when there is room for one only."""

    LOOKBACK = 0
    INITIAL = 1
    TAIL = 2
    RESWEEP = 3


@dataclass(frozen=True, slots=True)
class CrawlSettings:
    """How far sweeps reach, in seconds."""

    backfill: int
    lookback: int
    resweep_window: int
    resweep_every: int


@dataclass(slots=True)
class _Sweep:
    query: Query
    purpose: Purpose
    window: Window
    started: int
    not_before: float = 0.0
    failures: int = 0
    is_open: bool = False


@dataclass(slots=True)
class CrawlCounts:
    """What happened since the crawl began."""

    pages: int = 0
    incomplete_pages: int = 0
    sweeps: int = 0
    dense_seconds: int = 0
    gaps: int = 0


class RelayCrawl:
    """Everything wanted of one relay. Owned by the thread of its connection; outlives each connection."""

    __slots__ = (
        "_check_at", "_coverage", "_crawled_since", "_limits", "_live", "_live_not_before", "_plan", "_settings",
        "_sweeps", "_swept", "counts",
    )  # fmt: skip

    def __init__(
        self, *, coverage: Coverage, limits: Limits, settings: CrawlSettings, plan: Plan, crawled_since: int
    ) -> None:
        self._limits = limits
        self.counts = CrawlCounts()
        self._coverage = coverage
        self._settings = settings
        self._plan = plan
        self._crawled_since = crawled_since
        self._live = LiveGroups(limits)
        self._live_not_before: dict[str, float] = {}
        self._sweeps: dict[str, _Sweep] = {}
        self._swept: dict[str, float] = {}
        self._check_at = 0.0

    def set_plan(self, plan: Plan) -> None:
        """Ask for `plan` from the next `advance` on; what it shares with the one before is left alone."""
        self._plan = plan
        self._check_at = 0.0

    def connected(self) -> None:
        """A new connection stands: nothing is subscribed to, and every live query has a gap behind it."""
        self._live.reopen()
        self._live_not_before.clear()
        self._swept.clear()
        for sweep in self._sweeps.values():
            sweep.is_open = False
        self._check_at = 0.0

    def advance(self, session: Session, mono: float, wall: int, *, may_ask: bool) -> None:
        """Open what is due. `may_ask` is false while the host asks for patience; live subscriptions wait then too."""
        if mono < self._check_at:
            return
        self._limits = session.limits
        if not may_ask:
            self._check_at = mono + 1.0
            return
        self._open_live(session, mono)
        for query in self._plan.queries:
            self._start_due(query, mono, wall)
        self._open_pages(session, mono)
        self._check_at = self._next_check(session, mono)

    def next_time(self) -> float:
        """When `advance` wants to be called again at the latest (monotonic seconds)."""
        return self._check_at

    def page_ended(self, ended: PageEnded, session: Session, mono: float) -> Cursor | None:
        """Take the end of a page; returns the cursor that it moves, to be committed with the events before it."""
        self._check_at = 0.0
        sweep = self._sweeps.get(ended.key)
        if sweep is None:
            return None
        sweep.is_open = False
        if ended.refusal is not None:
            self.counts.incomplete_pages += 1
            self._put_off(ended.key, sweep, ended.refusal, mono)
            return None
        self.counts.pages += 1
        sweep.failures = 0
        sweep.window.take(PageResult(ended.count, ended.oldest, ended.newest))
        if not sweep.window.is_done:
            return None
        del self._sweeps[ended.key]
        if sweep.window.excludes_until != session.limits.until_exclusive:
            session.limits = replace(session.limits, until_exclusive=sweep.window.excludes_until)
        return self._complete(sweep)

    def live_ended(self, ended: LiveEnded, mono: float) -> None:
        """Take the end of a live subscription: open it again later, and sweep what it may miss."""
        self._check_at = 0.0
        self._live_not_before[ended.key] = mono + (LASTING_RETRY_S if ended.refusal.is_lasting else RETRY_S)
        self._live.reopen(ended.key)
        for key in self._live.queries_of(ended.key):
            self._swept.pop(key, None)

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

    def _open_live(self, session: Session, mono: float) -> None:
        self._live.arrange(self._plan.queries, session.limits)
        for key, filters in self._live.take_changed().items():
            if filters is None:
                session.close_live(key)
            elif self._live_not_before.get(key, 0.0) > mono or not session.has_room_for_live(key):
                self._live.reopen(key)
            else:
                session.open_live(key, filters, mono)

    def _start_due(self, query: Query, mono: float, wall: int) -> None:
        cursor = self._coverage.of(query)
        if cursor is None:
            self._start(query, Purpose.INITIAL, self._initial_since(query), wall, mono)
            return
        new = [member for member in query.members if member.generation > cursor.generation]
        if new:
            self._start(query.of_members(new), Purpose.LOOKBACK, self._lookback_since(query.subject, new), wall, mono)
        if not query.is_live:
            return
        every = self._tail_every(query)
        if mono - self._swept.get(query.key, -every) >= every:
            self._start(query, Purpose.TAIL, cursor.complete_until - OVERLAP_S, wall, mono)
        resweep = self._coverage.named(_key(Purpose.RESWEEP, query))
        last = self._crawled_since if resweep is None else resweep.complete_until
        if self._settings.resweep_every and wall - last >= self._settings.resweep_every:
            self._start(query, Purpose.RESWEEP, wall - self._settings.resweep_window, wall, mono)

    def _start(self, query: Query, purpose: Purpose, since: int, wall: int, mono: float) -> None:
        key = _key(purpose, query)
        if key in self._sweeps:
            return
        window = Window(
            query, since, wall + FUTURE_S, limit=self._limits.page_limit,
            exclusive=self._limits.until_exclusive, max_members=self._limits.max_members,
        )  # fmt: skip
        self._sweeps[key] = _Sweep(query, purpose, window, wall)
        if purpose in (Purpose.TAIL, Purpose.INITIAL):
            self._swept[query.key] = mono

    def _initial_since(self, query: Query) -> int:
        since = self._lookback_since(query.subject, query.members)
        return min(since, self._crawled_since - self._settings.backfill)

    def _lookback_since(self, subject: Subject, members: "list[Member] | tuple[Member, ...]") -> int:
        if subject is Subject.PROFILES:
            return 0
        # A relay found long after somebody became wanted is asked for as much as it would have been asked then.
        times = [max(member.since, self._crawled_since) - self._settings.lookback for member in members]
        return min(times, default=self._crawled_since)

    def _open_pages(self, session: Session, mono: float) -> None:
        for key, sweep in sorted(self._sweeps.items(), key=lambda item: item[1].purpose):
            if not session.has_room_for_page():
                return
            if not sweep.is_open and sweep.not_before <= mono:
                sweep.is_open = True
                session.open_page(key, sweep.window.page(), mono)

    def _next_check(self, session: Session, mono: float) -> float:
        """When something is due that no answer of the relay brings up by itself."""
        times = [mono + MAX_CHECK_S]
        times += (at for at in self._live_not_before.values() if at > mono)
        if session.has_room_for_page():
            times += (sweep.not_before for sweep in self._sweeps.values() if not sweep.is_open)
        for query in self._plan.queries:
            if query.is_live and _key(Purpose.TAIL, query) not in self._sweeps and query.key in self._swept:
                times.append(self._swept[query.key] + self._tail_every(query))
        return max(min(times), mono + MIN_CHECK_S)

    def _tail_every(self, query: Query) -> float:
        return POLL_EVERY_S if query.key in self._live.left_out else TAIL_EVERY_S

    def _put_off(self, key: str, sweep: _Sweep, refusal: Refusal, mono: float) -> None:
        if refusal is Refusal.TOO_LARGE:
            # Begun anew with smaller parts: the window's own parts are too large for this relay.
            del self._sweeps[key]
            self._swept.pop(sweep.query.key, None)
            return
        wait = LASTING_RETRY_S if refusal.is_lasting else min(RETRY_S * 2**sweep.failures, MAX_RETRY_S)
        sweep.not_before = mono + wait
        sweep.failures = min(sweep.failures + 1, 16)

    def _complete(self, sweep: _Sweep) -> Cursor:
        self.counts.sweeps += 1
        self.counts.dense_seconds += sweep.window.dense_seconds
        self.counts.gaps += sweep.window.gaps
        cursor = self._coverage.of(sweep.query)
        match sweep.purpose:
            case Purpose.INITIAL:
                return self._coverage.advance(sweep.query.key, sweep.started, sweep.query.generation)
            case Purpose.TAIL:
                generation = 0 if cursor is None else cursor.generation
                return self._coverage.advance(sweep.query.key, sweep.started, generation)
            case Purpose.LOOKBACK:
                until = sweep.started if cursor is None else cursor.complete_until
                return self._coverage.advance(sweep.query.key, until, sweep.query.generation)
            case Purpose.RESWEEP:
                return self._coverage.advance(_key(Purpose.RESWEEP, sweep.query), sweep.started, 0)


def _key(purpose: Purpose, query: Query) -> str:
    return f"{purpose.name.lower()}:{query.key}"
