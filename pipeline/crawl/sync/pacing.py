"""Fetches what strangers publish at one relay no faster than its costs allow. No I/O, no clock.

While they are paced one page for global kinds is asked for at a time, and a flooding relay has no live subscription for
them. Their cursor stays where it is, and tail sweeps go on from it, so that everything comes later. `mono` is monotonic
seconds.
"""

from typing import Final

from pipeline.crawl.sync.costs import PAGE_S, RelayCosts
from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.live.subscriptions import LiveSubscriptions
from pipeline.crawl.sync.losses import LEAST_PAGE
from pipeline.crawl.sync.query import GLOBAL_QUERY, Subject
from pipeline.crawl.sync.strategy import FetchStrategy
from pipeline.crawl.sync.sweeps import SweepSet

# A relay that is asked for everything cannot be asked for less of it. One that floods for so long is asked by query.
WHOLE_PATIENCE_S: Final = 600.0
# When it is looked again whether the page before is had.
_NEXT_PAGE_S: Final = 0.5


class StrangerPacing:
    """Paces one relay's global kinds, over all its connections."""

    __slots__ = ("_known", "_live", "_strategy", "_sweeps", "costs")

    def __init__(
        self, known: RelayKnowledge, live: LiveSubscriptions, sweeps: SweepSet, strategy: FetchStrategy
    ) -> None:
        self.costs = RelayCosts(lambda: 0, 0.0)
        """Replaced before the first connection; strangers' bytes have no bound by default."""
        self._live = live
        self._known = known
        self._sweeps = sweeps
        self._strategy = strategy

    def follow(self, mono: float) -> None:
        """Close or open the live subscription for global kinds, and sweep what neither may have had."""
        since = self.costs.flooding_since(mono)
        if since is not None and self._strategy.is_firehose and mono - since >= WHOLE_PATIENCE_S:
            self._strategy.disable_firehose()
        if self._live.leaves_out_global is (since is not None):
            return
        self._live.leaves_out_global = since is not None
        self._known.times.sweep_again(GLOBAL_QUERY.key)

    def delay_pages(self, mono: float) -> None:
        """Let pages of global kinds wait until those before them are paid off, and none hold much more than that."""
        if self.costs.paced_since(mono) is None:
            return
        at, events = self.costs.next_page_at(mono), self.costs.events_within(PAGE_S)
        sweeps = [sweep for sweep in self._sweeps.in_order() if sweep.query.subject is Subject.GLOBAL]
        if any(sweep.is_open for sweep in sweeps):
            at = max(at, mono + _NEXT_PAGE_S)
        for sweep in sweeps:
            if sweep.is_open:
                continue
            sweep.not_before = max(sweep.not_before, at)
            # It is not parted any further.
            sweep.pause_s = max(sweep.pause_s, _NEXT_PAGE_S)
            if events is not None:
                sweep.window.limit = min(sweep.window.limit, max(LEAST_PAGE, events))
            # The first in order goes, the others behind it.
            at = max(at, mono + _NEXT_PAGE_S)
