"""How a long sweep is split into strands whose pages are asked for side by side. Pure.

A sweep pages one span of time from its newest end. While a relay allows more pages than there are sweeps to ask for,
the span that a long one has left is parted: the lowest part goes to a strand, which is a sweep of its own, named after
the whole. The whole is complete when all of them are. Each has a row of its own for its progress, so that a restart
goes on with all.
"""

from typing import Final

from pipeline.crawl.sweep import Purpose, Sweep

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


def border(sweep: Sweep, parts: int) -> int | None:
    """Return where the lowest of so many equal parts of what a sweep has left ends (Unix seconds).

    None if it is to stay whole.
    """
    window = sweep.window
    left = window.remaining
    if left is None or sweep.is_open or sweep.compares or sweep.reconciler is not None:
        return None
    if sweep.purpose in _PACED or sweep.pause_s:
        return None
    low, high = left
    # Nothing is expected of the time after the sweep began.
    done_s = min(window.span[1], sweep.started) - high
    if not window.pages or done_s <= 0 or window.pages * (high - low) < _LEAST_PAGES * done_s:
        return None
    end = low + (high - low) // parts
    return end if low < end - BORDER_S and end + BORDER_S < high else None
