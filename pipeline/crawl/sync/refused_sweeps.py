"""What becomes of one relay's sweeps whose pages are refused: asked later, in another form, or dropped.

No I/O, no clock; `mono` is monotonic seconds.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.paging.slices import Gap
from pipeline.crawl.sync.refusal_probes import RefusalProbes
from pipeline.crawl.sync.sweep import Purpose, Sweep
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.crawl.sync.timing import retry_wait
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded

# A page that failed so often in a row, and each time so often again, is told as missing.
TOLD_FAILURES: Final = 3
# A check that was not answered so often is dropped.
MAX_OPTIONAL_FAILURES: Final = 2
# What may be had in smaller requests.
_TOO_MUCH: Final = frozenset({RelayRefusal.TOO_LARGE, RelayRefusal.TOO_MANY_FILTERS})


class RefusedSweeps:
    """The sweeps of one relay as its refusals leave them."""

    __slots__ = ("_known", "_probes", "_sweeps")

    def __init__(self, known: RelayKnowledge, sweeps: SweepSet) -> None:
        self._known = known
        self._sweeps = sweeps
        self._probes = RefusalProbes()

    def drops(self, sweep: Sweep, refusal: RelayRefusal) -> bool:
        """Drop a page that was refused if it is an optional one; returns whether it was."""
        is_for_long = refusal.is_lasting or refusal.asks_for_change or refusal in _TOO_MUCH
        # Too many requests at once say nothing of this one.
        is_vain = sweep.failures >= MAX_OPTIONAL_FAILURES and refusal is not RelayRefusal.RATE_LIMITED
        if not sweep.window.is_optional or not (is_for_long or is_vain):
            return False
        before = Counter(sweep.window.gap_reasons)
        sweep.window.drop_optional(asks_less=is_for_long)
        sweep.failures = 0
        self._known.gaps.on_window_changed(sweep, before)
        return True

    def put_off(self, sweep: Sweep, refusal: RelayRefusal, mono: float) -> None:
        """Ask for a page again later that was refused, in the form that the relay takes by then."""
        if refusal.is_lasting or refusal.asks_for_change or refusal in _TOO_MUCH:
            sweep.was_refused = sweep.is_outdated = True
        if refusal.asks_for_change:
            # Those that wait would be refused alike.
            for each in self._sweeps:
                each.is_outdated |= each.query.subject is sweep.query.subject
        if refusal.is_lasting:
            self._known.gaps.on_refused(sweep, Gap.REFUSED)
        if refusal.is_lasting and sweep.window.has_page:
            self._probes.on_refused(sweep, refusal, mono)
        sweep.not_before = mono + retry_wait(refusal, sweep.failures)
        sweep.failures += 1
        if sweep.failures % TOLD_FAILURES == 0:
            sweep.was_refused = True
            self._known.gaps.on_refused(sweep, Gap.UNANSWERED)

    def on_answered(self, sweep: Sweep) -> None:
        """Note that a page of `sweep` was answered."""
        self._probes.on_answered(sweep)

    def on_connected(self) -> None:
        """A new connection stands."""
        self._probes.on_connected()

    def reform(self, sweep: Sweep) -> None:
        """Cut what is left of a sweep as the relay takes it now."""
        known, query = self._known, sweep.query
        before = Counter(sweep.window.gap_reasons)
        sweep.is_outdated = False
        manners, is_tail = known.quirks.manners(known.limits.now), sweep.purpose is Purpose.TAIL
        manners = known.forms.manners(manners, query.subject, is_tail=is_tail, is_routine=False)
        sweep.window.limit = min(sweep.window.limit, known.limits.now.page_limit)
        sweep.window.reform(manners, query.most_members(known.limits.now))
        known.gaps.on_window_changed(sweep, before)

    def reform_all(self) -> None:
        """Mark every sweep to be cut again, as the relay accepts less than was assumed."""
        for sweep in self._sweeps:
            sweep.is_outdated = True

    # Those that were refused for good.

    def release_changed(self) -> None:
        """Let those be asked at once that wait since they were refused for good, and have another form by now."""
        for key in self._probes.keys:
            sweep = self._sweeps.get(key)
            if sweep is None:
                self._probes.forget(key)
            elif not sweep.is_open and (sweep.is_outdated or not self._probes.knows(sweep)):
                self.reform(sweep)
                if self._probes.asks_otherwise(sweep):
                    sweep.not_before = 0.0

    def open_probe(self, session: Session, mono: float) -> None:
        """Ask whether the relay answers by now, if that is due and there is room."""
        self._probes.open_next(session, mono)

    def on_probe_ended(self, ended: PageEnded, mono: float) -> None:
        """Take the answer."""
        self._probes.on_page_ended(ended, mono)

    def due_times(self) -> Iterator[float]:
        """When the next probe is due (monotonic)."""
        return self._probes.due_times()
