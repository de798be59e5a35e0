"""How a long sweep is split into strands whose pages are asked for side by side. Pure.

A sweep pages one span of time from its newest end. While a relay allows more pages than there are sweeps to ask for,
the span that a long one has left is parted: the lowest part goes to a strand, which is a sweep of its own, named after
the whole. The whole is complete when all of them are. Each has a row of its own for its progress, so that a restart
goes on with all.

A sweep that has to name kinds goes over its span once for each list of them, some hundred times at some relays. Then
lists are parted rather than time. Such a sweep has no progress that could be stored, nor have its strands.
"""

from typing import Final

from pipeline.crawl.sync.sweep import Purpose, Sweep

# As many as pages are ever open: the sweep that they are of may be done before them.
MAX_STRANDS: Final = 3
# What is left must be worth so many pages, as far as is known, that the request that each end costs is little.
_LEAST_PAGES: Final = 4
# Both parts have the seconds at their border: some relays leave out the second of `since`, or of `until`.
BORDER_S: Final = 1
# A relay is not to be asked faster than the operator ordered.
_PACED: Final = frozenset({Purpose.BACKFILL})


def strand_names(whole: Sweep) -> list[str]:
    """Return the names that strands of `whole` may have, which their progress has too."""
    return [f"{whole.key}|{number}" for number in range(1, MAX_STRANDS + 1)]


def free_names(whole: Sweep) -> list[str]:
    """Return the names for further strands of `whole`."""
    taken = {each.key for each in whole.strands}
    return [name for name in strand_names(whole) if name not in taken]


def shared_slices(sweep: Sweep, parts: int) -> int:
    """Return how many slices of a sweep that goes over its span several times a strand is to take, 0 for none."""
    if not _may_part(sweep) or sweep.has_progress:
        return 0
    count = sweep.window.divisible
    return count // parts if count >= _LEAST_PAGES else 0


def _may_part(sweep: Sweep) -> bool:
    is_busy = sweep.is_open or sweep.compares or sweep.reconciler is not None
    return not is_busy and sweep.purpose not in _PACED and not sweep.pause_s


def border(sweep: Sweep, parts: int) -> int | None:
    """Return where the lowest of so many equal parts of what a sweep has left ends (Unix seconds).

    None if it is to stay whole.
    """
    window = sweep.window
    left = window.remaining
    if left is None or not _may_part(sweep):
        return None
    low, high = left
    # Nothing is expected of the time after the sweep began.
    done_s = min(window.span[1], sweep.started) - high
    if not window.pages or done_s <= 0 or window.pages * (high - low) < _LEAST_PAGES * done_s:
        return None
    end = low + (high - low) // parts
    return end if low < end - BORDER_S and end + BORDER_S < high else None
