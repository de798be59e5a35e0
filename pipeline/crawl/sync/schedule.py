"""When one relay's sweeps fall due. No I/O, no clock; `mono` is monotonic seconds, `wall` Unix seconds.

An *initial* one where nothing is covered, a *tail* from the cursor after each connect and at intervals, a *look-back*
for members that the cursor does not cover yet, and a *resweep* of the last days for what arrived late.
"""

from collections.abc import Iterator

from pipeline.crawl.sync.firehose import FirehoseSync
from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.late_queries import LateQueries
from pipeline.crawl.sync.live.check import LiveCheck
from pipeline.crawl.sync.live.subscriptions import LiveSubscriptions
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.resweeps import Resweeps
from pipeline.crawl.sync.strategy import FEW_QUERIES
from pipeline.crawl.sync.sweep import OVERLAP_S, Purpose, sweep_key
from pipeline.crawl.sync.sweep_starter import SweepStarter
from pipeline.crawl.sync.sweeps import SweepSet

# How often a live subscription is checked by a tail sweep, and how often what has none is polled.
TAIL_EVERY_S = 300.0
POLL_EVERY_S = 60.0
# Between two requests of chunks that take turns; longer where nothing was ever had.
_TURN_S = 2.0
_EMPTY_TURN_S = 20.0
# Chunks of which relay lists are fetched at once, while nothing else is to be fetched.
_LISTS_AT_ONCE = 2


