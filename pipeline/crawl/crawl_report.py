"""How far the relays of one process are behind, and how they are asked, as metrics."""

import math
from dataclasses import dataclass, field
from typing import Final

from pipeline.crawl.relay_pool import RelayPool
from pipeline.process.clock import Clock
from pipeline.process.metrics import LEFT, Metrics
from pipeline.relay.authentication import AuthState

# A live relay's cursors move every five minutes.
_BEHIND_BOUNDS_S: Final = (60.0, 600.0, 3600.0, 86_400.0, math.inf)


@dataclass(slots=True)
class CrawlReport:
    """Tells the metrics about the pool of one process."""

    metrics: Metrics
    clock: Clock
    pool: RelayPool
    reported: set[str] = field(default_factory=set)
    """The labels of relays that are said to be behind."""

    def refresh(self) -> None:
        """Set the metrics to what the pool is like now."""
        metrics, wall = self.metrics, self.clock.now_ms() // 1000
        behind = self.pool.seconds_behind(wall)
        # With no relay connected, all are as far behind as the best of them.
        metrics.crawl_behind.set(max(behind.values()) if behind else self.pool.least_behind(wall))
        reported = {metrics.address_labels.label(address): seconds for address, seconds in behind.items()}
        for label in self.reported - reported.keys():
            metrics.crawl_relay_behind.labels(label).set(LEFT)
        for label, seconds in reported.items():
            metrics.crawl_relay_behind.labels(label).set(seconds)
        self.reported = set(reported)
        for bound in _BEHIND_BOUNDS_S:
            metrics.crawl_relays_behind.labels(f"{bound:g}").set(sum(each <= bound for each in behind.values()))
        metrics.queries_without_subscription.set(self.pool.unserved_queries)
        metrics.crawl_live_missed.set(self.pool.polled_for_misses)
        metrics.firehose_relays.set(self.pool.firehose_relays)
        states = self.pool.auth_states()
        for state in AuthState:
            metrics.crawl_auth.labels(state.value).set(states[state])
