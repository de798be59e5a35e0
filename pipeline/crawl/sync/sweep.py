"""One pass over a query's time span at one relay, from its first page to its last EOSE."""

from dataclasses import dataclass, field
from enum import IntEnum

from pipeline.crawl.sync.paging.missing import Stuck
from pipeline.crawl.sync.paging.window import Window
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.reconciler import Reconciler
from pipeline.store.sweeps import SweepProgress

# Events may be dated up to this far ahead, and relays may have taken them in out of order by as much.
FUTURE_S = 900
OVERLAP_S = 900
# Progress is worth a row once so much (monotonic seconds) would have to be done again.
SAVE_EVERY_S = 5.0
# What is about certain people; of these, some are to be found at one relay rather than others.
_ABOUT_PEOPLE = frozenset({Subject.AUTHORS, Subject.MENTIONS, Subject.GIFT_WRAPS})


class Purpose(IntEnum):
    """Why a sweep is made; the lowest first when there is room for one only."""

    LOOKBACK = 0
    INITIAL = 1
    TAIL = 2
    WRAPS = 3
    RESWEEP = 4
    BACKFILL = 5
    RETRY = 6


@dataclass(slots=True)
class Sweep:
    """A sweep under way. `is_unproven`: some page of it ended without its EOSE, so that it can complete nothing."""

    query: Query
    purpose: Purpose
    window: Window
    started: int
    span: int = 0
    """Seconds before `started` that it reaches back."""
    not_before: float = 0.0
    failures: int = 0
    events: int = 0
    is_open: bool = False
    is_unproven: bool = False
    was_refused: bool = False
    """Whether it was refused, so that a newer one may take its place."""
    is_outdated: bool = False
    """Whether what is left of it is to be cut anew, as the relay takes less than was thought."""
    name: str = ""
    compares: bool = False
    """Whether it is made by comparing sets (NIP-77), as far as that goes, before what is left is paged."""
    reconciler: Reconciler | None = None
    pause_s: float = 0.0
    """Seconds between two of its pages."""
    stuck: Stuck | None = None
    """What it is compared for now, since pages do not divide it; `None` where it is compared as a whole."""
    turns: int = 0
    """How often it waited for what it is compared with."""
    is_for_users: bool = False
    """Whether those whom its window puts first are registered users."""
    parent: "Sweep | None" = None
    """The sweep of which it is a strand."""
    strands: list["Sweep"] = field(default_factory=list)
    """The lower parts of its span that are asked for beside it."""
    _saved: tuple[int, int] | None = field(default=None)
    _saved_at: float | None = field(default=None)

    def resume(self, progress: SweepProgress | None) -> bool:
        """Leave out what a former process has had, if it asked the same; returns whether anything is."""
        if progress is None or progress.generation != self.query.generation:
            return False
        self._saved = (progress.since, progress.until)
        return self.window.resume(progress.since, progress.until, progress.started - OVERLAP_S)

    def progress(self, relay: int, mono: float) -> SweepProgress | None:
        """What is worth being remembered now, if anything."""
        if self.purpose is Purpose.RETRY:
            # It restarts on another day.
            return None
        if self._saved_at is None:
            self._saved_at = mono
        remaining = self.window.remaining
        if self.is_unproven or remaining is None or mono - self._saved_at < SAVE_EVERY_S or remaining == self._saved:
            return None
        self._saved, self._saved_at = remaining, mono
        return SweepProgress(relay, self.key, *remaining, self.started, self.query.generation)

    def mark(self, relay: int, mono: float) -> SweepProgress:
        """Return what is left of it, to be remembered at once; of what is done its lowest second."""
        low = self.window.span[0]
        self._saved, self._saved_at = self.window.remaining or (low, low), mono
        return SweepProgress(relay, self.key, *self._saved, self.started, self.query.generation)

    def over(self, relay: int) -> SweepProgress | None:
        """What forgets the progress, if any was remembered."""
        if self._saved is None:
            return None
        return SweepProgress(relay, self.key, 0, -1, self.started, self.query.generation)

    def take_over(self, stuck: "Sweep") -> None:
        """Go on where an older sweep of fewer members was, which was refused."""
        self.window.take_over([stuck.window, *(each.window for each in stuck.strands)], set(stuck.query.members))
        self._saved, self.failures, self.events = stuck._saved, stuck.failures, stuck.events
        self.not_before = stuck.not_before

    @property
    def has_progress(self) -> bool:
        """Whether a row says how far it is, or how far strands of it are."""
        return self._saved is not None or any(strand.has_progress for strand in self.strands)

    @property
    def tier(self) -> int:
        """The tier of its members; the first as long as it asks for users."""
        return 0 if self.is_for_users and self.window.is_first else self.query.tier

    @property
    def rank(self) -> tuple[bool, int, Purpose, bool]:
        """The lowest first when there is room for one only.

        What authors of a later tier wrote waits for all that is new by those before them: however many there are, these
        are swept in time. Of one purpose, those come last who are found elsewhere.
        """
        # What is fetched once from the beginning of time can wait.
        purpose = Purpose.BACKFILL if self.query.subject is Subject.RELAY_LISTS else self.purpose
        is_elsewhere = self.query.subject in _ABOUT_PEOPLE and not self.window.is_first
        return purpose > Purpose.WRAPS, self.tier, purpose, is_elsewhere

    @property
    def is_untouched(self) -> bool:
        """Whether nothing has been asked of it yet."""
        return not (self.is_open or self.window.pages or self.failures or self.reconciler or self.parent)

    @property
    def is_under_way(self) -> bool:
        """Whether a page of it or of one of its strands is open."""
        return self.is_open or any(strand.is_open for strand in self.strands)

    def absorb(self, strand: "Sweep") -> None:
        """Take what came of a strand that is done."""
        self.strands.remove(strand)
        self.window.absorb(strand.window)
        self.events += strand.events
        self.is_unproven |= strand.is_unproven

    @property
    def key(self) -> str:
        """The name under which its pages and its progress go."""
        return self.name or sweep_key(self.purpose, self.query)


def sweep_key(purpose: Purpose, query: Query) -> str:
    """The name of the sweep of `query` for `purpose`."""
    return f"{purpose.name.lower()}:{query.key}"
