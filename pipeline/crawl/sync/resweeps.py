"""Begins one relay's sweeps for late arrivals: at intervals, and after each absence. No I/O, no clock.

`mono` is monotonic seconds, `wall` Unix seconds.
"""

from collections.abc import Iterable, Iterator

from pipeline.crawl.sync.absences import TAILS_FIRST_S, Absences
from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.sweep import Purpose, sweep_key
from pipeline.crawl.sync.sweep_starter import SweepStarter
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.nostr.kinds import GIFT_WRAP

# How often a relay that waits for its turn looks whether it has come.
_LOOK_S = 5.0
_BEFORE = frozenset({Purpose.LOOKBACK, Purpose.INITIAL, Purpose.TAIL, Purpose.WRAPS})


class Resweeps:
    """The resweeps of one relay."""

    __slots__ = ("_absences", "_known", "_starter", "_sweeps")

    def __init__(self, known: RelayKnowledge, sweeps: SweepSet, starter: SweepStarter, absences: Absences) -> None:
        self._known = known
        self._sweeps = sweeps
        self._starter = starter
        self._absences = absences

    @property
    def is_under_way(self) -> bool:
        """Whether any is."""
        return any(sweep.purpose is Purpose.RESWEEP for sweep in self._sweeps.in_order())

    def begin_due(self, query: Query, mono: float, wall: int) -> None:
        """Begin a resweep of `query` if one is due."""
        horizon, key = self._known.horizon, sweep_key(Purpose.RESWEEP, query)
        if not horizon.settings.resweep_every or key in self._sweeps:
            return
        last = self._known.last_resweep(query)
        is_owed = self._is_owed(query) and self._absences.wait_s(query.key, self._done(query), wall) == 0
        if not horizon.is_resweep_due(wall, last) and not (is_owed and self._may_begin(mono, wall)):
            return
        since = horizon.resweep_since(wall, last)
        if is_owed:
            since = min(since, self._absences.since - horizon.settings.resweep_window)
        # What a former process has had of it arrived before the absence.
        self._starter.begin(query, Purpose.RESWEEP, max(0, since), wall, mono, resumes=not is_owed)
        if key in self._sweeps:
            self._absences.on_begun(query.key, wall)

    def begin_wraps(self, plan: Plan, mono: float, wall: int) -> None:
        """Ask for gift wraps after an absence, unless the relay does not give them."""
        since = self._absences.take_wraps(wall)
        known = self._known
        if since is None or GIFT_WRAP in (known.forms.withheld | set(known.limits.now.refused_kinds)):
            return
        for query in wraps_of(plan):
            self._starter.begin(query, Purpose.WRAPS, since, wall, mono, resumes=False)

    def settle(self, queries: Iterable[Query], wall: int) -> None:
        """See what is still owed of `queries`, which are all that is looked through for late arrivals."""
        if not self._absences.since:
            return
        owed = [query for query in queries if self._is_owed(query)]
        if not owed or not self._known.horizon.settings.resweep_every:
            self._absences.settle()
        elif not self.is_under_way and all(self._absences.wait_s(query.key, self._done(query), wall) for query in owed):
            self._absences.pause()

    def due_times(self, queries: Iterable[Query], mono: float, wall: int) -> Iterator[float]:
        """When something falls due that is owed for an absence (monotonic)."""
        wraps = self._absences.wraps_wait_s(wall)
        if wraps is not None:
            yield mono + wraps
        if self._absences.since and self._known.horizon.settings.resweep_every:
            for query in queries:
                if self._is_owed(query) and sweep_key(Purpose.RESWEEP, query) not in self._sweeps:
                    yield mono + max(_LOOK_S, self._absences.wait_s(query.key, self._done(query), wall))

    def _is_owed(self, query: Query) -> bool:
        return self._absences.is_owed(self._done(query))

    def _done(self, query: Query) -> int | None:
        """When the last resweep of `query` began that is complete."""
        cursor = self._known.cursors.get(sweep_key(Purpose.RESWEEP, query))
        return None if cursor is None else cursor.complete_until

    def _may_begin(self, mono: float, wall: int) -> bool:
        is_first = wall - self._absences.back_at < TAILS_FIRST_S and any(
            sweep.purpose in _BEFORE and sweep.not_before <= mono for sweep in self._sweeps.in_order()
        )
        return not is_first and self._absences.has_place()


def wraps_of(plan: Plan) -> list[Query]:
    """Return the queries for gift wraps to the users of `plan`."""
    return [
        Query(Subject.GIFT_WRAPS, query.prefix, query.members)
        for query in plan.live
        if query.subject is Subject.MENTIONS
    ]


def wrap_keys(plan: Plan) -> set[str]:
    """Return the keys of these queries."""
    return {f"{Subject.GIFT_WRAPS}/{query.prefix}" for query in plan.live if query.subject is Subject.MENTIONS}
