"""How far back one relay is asked, by why it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.crawl.plan import Member, Query, Subject

# A clock that is set back by less than this leaves no time behind that cannot be.
_SLACK_S = 900


@dataclass(frozen=True, slots=True)
class CrawlSettings:
    """How far sweeps reach, in seconds."""

    backfill: int
    lookback: int
    resweep_window: int
    resweep_every: int


@dataclass(frozen=True, slots=True)
class Reach:
    """The settings as seen from one relay, which is crawled since `crawled_since`. All times are Unix seconds.

    A time that was noted by a clock that was ahead is believed no further than `wall`, which is now.
    `doubted_since`, `doubted_at`: commits since the one may be lost, as was noticed at the other; 0 for none.
    """

    settings: CrawlSettings
    crawled_since: int
    doubted_since: int = 0
    doubted_at: int = 0

    @property
    def span(self) -> int:
        """How many seconds back anything is asked for that has been asked for before."""
        return max(self.settings.resweep_window, self.settings.backfill)

    def of_initial(self, query: Query, wall: int) -> int:
        """Where the first sweep of a query begins."""
        since = min(self.crawled_since, wall) - self.settings.backfill
        return min(self.of_lookback(query.subject, query.members, wall), since)

    def of_lookback(self, subject: Subject, members: Sequence[Member], wall: int) -> int:
        """Where a sweep for what `members` wrote before they were wanted begins."""
        if subject in (Subject.PROFILES, Subject.RELAY_LISTS):
            return 0
        if subject is Subject.WHOLE:
            return min(self.crawled_since, wall) - self.settings.lookback
        # A relay found long after somebody became wanted is asked for as much as it would have been asked then.
        times = [min(max(member.since, self.crawled_since), wall) - self.settings.lookback for member in members]
        return min(times, default=min(self.crawled_since, wall))

    def of_resweep(self, wall: int, last: int) -> int:
        """Where a sweep for late arrivals begins, after one at `last`."""
        if last < self.doubted_at:
            return min(wall, self.doubted_since) - self.settings.resweep_window
        return wall - self.settings.resweep_window

    def is_resweep_due(self, wall: int, last: int) -> bool:
        """Return True if late arrivals are to be looked for again, after a sweep at `last`.

        At once where commits were lost since, or where `last` cannot be.
        """
        every = self.settings.resweep_every
        return every > 0 and (wall - last >= every or last < self.doubted_at or last > wall + _SLACK_S)
