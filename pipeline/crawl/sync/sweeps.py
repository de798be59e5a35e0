"""One relay's sweeps: which are under way, which must wait, and what the end of one completes. No I/O, no clock.

A sweep survives disconnects and refusals; only its last EOSE moves a cursor. `mono` is monotonic seconds, `wall` Unix
seconds.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.paging.kind_lists import known_gaps
from pipeline.crawl.sync.paging.missing import Stuck
from pipeline.crawl.sync.paging.slices import Gap, Manners, PageResult
from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.plan import Query, Subject
from pipeline.crawl.sync.reconciliation_policy import ReconciliationPolicy
from pipeline.crawl.sync.relay_lists import NOBODY, Named
from pipeline.crawl.sync.stats import SyncStats
from pipeline.crawl.sync.strands import BORDER_S, border, free_names, shared_slices, strand_names
from pipeline.crawl.sync.sweep import FUTURE_S, OVERLAP_S, Purpose, Sweep, sweep_key
from pipeline.crawl.sync.timing import LASTING_RETRY_S
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded
from pipeline.store.cursors import Cursor
from pipeline.store.sweeps import SweepProgress
from pipeline.store.wanted_authors import TIERS

# What is older (seconds) hardly arrives between two pages.
SETTLED_S = 120
# Between two pages of what is asked for member by member (seconds).
SINGLE_PAUSE_S = 0.25
# Sweeps begun at once; all others wait for their turn.
MAX_SWEEPS = 64
# Those that go through all that a query asks for, so that what they do not miss is had.
_FULL = frozenset({Purpose.INITIAL, Purpose.TAIL, Purpose.WRAPS, Purpose.RESWEEP})
# Seconds between two sweeps that begin for the past of authors of the last tier. A crowd brings thousands of them in
# moments, each a long request, and the thread that sends them also reads what all others publish.
LATE_EVERY_S = 0.1
_LAST_TIER = TIERS - 1
# Few pages that must not wait.
_AT_ONCE = frozenset({Purpose.LOOKBACK, Purpose.WRAPS})
# What is new here, of which some people's is to be had sooner.
_ORDERED = frozenset({Purpose.LOOKBACK, Purpose.INITIAL})


class SweepSet:
    """The sweeps of one relay, over all its connections."""

    __slots__ = (
        "_known", "_progress", "_reconciliation", "_stats", "_under_way", "late_at", "named", "postponed",
        "unconfirmed_firehose", "users",
    )  # fmt: skip

    def __init__(self, known: RelayKnowledge, reconciling: ReconciliationPolicy, counts: SyncStats) -> None:
        self._known = known
        # What is not begun until it is known in which form to ask for it.
        self.postponed: frozenset[Subject] = frozenset()
        self.named: Named = NOBODY
        self.users: frozenset[bytes] = frozenset()
        # One for everything that brought nothing, until it is known whether the relay answers so broad a filter.
        self.unconfirmed_firehose: Sweep | None = None
        # When the next sweep for the past of authors of the last tier may begin (monotonic).
        self.late_at = 0.0
        self._reconciliation = reconciling
        self._stats = counts
        self._under_way: dict[str, Sweep] = {}
        self._progress: list[SweepProgress] = []

    def __contains__(self, key: str) -> bool:
        return key in self._under_way

    def __iter__(self) -> Iterator[Sweep]:
        """Those under way."""
        return iter(self._under_way.values())

    def get(self, key: str) -> Sweep | None:
        """The sweep of this key, if it is under way."""
        return self._under_way.get(key)

    def is_idle_but_for(self, subject: Subject, most: int, mono: float) -> bool:
        """Return True if fewer than `most` sweeps are under way, all of `subject`, but for those that have to wait."""
        # Often asked while very many are under way: most of the time the first tells.
        busy = 0
        for sweep in self._under_way.values():
            if sweep.is_open or sweep.not_before <= mono:
                busy += 1
                if busy >= most or sweep.query.subject is not subject:
                    return False
        return busy < most

    def is_idle(self, mono: float) -> bool:
        """Return True if no sweep is under way but for those that have to wait, and no try of a gap."""
        return not any(
            sweep.is_open or sweep.not_before <= mono or sweep.purpose is Purpose.RETRY
            for sweep in self._under_way.values()
        )

    def in_order(self) -> list[Sweep]:
        """Those under way that have something to ask, first whose pages come first."""
        asking = (sweep for sweep in self._under_way.values() if not (sweep.strands and sweep.window.is_done))
        return sorted(asking, key=lambda sweep: sweep.rank)

    def follow(self, named: Named) -> None:
        """Ask first for those who are `named` at the relay; what has not been begun yet is ordered anew."""
        if named is self.named:
            return
        self.named = named
        for sweep in list(self._under_way.values()):
            if sweep.purpose in _ORDERED and sweep.is_untouched:
                # To be begun again at once.
                self.end(sweep)

    def has_room(self, mono: float, tier: int = 0) -> bool:
        """Return True if another sweep for authors of `tier` may begin.

        Those that only wait to try again take no room, nor do those for authors of later tiers.
        """
        if len(self._under_way) < MAX_SWEEPS:
            return True
        return sum(each.not_before <= mono and each.tier <= tier for each in self._under_way.values()) < MAX_SWEEPS

    def waits_for_turn(self, query: Query, mono: float) -> bool:
        """Return True if the past of these authors, of the last tier, is not yet to be asked for."""
        return mono < self.late_at and query.tier == _LAST_TIER

    def _may_begin(self, query: Query, purpose: Purpose, mono: float, *, is_stuck: bool) -> bool:
        if purpose in _ORDERED and self.waits_for_turn(query, mono):
            return False
        return purpose in _AT_ONCE or is_stuck or self.has_room(mono, query.tier)

    def begin(
        self, query: Query, purpose: Purpose, since: int, wall: int, mono: float, *, resumes: bool = True
    ) -> None:
        """Sweep `query` from `since` (Unix seconds) on, unless that is under way, has to wait or has no room.

        `resumes`: what a former process has had of it is left out.
        """
        key = sweep_key(purpose, query)
        stuck = self._under_way.get(key)
        if self.is_under_way(key, query.generation):
            return
        if not self._may_begin(query, purpose, mono, is_stuck=stuck is not None):
            return
        if query.subject in self.postponed or (
            self.unconfirmed_firehose is not None and self.unconfirmed_firehose.key == key
        ):
            return
        if self._known.times.must_wait(key, query.generation, mono):
            return
        if self._known.times.is_hopeless(key, query.generation):
            # What can never be completed is not asked for from ever further back.
            since = max(since, wall - self._known.horizon.span)
        # A clock that was set back would let a window end before it begins.
        since = min(since, wall - OVERLAP_S)
        window = self._window(query, since, wall + FUTURE_S, wall, is_tail=purpose is Purpose.TAIL)
        sweep = Sweep(query, purpose, window, wall, wall - since)
        sweep.compares = self._reconciliation.applies_to(sweep, self._known.limits.now, wall)
        if stuck is not None:
            sweep.take_over(stuck)
            self.end(stuck)
        elif resumes:
            progress = self._known.cursors.progress(key)
            # One that a clock that was ahead began says nothing about what has come since.
            self._resume(sweep, None if progress is None or progress.started > wall + OVERLAP_S else progress)
        if purpose in _ORDERED and query.tier == _LAST_TIER:
            self.late_at = mono + LATE_EVERY_S
        if purpose in _ORDERED and stuck is None:
            self._put_first(sweep)
        self._known.times.on_begun(sweep, mono)
        self._add(sweep)

    def _put_first(self, sweep: Sweep) -> None:
        """Let a sweep ask first for users, who may be of a late tier, else for those who are named at the relay."""
        query = sweep.query
        users = {each.public_key for each in query.members} & self.users if query.tier else frozenset[bytes]()
        sweep.is_for_users = bool(users)
        sweep.window.put_first(users or {member.public_key for member in self.named.among(query)})

    def is_under_way(self, key: str, generation: int) -> bool:
        """Return True if a sweep of this key is under way; not if it was refused and is of an older generation."""
        sweep = self._under_way.get(key)
        if sweep is None:
            return False
        is_stuck = any(each.was_refused for each in (sweep, *sweep.strands))
        return sweep.is_under_way or not is_stuck or sweep.query.generation >= generation

    def begin_part(self, name: str, query: Query, since: int, until: int, wall: int) -> None:
        """Sweep a span (both ends included) that an operator ordered, under a name of its own."""
        left = self._known.cursors.progress(name)
        if left is not None and left.generation == query.generation:
            since, until = max(since, left.since), min(until, left.until)
        window = self._window(query, since, until, wall, is_thorough=True)
        self._add(Sweep(query, Purpose.BACKFILL, window, wall, name=name))

    def begin_retry(self, query: Query, since: int, until: int, wall: int, pause_s: float) -> None:
        """Sweep a span (both ends included) once more, with a pause between two pages."""
        window = self._window(query, since, until, wall, is_thorough=True)
        sweep = Sweep(query, Purpose.RETRY, window, wall, wall - since)
        self._add(sweep)
        sweep.pause_s = max(sweep.pause_s, pause_s)

    def known_gaps(self, query: Query) -> tuple[Gap, ...]:
        """What no sweep of `query` is known to bring, as the relay is asked now."""
        return known_gaps(query, self._manners(query, is_thorough=True))

    def _add(self, sweep: Sweep) -> None:
        if self._known.forms.finds_first_only(sweep.query.subject):
            sweep.pause_s = SINGLE_PAUSE_S
        self._under_way[sweep.key] = sweep

    def _window(
        self, query: Query, since: int, until: int, wall: int, *, is_tail: bool = False, is_thorough: bool = False
    ) -> Window:
        """`is_thorough`: it may take many requests for what hardly anybody writes."""
        limits = self._known.limits.now
        compares = self._reconciliation.may_compare(limits, wall)
        return Window(
            query, since, until, limit=limits.page_limit, max_members=query.most_members(limits),
            manners=self._manners(query, is_tail=is_tail, is_thorough=is_thorough, compares=compares),
            settled=wall - SETTLED_S,
        )  # fmt: skip

    def _manners(
        self, query: Query, *, is_tail: bool = False, is_thorough: bool = False, compares: bool = False
    ) -> Manners:
        is_routine = is_tail and self._known.times.last_swept(query.key) is not None
        known = self._known.quirks.manners(self._known.limits.now, compares=compares)
        # Of many queries each would take as many requests.
        is_few = is_thorough and len(query.bits) <= 1
        return self._known.forms.manners(
            known, query.subject, is_tail=is_tail, is_routine=is_routine, takes_many=is_few
        )

    def take(self, ended: PageEnded, sweep: Sweep, *, is_broken: bool = False) -> bool:
        """Take a page that ended, as far as it ever will; `is_broken`: it broke off, as it does each time.

        Returns False if it is to be asked for as it was.
        """
        before, dense = Counter(sweep.window.gap_reasons), sweep.window.dense_seconds
        is_control = sweep.window.is_control
        result = PageResult(
            ended.count, ended.oldest, ended.newest, ended.newer, ended.older, ended.times, ended.skipped,
            ended.undated, ended.strangers,
        )  # fmt: skip
        if not is_broken:
            sweep.window.take(result)
        elif not sweep.window.break_off(result):
            return False
        sweep.failures = 0
        sweep.events += 0 if is_control else ended.count
        self._known.quirks.gave = self._known.quirks.gave or ended.count > 0
        self._stats.pages += 1
        self._known.gaps.on_window_changed(sweep, before)
        self._stats.dense_seconds += sweep.window.dense_seconds - dense
        return True

    # A sweep and its strands.

    def split(self, sweep: Sweep, pages: int, mono: float) -> Sweep | None:
        """Give the last part of what a long sweep has left to a strand; returns that, None if it is to stay whole.

        `pages`: how many more there is room for.
        """
        whole = sweep.parent or sweep
        names, left = free_names(whole), sweep.window.remaining
        if names and not whole.has_progress and (count := shared_slices(sweep, min(len(names), pages) + 1)):
            return self._add_strand(whole, names[0], sweep.window.last_part(count))
        end = border(sweep, min(len(names), pages) + 1)
        if end is None or not names or left is None:
            return None
        window = sweep.window.lower_part(left[0], end + BORDER_S)
        sweep.window.give_up_below(end - BORDER_S)
        strand = self._add_strand(whole, names[0], window)
        # Together: without its row, what the strand is for would count as had.
        self._progress += [each.mark(self._known.cursors.relay, mono) for each in (strand, sweep)]
        return strand

    def join(self, sweep: Sweep, mono: float) -> Sweep | None:
        """Take note that the window of a sweep is done; returns the whole that is over with it, if it is."""
        whole = sweep.parent or sweep
        if sweep.parent is not None:
            del self._under_way[sweep.key]
            whole.absorb(sweep)
            self._forget_progress(sweep)
        elif sweep.strands and sweep.has_progress:
            self._progress.append(sweep.mark(self._known.cursors.relay, mono))
        return whole if whole.window.is_done and not whole.strands else None

    def _resume(self, sweep: Sweep, progress: SweepProgress | None) -> None:
        """Leave out what a former process has had of a sweep and of its strands."""
        rows = [(name, row) for name in strand_names(sweep) if (row := self._known.cursors.progress(name)) is not None]
        is_resumed = sweep.resume(progress)
        for name, row in rows:
            # Whenever it began: what a strand has left is left of no other.
            if is_resumed:
                strand = self._add_strand(sweep, name, sweep.window.lower_part(row.since, row.until))
                strand.mark(self._known.cursors.relay, 0.0)
            else:
                self._progress.append(replace(row, since=0, until=-1))

    def _add_strand(self, parent: Sweep, name: str, window: Window) -> Sweep:
        strand = Sweep(parent.query, parent.purpose, window, parent.started, name=name, parent=parent)
        parent.strands.append(strand)
        self._under_way[strand.key] = strand
        return strand

    def give_up(self, sweep: Sweep, stuck: Stuck) -> None:
        """Take note that what pages do not divide cannot be had in another way either."""
        before = Counter(sweep.window.gap_reasons)
        sweep.window.give_up(stuck)
        self._known.gaps.on_window_changed(sweep, before)

    def end(self, sweep: Sweep) -> None:
        """It is no longer under way, nor are its strands."""
        del self._under_way[sweep.key]
        for strand in sweep.strands:
            del self._under_way[strand.key]
            self._forget_progress(strand)

    def cancel_unwanted(self, is_wanted: Callable[[Sweep], bool]) -> None:
        """End those that nobody wants any more; a relay that refuses them would be asked for ever."""
        for sweep in list(self._under_way.values()):
            if sweep.parent is None and not sweep.is_under_way and not is_wanted(sweep):
                self.end(sweep)
                self._forget_progress(sweep)

    def owe(self, subject: Subject, session: Session, mono: float) -> None:
        """Forget what is complete about `subject`, to be asked for once more in another form."""
        self._known.cursors.take_back(subject)
        self._restart([each for each in self._under_way.values() if each.query.subject is subject], session, mono)

    def owe_all_under_way(self, session: Session, mono: float) -> None:
        """Restart all sweeps: the clock was set back, and what they bring may be refused as of the future.

        Those that begin now end where that begins.
        """
        for sweep in self._under_way.values():
            self._forget_progress(sweep)
        self._restart(list(self._under_way.values()), session, mono)

    def _restart(self, sweeps: Sequence[Sweep], session: Session, mono: float) -> None:
        for sweep in sweeps:
            if sweep.reconciler is not None and sweep.is_open:
                session.comparison.close()
            session.cancel_page(sweep.key, mono)
            if sweep.parent is None:
                self.end(sweep)
                self._known.times.sweep_again(sweep.query.key)

    def shrink_pages(self, limit: int) -> None:
        """Ask for at most `limit` events at once from now on, also in what is under way."""
        for sweep in self._under_way.values():
            sweep.window.limit = min(sweep.window.limit, limit)

    def on_connected(self) -> None:
        """A new connection stands, on which no page is open: every query has a gap behind it."""
        self._known.times.sweep_all_again()
        self.unconfirmed_firehose = None
        for sweep in self._under_way.values():
            sweep.is_open = False
            if sweep.reconciler is not None:
                sweep.reconciler.interrupted()

    def complete(self, sweep: Sweep, mono: float) -> bool:
        """Take note that a sweep came to its end; returns whether that completes anything."""
        self._forget_progress(sweep)
        if sweep.is_unproven:
            self._known.gaps.on_refused(sweep, Gap.NO_EOSE)
            wait_s = min(LASTING_RETRY_S, self._known.horizon.settings.resweep_every or math.inf)
            self._known.times.on_incomplete(sweep, mono + wait_s)
            return False
        self._known.times.on_complete(sweep.key)
        self._stats.sweeps += 1
        if sweep.purpose in _FULL:
            self._known.gaps.on_complete(sweep)
        return True

    def complete_part(self, sweep: Sweep) -> Cursor:
        """Take note that a part of what an operator ordered came to its end; returns the cursor that says so."""
        self._forget_progress(sweep)
        self._known.times.on_complete(sweep.key)
        if sweep.query.is_planned and not sweep.is_unproven:
            self._known.gaps.settle(sweep)
        return self._known.cursors.advance(sweep.key, sweep.started, sweep.query.generation)

    def moved_cursor(self, sweep: Sweep, wall: int) -> Cursor:
        """The cursor of what a complete sweep was for, moved as far as it covers."""
        query, cursor = sweep.query, self._known.cursors.cursor_for(sweep.query)
        started = min(sweep.started, wall)
        match sweep.purpose:
            case Purpose.INITIAL:
                return self._known.cursors.advance(query.key, started, query.generation)
            case Purpose.TAIL:
                return self._known.cursors.advance(query.key, started, 0 if cursor is None else cursor.generation)
            case Purpose.LOOKBACK:
                until = started if cursor is None else cursor.complete_until
                return self._known.cursors.advance(query.key, until, query.generation)
            case _:
                return self._known.cursors.advance(sweep_key(Purpose.RESWEEP, query), started, 0)

    def last_resweep(self, query: Query) -> int:
        """When (Unix seconds) what is late was last looked for; the first crawl counts as such."""
        resweep = self._known.cursors.get(sweep_key(Purpose.RESWEEP, query))
        return self._known.horizon.crawled_since if resweep is None else resweep.complete_until

    def note_progress(self, sweep: Sweep, mono: float) -> None:
        """Remember how far a sweep is, once that is worth a row."""
        if (progress := sweep.progress(self._known.cursors.relay, mono)) is not None:
            self._progress.append(progress)

    def _forget_progress(self, sweep: Sweep) -> None:
        if (over := sweep.over(self._known.cursors.relay)) is not None:
            self._progress.append(over)

    def take_progress(self) -> tuple[SweepProgress, ...]:
        """How far sweeps are, to be committed with or after the events before it."""
        taken = tuple(self._progress)
        self._progress.clear()
        return taken
