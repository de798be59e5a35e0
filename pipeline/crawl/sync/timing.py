"""How far back one relay is asked, by why it is asked."""

from dataclasses import dataclass
from typing import Final

from pipeline.crawl.sync.members import Members
from pipeline.crawl.sync.query import Query, Subject
from pipeline.relay.refusals import RelayRefusal

# Waits (seconds) after a failure; doubled each time.
RETRY_S: Final = 2.0
MAX_RETRY_S: Final = 300.0
# What cannot be completed is gone through again at this interval, for what is new.
LASTING_RETRY_S: Final = 600.0
# What a relay takes less of is asked for again at once, but with a breath between where it takes ever less.
SMALLER_RETRY_S: Final = 0.2
MAX_SMALLER: Final = 16
_SMALLER: Final = frozenset(
    {RelayRefusal.TOO_LARGE, RelayRefusal.TOO_MANY_FILTERS, RelayRefusal.KIND_REFUSED, RelayRefusal.UNCLEAR}
)
# What was refused for good is not asked for in the same form for a day; a small request shows if the relay relents.
FINAL_RETRY_S: Final = 86_400.0
PROBE_EVERY_S: Final = 1_200.0


def retry_wait(refusal: RelayRefusal, failures: int, *, lasting_s: float = FINAL_RETRY_S) -> float:
    """Seconds until the same is asked for again, after so many refusals in a row before this one.

    `lasting_s`: for what was refused for good; requests that are small themselves are asked for again sooner.
    """
    if refusal is RelayRefusal.FORBIDDEN:
        return FINAL_RETRY_S
    if refusal is RelayRefusal.RATE_LIMITED:
        # How long the host is left alone tells its backoff, for all requests together.
        return RETRY_S
    if refusal in _SMALLER and failures < MAX_SMALLER:
        # Each time there is less, or one kind less, to ask for.
        return SMALLER_RETRY_S
    if refusal.asks_for_change and not failures:
        return 0.0
    return lasting_s if refusal.is_lasting else min(RETRY_S * 2.0 ** min(failures, 16), MAX_RETRY_S)


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
class Horizon:
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

    def initial_since(self, query: Query, wall: int) -> int:
        """Where the first sweep of a query begins."""
        since = min(self.crawled_since, wall) - self.settings.backfill
        return min(self.lookback_since(query.subject, query.members, wall), since)

    def lookback_since(self, subject: Subject, members: Members, wall: int) -> int:
        """Where a sweep for what `members` wrote before they were wanted begins."""
        if subject in (Subject.PROFILES, Subject.RELAY_LISTS):
            return 0
        if subject is Subject.FIREHOSE:
            return min(self.crawled_since, wall) - self.settings.lookback
        # A relay found long after somebody became wanted is asked for as much as it would have been asked then.
        earliest = members.earliest
        if earliest is None:
            return min(self.crawled_since, wall)
        return min(max(earliest, self.crawled_since), wall) - self.settings.lookback

    def resweep_since(self, wall: int, last: int) -> int:
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