class Schedule:
    """Begins what is due, and knows what comes due next."""

    __slots__ = (
        "_check",
        "_demands",
        "_firehose",
        "_known",
        "_late",
        "_live",
        "_resweeps",
        "_round_robin_index",
        "_starter",
        "_sweeps",
        "polls",
    )  # fmt: skip

    def __init__(
        self,
        known: RelayKnowledge,
        sweeps: SweepSet,
        starter: SweepStarter,
        live: LiveSubscriptions,
        firehose: FirehoseSync,
        resweeps: Resweeps,
        check: LiveCheck,
    ) -> None:
        self._check = check
        self._known = known
        self._sweeps = sweeps
        self._starter = starter
        self._resweeps = resweeps
        self._live = live
        self._firehose = firehose
        self.polls = False
        """Whether queries are polled though they are subscribed to, as what comes live is not trusted."""
        # Where the turn of early queries is.
        self._round_robin_index = 0
        self._late = LateQueries()
        # What may make any query due, as it was when they were last looked at.
        self._demands = (0, False, 0)

    def restart(self) -> None:
        """Let the first query be the first again."""
        self._round_robin_index = 0

    def look_again(self) -> None:
        """Take note that something happened which may make any query due."""
        self._late.look_again()

    def begin_due(self, plan: Plan, mono: float, wall: int) -> None:
        """Begin what is due, from where there was no room for more the last time; late queries a few at a time."""
        queries, late = plan.by_time
        began, self._round_robin_index = self._round_robin_index % max(len(queries), 1), -1
        for number in (*range(began, len(queries)), *range(began)):
            self._begin_due(queries[number], plan, mono, wall)
            if self._round_robin_index < 0 and not self._sweeps.has_room(mono, queries[number].tier):
                self._round_robin_index = number
        self._round_robin_index = max(self._round_robin_index, 0)
        demands = self._known.times.demands, self.polls, len(self._live.unserved)
        if demands != self._demands:
            self._demands = demands
            self._late.look_again()
        self._late.follow(late)
        for query in self._late.take(mono):
            self._begin_due(query, plan, mono, wall)
            for at in self._next_due_times(query, plan, mono, wall):
                self._late.note(at)

    def due_times(self, plan: Plan, mono: float, wall: int) -> Iterator[float]:
        """When sweeps come due (monotonic) that no answer of the relay brings up by itself."""
        yield from self._known.times.due_after(mono)
        yield from self._resweeps.due_times(self._firehose.reswept, mono, wall)
        early, _ = plan.by_time
        for query in early:
            # Before it is covered it has an initial sweep, whose pages tell their time themselves.
            if query.is_live and self._known.cursors.cursor_for(query) is not None:
                yield from self._due_times(query, plan, mono, wall)
        yield self._late.next_time(mono)

    def _begin_due(self, query: Query, plan: Plan, mono: float, wall: int) -> None:
        known, sweeps, horizon = self._known, self._sweeps, self._known.horizon
        if query.subject is Subject.RELAY_LISTS and not sweeps.is_idle_but_for(query.subject, _LISTS_AT_ONCE, mono):
            return
        cursor = known.cursors.cursor_for(query)
        if cursor is None:
            if self._may_begin(Purpose.INITIAL, query, mono):
                self._starter.begin(query, Purpose.INITIAL, horizon.initial_since(query, wall), wall, mono)
            return
        if query.generation > cursor.generation and query.members:
            self._look_back(query, cursor.generation, mono, wall)
        if not query.is_live:
            return
        every = self._tail_every(query, plan)
        swept = known.times.last_swept(query.key)
        if swept is None or mono - swept >= every:
            self._starter.begin(query, Purpose.TAIL, cursor.complete_until - OVERLAP_S, wall, mono)
        if self._is_reswept(query):
            self._resweeps.begin_due(query, mono, wall)

    def _look_back(self, query: Query, generation: int, mono: float, wall: int) -> None:
        """Fetch what members who became wanted after `generation` wrote before."""
        if self._may_begin(Purpose.LOOKBACK, query, mono):
            new = query.members.after(generation)
            since = self._known.horizon.lookback_since(query.subject, new, wall)
            self._starter.begin(query.of_members(new), Purpose.LOOKBACK, since, wall, mono)

    def _may_begin(self, purpose: Purpose, query: Query, mono: float) -> bool:
        """Return False for what need not be reckoned now: going through the members costs the most of all this."""
        sweeps = self._sweeps
        is_under_way = sweeps.is_under_way(sweep_key(purpose, query), query.generation)
        return not (self._starter.waits_for_turn(query, mono) or is_under_way)

    def _next_due_times(self, query: Query, plan: Plan, mono: float, wall: int) -> Iterator[float]:
        """When a late query is to be looked at again: also for what could not begin yet."""
        cursor = self._known.cursors.cursor_for(query)
        if cursor is None or (query.generation > cursor.generation and query.members):
            key = sweep_key(Purpose.INITIAL if cursor is None else Purpose.LOOKBACK, query)
            if not self._sweeps.is_under_way(key, query.generation):
                yield self._known.times.not_before(key)
        if cursor is not None and query.is_live:
            yield from self._due_times(query, plan, mono, wall)

    def _due_times(self, query: Query, plan: Plan, mono: float, wall: int) -> Iterator[float]:
        tail, resweep = sweep_key(Purpose.TAIL, query), sweep_key(Purpose.RESWEEP, query)
        swept = self._known.times.last_swept(query.key)
        if tail not in self._sweeps and swept is not None:
            yield max(swept + self._tail_every(query, plan), self._known.times.not_before(tail))
        if resweep not in self._sweeps and not self._known.times.waits(resweep) and self._is_reswept(query):
            horizon, last = self._known.horizon, self._known.last_resweep(query)
            yield mono if horizon.is_resweep_due(wall, last) else mono + last + horizon.settings.resweep_every - wall

    def _is_reswept(self, query: Query) -> bool:
        """Whether only the time decides when the last days are swept again."""
        return self._known.horizon.settings.resweep_every > 0 and self._firehose.is_reswept(query)

    def _tail_every(self, query: Query, plan: Plan) -> float:
        every, taking_turns = TAIL_EVERY_S, len(plan.live)
        if not self._live.has(query.key):
            every, taking_turns = POLL_EVERY_S, len(self._live.unserved)
        elif self.polls:
            every = POLL_EVERY_S
        elif taking_turns <= FEW_QUERIES:
            every = self._check.proves_after(query.key) or every
        is_empty = taking_turns > FEW_QUERIES and not self._known.quirks.gave
        return max(every, taking_turns * (_EMPTY_TURN_S if is_empty else _TURN_S))
