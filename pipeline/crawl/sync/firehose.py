"""What is particular to a relay that is asked *whole*: who its cursor does not cover yet, and whether it is believed.

No I/O, no clock; `mono` is monotonic seconds, `wall` Unix seconds.
"""

from collections.abc import Iterator
from typing import Final

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.open_gaps import OpenGaps
from pipeline.crawl.sync.paging.slices import Gap
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import FIREHOSE_QUERY, Query, Subject
from pipeline.crawl.sync.resweeps import Resweeps
from pipeline.crawl.sync.strategy import FetchStrategy, NewAuthorLookback
from pipeline.crawl.sync.sweep import Purpose, Sweep, sweep_key
from pipeline.crawl.sync.sweep_starter import SweepStarter
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.crawl.sync.timing import LASTING_RETRY_S, PROBE_EVERY_S, retry_wait
from pipeline.nostr.filter import Filter
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded
from pipeline.settings.choices import CrawlMode
from pipeline.store.cursors import Cursor

# Chunks are looked through for late arrivals no more often than this.
_CHUNKS_EVERY_S: Final = 60.0


class FirehoseSync:
    """The whole side of one relay's crawl. `wanted`: everything, by query, whichever way the relay is asked."""

    PROBE: Final = "whole-canary"
    _PROBE_PAGE: Final = Filter(limit=1)

    __slots__ = (
        "_by_query",
        "_chunks_at",
        "_gaps",
        "_known",
        "_lookback",
        "_resweeps",
        "_starter",
        "_strategy",
        "_sweeps",
        "wanted",
    )

    def __init__(
        self,
        known: RelayKnowledge,
        wanted: Plan,
        strategy: FetchStrategy,
        sweeps: SweepSet,
        starter: SweepStarter,
        gaps: OpenGaps,
        resweeps: Resweeps,
    ) -> None:
        self.wanted = wanted.newest
        # The plan by query, which may have a former state of the last tier.
        self._by_query = wanted
        self._resweeps = resweeps
        self._strategy = strategy
        self._known = known
        self._sweeps = sweeps
        self._starter = starter
        self._gaps = gaps
        # Who became wanted since the cursor for everything.
        self._lookback: NewAuthorLookback | None = None
        self._chunks_at = 0.0

    def follow(self, plan: Plan) -> None:
        """Ask for `plan`, by query as well; what it has of the last tier never goes back to a former state.

        What a sweep completes is for the authors that are asked for, and a cursor covers all up to the newest of them.
        """
        self.wanted = plan.newest
        is_former = plan.last_tier_generation < self._by_query.last_tier_generation
        self._by_query = plan.newest if is_former else plan

    @property
    def plan(self) -> Plan:
        """What to ask for, the way the relay is asked for it."""
        return self.wanted.whole if self._strategy.is_firehose else self._by_query

    def on_strategy_changed(self) -> None:
        """The relay is asked another way from now on; what was covered either way stays so."""
        if self._strategy.is_firehose:
            self._known.cursors.start_firehose(self.wanted.live)
        else:
            # The cursor for everything covers the newest authors as well.
            self._by_query = self.wanted
        self._lookback = self._sweeps.unconfirmed_firehose = None

    def swept_queries(self) -> frozenset[str]:
        """The keys of queries that are swept besides those of the plan."""
        if not self._strategy.is_firehose:
            return frozenset()
        live = self.wanted.live_keys
        return live if self._lookback is None else live | self._lookback.chunks.keys()

    def begin_due(self, mono: float, wall: int) -> None:
        """Begin what one filter for everything does not bring."""
        if self._strategy.is_firehose:
            self._look_back(mono, wall)
            self._resweep_chunks(mono, wall)

    def _look_back(self, mono: float, wall: int) -> None:
        """Fetch by query what those who became wanted since wrote before, so that the whole cursor covers them too."""
        cursors, horizon = self._known.cursors, self._known.horizon
        cursor = cursors.cursor_for(FIREHOSE_QUERY)
        if cursor is None or cursor.generation >= self.wanted.generation:
            return
        if self._lookback is None:
            self._lookback = NewAuthorLookback.since(self.wanted, cursor.generation, self._starter.named)
        self._lookback.follow(self.wanted, self._starter.named)
        for chunk in self._lookback.chunks.values():
            # Going through the members of what is under way would cost the most of all this.
            if self._starter.waits_for_turn(chunk, mono):
                continue
            if self._sweeps.is_under_way(sweep_key(Purpose.LOOKBACK, chunk), chunk.generation):
                continue
            since = horizon.lookback_since(chunk.subject, chunk.members, wall)
            self._starter.begin(chunk, Purpose.LOOKBACK, since, wall, mono, resumes=False)
        if not self._lookback.chunks:
            # Written down with the next sweep that moves this cursor.
            cursors.advance(FIREHOSE_QUERY.key, cursor.complete_until, self._lookback.generation)
            self._lookback = None

    def _resweep_chunks(self, mono: float, wall: int) -> None:
        """Look for late arrivals by query where that takes fewer pages."""
        horizon = self._known.horizon
        every, whole = horizon.settings.resweep_every, self._known.cursors.cursor_for(FIREHOSE_QUERY)
        if whole is None or mono < self._chunks_at or not every or self._resweeps_firehose():
            return
        self._chunks_at = mono + _CHUNKS_EVERY_S
        for query in self.wanted.live:
            if self._sweeps.has_room(mono, query.tier):
                self._resweeps.begin_due(query, mono, wall)

    @property
    def reswept(self) -> Iterator[Query]:
        """What is looked through for late arrivals: the queries of the plan, or chunks in place of everything."""
        by_chunk = self._strategy.is_firehose and not self._resweeps_firehose()
        yield from self.wanted.live if by_chunk else self.plan.live

    def is_reswept(self, query: Query) -> bool:
        """Whether a query of the plan is looked through for late arrivals, rather than chunks in its place."""
        return query.subject is not Subject.FIREHOSE or self._resweeps_firehose()

    def _resweeps_firehose(self) -> bool:
        window = self._known.horizon.settings.resweep_window
        return self._strategy.resweeps_firehose(self.wanted, window, self._known.limits.now.page_limit)

    def accepts(self, sweep: Sweep, mono: float) -> bool:
        """Whether a sweep for everything that ended brought all there is.

        Where it brought nothing it is held, until the relay was seen to give something when asked for anything.
        """
        if sweep.window.gap_reasons[Gap.DENSE_SECOND] and self._strategy.mode is CrawlMode.AUTO:
            # Authors divide a second that kinds do not.
            self._strategy.disable_firehose()
            return False
        if sweep.window.needs_kinds:
            # It gave something by kinds alone, of which nobody knows all; by author it may give everything.
            self._abandon(sweep, mono)
            return False
        self._strategy.record_rate(sweep.events, sweep.span)
        if not sweep.events:
            self._sweeps.unconfirmed_firehose = sweep
        return sweep.events > 0

    def open_probe(self, session: Session, mono: float) -> None:
        """Ask for any event at all while a sweep is held."""
        held = self._sweeps.unconfirmed_firehose
        if held is not None and not held.is_open and session.has_room_for_page():
            held.is_open = True
            session.open_page(self.PROBE, self._PROBE_PAGE, mono)

    def on_probe_ended(self, ended: PageEnded, mono: float) -> Sweep | None:
        """Take the answer; returns the sweep that was held if it is believed now."""
        sweep, self._sweeps.unconfirmed_firehose = self._sweeps.unconfirmed_firehose, None
        if sweep is None:
            return None
        self._known.times.sweep_again(sweep.query.key)
        if ended.refusal is not None:
            self._strategy.on_failed(ended.refusal)
            self._known.times.wait(sweep.key, mono + retry_wait(ended.refusal, 0, lasting_s=PROBE_EVERY_S))
            return None
        if not ended.count:
            self._abandon(sweep, mono)
            return None
        self._known.times.swept(sweep.query.key, mono)
        return sweep

    def _abandon(self, sweep: Sweep, mono: float) -> None:
        """Where the operator wants the relay asked whole all the same, nothing is taken for complete."""
        self._strategy.disable_firehose()
        self._gaps.open(sweep.query.key, *sweep.window.span, Gap.NO_BROAD_FILTERS)
        self._known.times.wait(sweep.key, mono + LASTING_RETRY_S)

    def is_lookback_chunk(self, query: Query) -> bool:
        """Whether a query is a part of the look-back for new authors."""
        return self._lookback is not None and query.key in self._lookback.chunks

    def on_chunk_complete(self, query: Query) -> Cursor | None:
        """Take note that a part of that look-back is had; returns the cursor that the last one moves."""
        lookback, cursors = self._lookback, self._known.cursors
        whole = cursors.cursor_for(FIREHOSE_QUERY)
        if lookback is None or not lookback.done(query.key) or whole is None:
            return None
        self._lookback = None
        return cursors.advance(FIREHOSE_QUERY.key, whole.complete_until, lookback.generation)
