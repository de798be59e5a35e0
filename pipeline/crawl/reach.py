"""How far back one relay is asked, by why it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.crawl.plan import Member, Query, Subject


@dataclass(frozen=True, slots=True)
class CrawlSettings:
    """How far sweeps reach, in seconds."""

    backfill: int
    lookback: int
    resweep_window: int
    resweep_every: int


@dataclass(frozen=True, slots=True)
class Reach:
    """The settings as seen from one relay, which is crawled since `crawled_since`. All times are Unix seconds."""

    settings: CrawlSettings
    crawled_since: int

    @property
    def span(self) -> int:
        """How many seconds back anything is asked for that has been asked for before."""
        return max(self.settings.resweep_window, self.settings.backfill)

    def of_initial(self, query: Query) -> int:
        """Where the first sweep of a query begins."""
        return min(self.of_lookback(query.subject, query.members), self.crawled_since - self.settings.backfill)

    def of_lookback(self, subject: Subject, members: Sequence[Member]) -> int:
        """Where a sweep for what `members` wrote before they were wanted begins."""
        if subject is Subject.PROFILES:
            return 0
        if subject is Subject.WHOLE:
            return self.crawled_since - self.settings.lookback
        # A relay found long after somebody became wanted is asked for as much as it would have been asked then.
        times = [max(member.since, self.crawled_since) - self.settings.lookback for member in members]
        return min(times, default=self.crawled_since)

    def of_resweep(self, wall: int) -> int:
        """Where a sweep for late arrivals begins."""
        return wall - self.settings.resweep_window
