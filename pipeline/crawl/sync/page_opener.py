"""Asks for the next pages of one relay's sweeps, those first whose turn comes first. No I/O, no clock.

`mono` is monotonic seconds.
"""

from collections.abc import Iterator

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.page_answers import PageAnswers
from pipeline.crawl.sync.reconciliation_policy import ReconciliationPolicy
from pipeline.crawl.sync.refused_sweeps import RefusedSweeps
from pipeline.crawl.sync.strands import Strands
from pipeline.crawl.sync.sweep import Sweep
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.relay.session import Session
from pipeline.store.cursors import Cursor


class PageOpener:
    """Opens pages while there is room for them."""

    __slots__ = ("_answers", "_known", "_moved", "_reconciliation", "_refused", "_strands", "_sweeps")

    def __init__(
        self, known: RelayKnowledge, sweeps: SweepSet, strands: Strands, refused: RefusedSweeps,
        reconciliation: ReconciliationPolicy, answers: PageAnswers,
    ) -> None:  # fmt: skip
        self._known = known
        self._sweeps = sweeps
        self._strands = strands
        self._refused = refused
        self._reconciliation = reconciliation
        self._answers = answers
        # Cursors of sweeps that turned out to have nothing left to ask for.
        self._moved: list[Cursor] = []

    def open_due(self, session: Session, mono: float) -> None:
        """Ask for the next pages of those that are not asked for, as long as the relay allows more."""
        ready = [sweep for sweep in self._sweeps.in_order() if not sweep.is_open and sweep.not_before <= mono]
        for sweep in self._with_strands(ready, session.room_for_pages(), mono):
            if not session.has_room_for_page() or session.pages_wait_until(mono) is not None:
                return
            if sweep.is_outdated:
                self._refused.reform(sweep)
            if self._reconciliation.open_next(sweep, session, mono):
                continue
            if sweep.window.is_done:
                cursor = self._answers.finish(sweep, session, mono)
                self._moved += [] if cursor is None else [cursor]
            else:
                sweep.is_open = True
                session.close_doubtful()
                session.open_page(sweep.key, sweep.window.page(), mono, patience=self._known.quirks.patience)

    def _with_strands(self, ready: list[Sweep], room: int, mono: float) -> list[Sweep]:
        """Return `ready`, and where there is room for more pages, strands of those that are long."""
        strands: list[Sweep] = []
        for sweep in ready:
            while (left := room - len(ready) - len(strands)) > 0:
                strand = self._strands.split(sweep, left, mono)
                if strand is None:
                    break
                strands.append(strand)
        return [*ready, *strands]

    def take_moved(self) -> tuple[Cursor, ...]:
        """The cursors that `open_due` moved, to be committed with or after the events before it."""
        taken = tuple(self._moved)
        self._moved.clear()
        return taken

    def due_times(self) -> Iterator[float]:
        """When the next page of a sweep may be asked for (monotonic)."""
        return (sweep.not_before for sweep in self._sweeps.in_order() if not sweep.is_open)
