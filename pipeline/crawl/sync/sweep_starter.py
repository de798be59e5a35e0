"""Begins one relay's sweeps, each with the window that suits what is known of the relay. No I/O, no clock.

`mono` is monotonic seconds, `wall` Unix seconds.
"""

from typing import Final

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.late_pace import LatePace
from pipeline.crawl.sync.paging.kind_lists import known_gaps
from pipeline.crawl.sync.paging.slices import Gap, Manners
from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.reconciliation_policy import ReconciliationPolicy
from pipeline.crawl.sync.relay_lists import NOBODY, Named
from pipeline.crawl.sync.strands import Strands
from pipeline.crawl.sync.sweep import FUTURE_S, OVERLAP_S, Purpose, Sweep, sweep_key
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.store.wanted_authors import TIERS

# What is older (seconds) hardly arrives between two pages.
SETTLED_S: Final = 120
_LAST_TIER: Final = TIERS - 1
# Few pages that must not wait.
_AT_ONCE: Final = frozenset({Purpose.LOOKBACK, Purpose.WRAPS})
# What is new here, of which some people's is to be had sooner.
_ORDERED: Final = frozenset({Purpose.LOOKBACK, Purpose.INITIAL})


class SweepStarter:
    """Begins sweeps of one relay, in the order and form that is known to be right."""

    __slots__ = (
        "_known", "_reconciliation", "_strands", "_sweeps", "late_at", "late_pace", "named", "postponed", "users",
    )  # fmt: skip

    def __init__(
        self, known: RelayKnowledge, sweeps: SweepSet, strands: Strands, reconciliation: ReconciliationPolicy
    ) -> None:
        self._known = known
        self._sweeps = sweeps
        self._strands = strands
        self._reconciliation = reconciliation
        self.postponed: frozenset[Subject] = frozenset()
        """What is not begun until it is known in which form to ask for it."""
        self.named: Named = NOBODY
        """Who is named at the relay; asked for first."""
        self.users: frozenset[bytes] = frozenset()
        """Registered users; asked for before all others."""
        self.late_pace = LatePace()
        """How far apart such sweeps begin as are for the past of authors of the last tier."""
        self.late_at = 0.0
        """When the next sweep for the past of authors of the last tier may begin (monotonic)."""

    def follow(self, named: Named) -> None:
        """Ask first for those who are `named` at the relay; reorder the sweeps that have not begun."""
        if named is self.named:
            return
        self.named = named
        for sweep in list(self._sweeps):
            if sweep.purpose in _ORDERED and sweep.is_untouched:
                # To be begun again at once.
                self._sweeps.end(sweep)

    def waits_for_turn(self, query: Query, mono: float) -> bool:
        """Return True if the past of these authors, of the last tier, is not yet to be asked for."""
        return mono < self.late_at and query.tier == _LAST_TIER

    def _may_begin(self, query: Query, purpose: Purpose, mono: float, *, is_stuck: bool) -> bool:
        if purpose in _ORDERED and self.waits_for_turn(query, mono):
            return False
        return purpose in _AT_ONCE or is_stuck or self._sweeps.has_room(mono, query.tier)

    def begin(
        self, query: Query, purpose: Purpose, since: int, wall: int, mono: float, *, resumes: bool = True
    ) -> None:
        """Sweep `query` from `since` (Unix seconds) on, unless that is under way, has to wait or has no room.

        `resumes`: what a former process has had of it is left out.
        """
        key = sweep_key(purpose, query)
        stuck = self._sweeps.get(key)
        if self._sweeps.is_under_way(key, query.generation):
            return
        if self._is_held(key, query) or not self._may_begin(query, purpose, mono, is_stuck=stuck is not None):
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
            self._sweeps.end(stuck)
        elif resumes:
            progress = self._known.cursors.progress(key)
            # One that a clock that was ahead began says nothing about what has come since.
            self._strands.resume(sweep, None if progress is None or progress.started > wall + OVERLAP_S else progress)
        if purpose in _ORDERED and query.tier == _LAST_TIER:
            self.late_at = mono + self.late_pace.every_s
        if purpose in _ORDERED and stuck is None:
            self._put_first(sweep)
        self._known.times.on_begun(sweep, mono)
        self._sweeps.add(sweep)

    def _is_held(self, key: str, query: Query) -> bool:
        """Return True for what is not asked for until a probe or an audit has its answer."""
        held = self._sweeps.unconfirmed_firehose
        return query.subject in self.postponed or (held is not None and held.key == key)

    def _put_first(self, sweep: Sweep) -> None:
        """Let a sweep ask first for users, who may be of a late tier, else for those who are named at the relay."""
        query = sweep.query
        users = self.users.intersection(query.members.keys) if query.tier else frozenset[bytes]()
        sweep.is_for_users = bool(users)
        sweep.window.put_first(users or self.named.keys_among(query))

    def begin_part(self, name: str, query: Query, since: int, until: int, wall: int) -> None:
        """Sweep a span (both ends included) that an operator ordered, under a name of its own."""
        left = self._known.cursors.progress(name)
        if left is not None and left.generation == query.generation:
            since, until = max(since, left.since), min(until, left.until)
        window = self._window(query, since, until, wall, is_thorough=True)
        self._sweeps.add(Sweep(query, Purpose.BACKFILL, window, wall, name=name))

    def begin_retry(self, query: Query, since: int, until: int, wall: int, pause_s: float) -> None:
        """Sweep a span (both ends included) once more, with a pause between two pages."""
        window = self._window(query, since, until, wall, is_thorough=True)
        sweep = Sweep(query, Purpose.RETRY, window, wall, wall - since)
        self._sweeps.add(sweep)
        sweep.pause_s = max(sweep.pause_s, pause_s)

    def known_gaps(self, query: Query) -> tuple[Gap, ...]:
        """What no sweep of `query` is known to bring, as the relay is asked now."""
        return known_gaps(query, self._manners(query, is_thorough=True))

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
