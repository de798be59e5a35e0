"""What one relay's sweeps could not have, as gaps and counts."""

from collections import Counter

from pipeline.crawl.sync.open_gaps import OpenGaps
from pipeline.crawl.sync.paging.missing import Stuck
from pipeline.crawl.sync.paging.slices import PAGING_GAPS, SWEEP_GAPS, Gap
from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.stats import SyncStats
from pipeline.crawl.sync.sweep import Purpose, Sweep


class SweepGaps:
    """Opens and closes the gaps of sweeps."""

    __slots__ = ("_gaps", "_stats")

    def __init__(self, stats: SyncStats, gaps: OpenGaps) -> None:
        self._stats = stats
        self._gaps = gaps

    def on_window_changed(self, sweep: Sweep, before: Counter[Gap]) -> None:
        """Take what the window of a sweep found to be missing since its reasons were those of `before`."""
        self._stats.gap_reasons += sweep.window.gap_reasons - before
        is_extra = sweep.purpose is Purpose.RETRY and sweep.query.subject is Subject.FIREHOSE
        for missing in sweep.window.take_missing():
            if sweep.query.is_planned and not is_extra:
                self._gaps.open(sweep.query.key, missing.low, missing.high, missing.gap, count=0)

    def give_up(self, sweep: Sweep, stuck: Stuck) -> None:
        """Take note that what pages do not divide cannot be had in another way either."""
        before = Counter(sweep.window.gap_reasons)
        sweep.window.give_up(stuck)
        self.on_window_changed(sweep, before)

    def on_refused(self, sweep: Sweep, reason: Gap) -> None:
        """Note that nothing of what is left of a sweep can be had; of a gap that is tried again it is known."""
        if sweep.purpose is Purpose.RETRY:
            return
        low, high = sweep.window.remaining or sweep.window.span
        self._gaps.open(sweep.query.key, low, high, reason)

    def on_complete(self, sweep: Sweep) -> None:
        """Close what a sweep that goes through all of its query has had."""
        self.settle(sweep)
        self._gaps.close(sweep.query.key, 0, sweep.window.span[1], *SWEEP_GAPS)

    def settle(self, sweep: Sweep) -> None:
        """Close what a complete sweep went through, but for what it found missing itself."""
        found = ((each.gap, each.low, each.high) for each in sweep.window.missing)
        self._gaps.settle(sweep.query.key, sweep.window.covered, found, *PAGING_GAPS)
        if sweep.query.subject is Subject.FIREHOSE and not sweep.window.found_by_kinds:
            # What it found missing is told of everything.
            self._gaps.close_all(sweep.window.covered, sweep.started, but=sweep.query.key)
