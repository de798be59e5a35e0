"""How a long sweep is split into strands whose pages are asked for side by side. Pure.

A sweep pages one span of time from its newest end. While a relay allows more pages than there are sweeps to ask for,
the span that a long one has left is parted: the lowest part goes to a strand, which is a sweep of its own, named after
the whole. The whole is complete when all of them are. Each has a row of its own for its progress, so that a restart
goes on with all.

A sweep that has to name kinds goes over its span once for each list of them, some hundred times at some relays. Then
lists are parted rather than time. Such a sweep has no progress that could be stored, nor have its strands.
"""

from typing import Final

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.sweep import Purpose, Sweep
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.store.sweeps import SweepProgress

# As many as pages are ever open: the sweep that they are of may be done before them.
MAX_STRANDS: Final = 3
# What is left must be worth so many pages, as far as is known, that the request that each end costs is little.
_LEAST_PAGES: Final = 4
# Both parts have the seconds at their border: some relays leave out the second of `since`, or of `until`.
BORDER_S: Final = 1
# A relay is not to be asked faster than the operator ordered.
_PACED: Final = frozenset({Purpose.BACKFILL})


class Strands:
    """The strands of one relay's sweeps."""

    __slots__ = ("_known", "_sweeps")

    def __init__(self, known: RelayKnowledge, sweeps: SweepSet) -> None:
        self._known = known
        self._sweeps = sweeps

    def split(self, sweep: Sweep, pages: int, mono: float) -> Sweep | None:
        """Give the last part of what a long sweep has left to a strand; returns that, None if it is to stay whole.

        `pages`: how many more there is room for.
        """
        whole = sweep.parent or sweep
        names, left = free_names(whole), sweep.window.remaining
        if names and not whole.has_progress and (count := shared_slices(sweep, min(len(names), pages) + 1)):
            return self._add(whole, names[0], sweep.window.last_part(count))
        end = border(sweep, min(len(names), pages) + 1)
        if end is None or not names or left is None:
            return None
        window = sweep.window.lower_part(left[0], end + BORDER_S)
        sweep.window.give_up_below(end - BORDER_S)
        strand = self._add(whole, names[0], window)
        # Together: without its row, what the strand is for would count as had.
        self._sweeps.mark_progress(strand, sweep, mono=mono)
        return strand

    def join(self, sweep: Sweep, mono: float) -> Sweep | None:
        """Take note that the window of a sweep is done; returns the whole that is over with it, if it is."""
        whole = sweep.parent or sweep
        if sweep.parent is not None:
            whole.absorb(sweep)
            self._sweeps.end_strand(sweep)
        elif sweep.strands and sweep.has_progress:
            self._sweeps.mark_progress(sweep, mono=mono)
        return whole if whole.window.is_done and not whole.strands else None

    def resume(self, sweep: Sweep, progress: SweepProgress | None) -> None:
        """Leave out what a former process has had of a sweep and of its strands."""
        rows = [(name, row) for name in strand_names(sweep) if (row := self._known.cursors.progress(name)) is not None]
        is_resumed = sweep.resume(progress)
        for name, row in rows:
            # Whenever it began: what a strand has left is left of no other.
            if is_resumed:
                strand = self._add(sweep, name, sweep.window.lower_part(row.since, row.until))
                strand.mark(self._known.cursors.relay, 0.0)
            else:
                self._sweeps.forget_row(row)

    def _add(self, parent: Sweep, name: str, window: Window) -> Sweep:
        strand = Sweep(parent.query, parent.purpose, window, parent.started, name=name, parent=parent)
        parent.strands.append(strand)
        self._sweeps.add_strand(strand)
        return strand


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
