"""Down to when a page that falls has all, and what the next page must then have in common with it.

A few events at its end may be older by chance than what the relay left out:

- what was dated back and arrived while the page was sent, as some relays send it under the id of an open page, too;
- what was stored late at a relay that chooses what it stored last and sorts it then. It lies below each of its pages.

So the next page begins a few events above the oldest, and must show no more there than this one had.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.crawl.sync.paging.slices import PageResult

# Some relays send what is new under the id of an open page, too, beyond their cap. What of it came live is known; of
# the rest a page may have so many more, by share and number, and so many may be older than what it was cut off at.
ARRIVALS_SHARE: Final = 10
ARRIVALS: Final = 3
# A gap between events of a page that is as long as one of so many parts of the time above it.
_APART: Final = 4


@dataclass(frozen=True, slots=True)
class Overlap:
    """The time from `low` to `high` (seconds) that two pages have in common, of which the first had `had` events."""

    low: int
    high: int
    had: int

    def has_more(self, result: PageResult) -> bool:
        """Return True if the second page has more of it, so that the first left out what is newer than its oldest."""
        return len(result.within(self.low, self.high)) > self.had + result.arrived


@dataclass(frozen=True, slots=True)
class PageEnd:
    """`had_from`: the second at which the next page begins; `covers_from`: above it a control must find no more."""

    had_from: int
    covers_from: int
    overlap: Overlap | None = None


def few_arrivals(returned: int) -> int:
    """Return how many events of a page may have arrived while it was sent though none of them came live."""
    return min(ARRIVALS, returned // ARRIVALS_SHARE)


def end_beside_arrivals(times: Sequence[int], high: int, arrived: int) -> PageEnd:
    """Return the end of a page up to `high` with events of `times`, which rise; some may have arrived late."""
    # What arrived would be blamed on the order, so that neither control nor next page is held against the oldest.
    had_from = _at(times, max(few_arrivals(len(times)), arrived), high)
    return PageEnd(had_from, had_from)


def end_of_cut_off(times: Sequence[int], high: int) -> PageEnd:
    """Return the end of a page up to `high` with events of `times`, which rise, that may be cut off.

    The lowest few never count, nor those of the lowest tenth below a gap that is long beside all above it.
    """
    few = few_arrivals(len(times))
    apart = (
        index
        for index in range(len(times) // ARRIVALS_SHARE, few, -1)
        if _APART * (times[index] - times[index - 1]) > times[-1] - times[index]
    )
    oldest, had_from = times[0], _at(times, next(apart, few), high)
    shared = [at for at in times if oldest < at < had_from]
    return PageEnd(had_from, oldest, Overlap(oldest + 1, had_from - 1, len(shared)) if had_from > oldest + 1 else None)


def _at(times: Sequence[int], index: int, high: int) -> int:
    """Return the time at `index`, or the oldest where that one is no progress."""
    at = times[min(index, len(times) - 1)]
    return at if at < high else times[0]
