"""What one relay's sweeps could not have, as gaps and counts."""

from collections import Counter

from pipeline.crawl.counts import CrawlCounts
from pipeline.crawl.open_gaps import OpenGaps
from pipeline.crawl.slices import PAGING_GAPS, SWEEP_GAPS, Gap
from pipeline.crawl.sweep import Sweep


class SweepGaps:
    """Opens and closes the gaps of sweeps."""

    __slots__ = ("_counts", "_gaps")

    def __init__(self, counts: CrawlCounts, gaps: OpenGaps) -> None:
        self._counts = counts
        self._gaps = gaps

    def on_window_changed(self, sweep: Sweep, before: Counter[Gap]) -> None:
        """Take what the window of a sweep found to be missing since its reasons were those of `before`."""
        self._counts.gap_reasons += sweep.window.gap_reasons - before
        for missing in sweep.window.take_missing():
            if sweep.query.is_planned:
                self._gaps.open(sweep.query.key, missing.low, missing.high, missing.gap, count=0)

    def on_refused(self, sweep: Sweep, reason: Gap) -> None:
        """Note that nothing of what is left of a sweep can be had."""
        low, high = sweep.window.remaining or sweep.window.span
        self._gaps.open(sweep.query.key, low, high, reason)

    def on_complete(self, sweep: Sweep) -> None:
        """Close what a sweep that goes through all of its query has had."""
        found = ((each.gap, each.low, each.high) for each in sweep.window.missing)
        self._gaps.settle(sweep.query.key, sweep.window.covered, found, *PAGING_GAPS)
        self._gaps.close(sweep.query.key, 0, sweep.window.span[1], *SWEEP_GAPS)
