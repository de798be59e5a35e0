"""Fetches what strangers publish at one relay no faster than its costs allow. No I/O, no clock.

While they are paced the relay has no live subscription for global kinds. Their cursor stays where it is, and tail
sweeps go on from it page by page, so that everything comes later. `mono` is monotonic seconds.
"""

from typing import Final

from pipeline.crawl.asking import Asking
from pipeline.crawl.costs import GRACE_S, RelayCosts
from pipeline.crawl.live_subscriptions import LiveSubscriptions
from pipeline.crawl.losses import LEAST_PAGE
from pipeline.crawl.plan import GLOBAL_QUERY, Subject
from pipeline.crawl.sweeps import Sweeps

# A relay that is asked for everything cannot be asked for less of it. One that has paced for so long is asked by query.
WHOLE_PATIENCE_S: Final = 600.0


class StrangerPacing:
    """Paces one relay's global kinds, over all its connections."""

    __slots__ = ("_asking", "_is_paced", "_live", "_sweeps", "costs")

    def __init__(self, live: LiveSubscriptions, sweeps: Sweeps, asking: Asking) -> None:
        self.costs = RelayCosts(lambda: 0, 0.0)
        """Replaced before the first connection; strangers' bytes have no bound by default."""
        self._live = live
        self._sweeps = sweeps
        self._asking = asking
        self._is_paced = False

    def follow(self, mono: float) -> None:
        """Close or open the live subscription for global kinds, and sweep what neither may have had."""
        since = self.costs.paced_since(mono)
        if since is not None and self._asking.is_whole and mono - since >= WHOLE_PATIENCE_S:
            self._asking.cannot()
        if self._is_paced is (since is not None):
            return
        self._is_paced = self._live.leaves_out_global = since is not None
        self._sweeps.sweep_again(GLOBAL_QUERY.key)

    def delay_pages(self, mono: float) -> None:
        """Let pages of global kinds wait until those before them are paid off, and none hold much more than that."""
        if not self._is_paced:
            return
        at, events = self.costs.next_page_at(mono), self.costs.events_within(GRACE_S)
        for sweep in self._sweeps.in_order():
            if sweep.query.subject is Subject.GLOBAL and not sweep.is_open:
                sweep.not_before = max(sweep.not_before, at)
                if events is not None:
                    sweep.window.limit = min(sweep.window.limit, max(LEAST_PAGE, events))
