"""What a first crawl of a relay has not had yet, so that it is not taken for complete. No I/O, no clock."""

from collections.abc import Iterable
from typing import Final

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.open_gaps import OpenGaps
from pipeline.crawl.sync.paging.slices import SWEEP_GAPS, Gap
from pipeline.crawl.sync.query import Query
from pipeline.crawl.sync.sweep import Purpose, sweep_key
from pipeline.crawl.sync.sweeps import SweepSet

# Most first crawls are over by then (seconds since the connection); relays that bound requests by time take longer.
UNFINISHED_AFTER_S: Final = 60
TELL_EVERY_S: Final = 30.0


class Unfinished:
    """Opens a gap for each query of one relay that was never had as a whole, where that takes long."""

    __slots__ = ("_gaps", "_known", "_sweeps", "_tell_at")

    def __init__(self, known: RelayKnowledge, sweeps: SweepSet, gaps: OpenGaps) -> None:
        self._known = known
        self._sweeps = sweeps
        self._gaps = gaps
        self._tell_at = 0.0

    def tell_due(self, queries: Iterable[Query], connected_at: int | None, mono: float, wall: int) -> None:
        """Open the gaps, if it is time for it; `connected_at`: since when (Unix seconds) the relay is asked."""
        if connected_at is None or wall - connected_at < UNFINISHED_AFTER_S or mono < self._tell_at:
            return
        self._tell_at = mono + TELL_EVERY_S
        told = {gap.form for gap in self._gaps if gap.reason in SWEEP_GAPS}
        for query in queries:
            if query.key not in told and self._known.cursors.cursor_for(query) is None:
                sweep = self._sweeps.get(sweep_key(Purpose.INITIAL, query))
                begin = self._known.horizon.initial_since(query, connected_at)
                span = (begin, connected_at) if sweep is None else sweep.window.span
                self._gaps.open(query.key, *span, Gap.UNFINISHED, count=0)
