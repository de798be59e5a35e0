"""One relay's sweeps that are under way: their order, their room, and how far they are. No I/O, no clock.

A sweep survives disconnects and refusals. They are begun by `sweep_starter.py`; what their pages complete is decided in
`page_answers.py`. `mono` is monotonic seconds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.sweep import Purpose, Sweep
from pipeline.relay.session import Session
from pipeline.store.sweeps import SweepProgress

# Between two pages of what is asked for member by member (seconds).
SINGLE_PAUSE_S = 0.25
# Sweeps begun at once; all others wait for their turn.
MAX_SWEEPS = 64


class SweepSet:
    """The sweeps of one relay, over all its connections."""

    __slots__ = ("_known", "_progress", "_under_way", "unconfirmed_firehose")

    def __init__(self, known: RelayKnowledge) -> None:
        self._known = known
        # One for everything that brought nothing, until it is known whether the relay answers so broad a filter.
        self.unconfirmed_firehose: Sweep | None = None
        self._under_way: dict[str, Sweep] = {}
        # Rows about how far they are, to be stored.
        self._progress: list[SweepProgress] = []

    def __contains__(self, key: str) -> bool:
        return key in self._under_way

    def __iter__(self) -> Iterator[Sweep]:
        """Those under way."""
        return iter(self._under_way.values())

    def get(self, key: str) -> Sweep | None:
        """The sweep of this key, if it is under way."""
        return self._under_way.get(key)

    def is_idle_but_for(self, subject: Subject, most: int, mono: float) -> bool:
        """Return True if fewer than `most` sweeps are under way, all of `subject`, but for those that have to wait."""
        # Often asked while very many are under way: most of the time the first tells.
        busy = 0
        for sweep in self._under_way.values():
            if sweep.is_open or sweep.not_before <= mono:
                busy += 1
                if busy >= most or sweep.query.subject is not subject:
                    return False
        return busy < most

    def is_idle(self, mono: float) -> bool:
        """Return True if no sweep is under way but for those that have to wait, and no try of a gap."""
        return not any(
            sweep.is_open or sweep.not_before <= mono or sweep.purpose is Purpose.RETRY
            for sweep in self._under_way.values()
        )

    def in_order(self) -> list[Sweep]:
        """Those under way that have something to ask, first whose pages come first."""
        asking = (sweep for sweep in self._under_way.values() if not (sweep.strands and sweep.window.is_done))
        return sorted(asking, key=lambda sweep: sweep.rank)

    def has_room(self, mono: float, tier: int = 0) -> bool:
        """Return True if another sweep for authors of `tier` may begin.

        Those that only wait to try again take no room, nor do those for authors of later tiers.
        """
        if len(self._under_way) < MAX_SWEEPS:
            return True
        return sum(each.not_before <= mono and each.tier <= tier for each in self._under_way.values()) < MAX_SWEEPS

    def add_strand(self, strand: Sweep) -> None:
        """Take up a strand of a sweep that is under way."""
        self._under_way[strand.key] = strand

    def is_under_way(self, key: str, generation: int) -> bool:
        """Return True if a sweep of this key is under way; not if it was refused and is of an older generation."""
        sweep = self._under_way.get(key)
        if sweep is None:
            return False
        is_stuck = any(each.was_refused for each in (sweep, *sweep.strands))
        return sweep.is_under_way or not is_stuck or sweep.query.generation >= generation

    def add(self, sweep: Sweep) -> None:
        """Take up a sweep that begins."""
        if self._known.forms.finds_first_only(sweep.query.subject):
            sweep.pause_s = SINGLE_PAUSE_S
        self._under_way[sweep.key] = sweep

    def end(self, sweep: Sweep) -> None:
        """It is no longer under way, nor are its strands."""
        del self._under_way[sweep.key]
        for strand in sweep.strands:
            self.end_strand(strand)

    def end_strand(self, strand: Sweep) -> None:
        """Remove one strand, and its row."""
        del self._under_way[strand.key]
        self.forget_progress(strand)

    def cancel_unwanted(self, is_wanted: Callable[[Sweep], bool]) -> None:
        """End those that nobody wants any more; a relay that refuses them would be asked for ever."""
        for sweep in list(self._under_way.values()):
            if sweep.parent is None and not sweep.is_under_way and not is_wanted(sweep):
                self.end(sweep)
                self.forget_progress(sweep)

    def owe(self, subject: Subject, session: Session, mono: float) -> None:
        """Forget what is complete about `subject`, to be asked for once more in another form."""
        self._known.cursors.take_back(subject)
        self._restart([each for each in self._under_way.values() if each.query.subject is subject], session, mono)

    def owe_all_under_way(self, session: Session, mono: float) -> None:
        """Restart all sweeps: the clock was set back, and what they bring may be refused as of the future.

        Those that begin now end where that begins.
        """
        for sweep in self._under_way.values():
            self.forget_progress(sweep)
        self._restart(list(self._under_way.values()), session, mono)

    def _restart(self, sweeps: Sequence[Sweep], session: Session, mono: float) -> None:
        for sweep in sweeps:
            if sweep.reconciler is not None and sweep.is_open:
                session.reconciliation.close()
            session.cancel_page(sweep.key, mono)
            if sweep.parent is None:
                self.end(sweep)
                self._known.times.sweep_again(sweep.query.key)

    def shrink_pages(self, limit: int) -> None:
        """Ask for at most `limit` events at once from now on, also in what is under way."""
        for sweep in self._under_way.values():
            sweep.window.limit = min(sweep.window.limit, limit)

    def on_connected(self) -> None:
        """A new connection stands, on which no page is open: every query has a gap behind it."""
        self._known.times.sweep_all_again()
        self.unconfirmed_firehose = None
        for sweep in self._under_way.values():
            sweep.is_open = False
            if sweep.reconciler is not None:
                sweep.reconciler.interrupted()

    def note_progress(self, sweep: Sweep, mono: float) -> None:
        """Remember how far a sweep is, once that is worth a row."""
        if (progress := sweep.progress(self._known.cursors.relay, mono)) is not None:
            self._progress.append(progress)

    def mark_progress(self, *sweeps: Sweep, mono: float) -> None:
        """Remember how far sweeps are at once, all in one transaction."""
        self._progress += [each.mark(self._known.cursors.relay, mono) for each in sweeps]

    def forget_row(self, row: SweepProgress) -> None:
        """Forget what a former process remembered of a strand."""
        self._progress.append(replace(row, since=0, until=-1))

    def forget_progress(self, sweep: Sweep) -> None:
        """Forget how far a sweep was, if a row says it."""
        if (over := sweep.over(self._known.cursors.relay)) is not None:
            self._progress.append(over)

    def take_progress(self) -> tuple[SweepProgress, ...]:
        """How far sweeps are, to be committed with or after the events before it."""
        taken = tuple(self._progress)
        self._progress.clear()
        return taken
