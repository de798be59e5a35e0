"""Asks again for what one relay did not give, where no other sweep does. No I/O, no clock.

A gap closes when a sweep of its query goes through its span and does not find it again. But tails and resweeps go
through the last days only, and what is missing because of the form of the filters is missing each time.

| gap | is asked for | and closes |
|---|---|---|
| older than any resweep goes | by its query | but for what is found missing again |
| of kinds that the form of the filters leaves out | by one filter for everything | if that was whole |
| the same, where everything is too much, or brings nothing | by its query, all kinds there may be named | as above |
| the same, where too few kinds may be named | not | not |

One at a time, slowly and behind all else; each once a day, at most `MAX_A_DAY` at a relay. What is refused or stays
unanswered is tried on another day. `mono` is monotonic seconds, `wall` Unix seconds.
"""

from collections.abc import Iterable
from typing import Final

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.open_gaps import OpenGaps
from pipeline.crawl.sync.paging.slices import PAGING_GAPS, Gap
from pipeline.crawl.sync.query import FIREHOSE_QUERY, Query, Subject
from pipeline.crawl.sync.sweep import FUTURE_S, Purpose, Sweep
from pipeline.crawl.sync.sweep_starter import SweepStarter
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.store.gaps import OpenGap

DAY_S: Final = 86_400
MAX_A_DAY: Final = 20
# Failures in a row until another day.
MAX_FAILURES: Final = 2
# Of everything that a relay has, some megabytes.
MAX_WHOLE_EVENTS: Final = 10_000
# Seconds between two looks at what is open, and between two pages.
LOOK_EVERY_S: Final = 10.0
PAUSE_S: Final = 0.25
# What a relay was asked for in a form that is known to leave out events.
_OF_FORM: Final = frozenset({Gap.HOLES, Gap.UNLISTED_KINDS, Gap.NOTES_BY_AUTHOR})
# What comes back whatever is asked: shown to others only, refused by name, too long, or malformed.
_OF_RELAY: Final = frozenset({Gap.WITHHELD, Gap.KINDS_REFUSED, Gap.OVERSIZED, Gap.MALFORMED})


class GapRetries:
    """The tries of one relay, over all its connections."""

    __slots__ = ("_gap", "_gaps", "_known", "_look_at", "_starter", "_sweeps", "_tried", "_whole_fails")

    def __init__(self, known: RelayKnowledge, sweeps: SweepSet, starter: SweepStarter, gaps: OpenGaps) -> None:
        self._known = known
        self._sweeps = sweeps
        self._starter = starter
        self._gaps = gaps
        # By what identifies a gap, when (Unix seconds) it was last tried.
        self._tried: dict[tuple[str, str, int], int] = {}
        self._gap: OpenGap | None = None
        self._look_at = 0.0
        # Whether the relay was seen to have too much to be read through, or not to answer so broad a filter.
        self._whole_fails = False

    def begin_next(self, queries: Iterable[Query], mono: float, wall: int) -> None:
        """Begin the next try if one is due and the relay is asked for nothing else."""
        if not len(self._gaps) or mono < self._look_at or not self._sweeps.is_idle(mono):
            return
        self._look_at = mono + LOOK_EVERY_S
        self._tried = {key: at for key, at in self._tried.items() if 0 <= wall - at < DAY_S}
        if len(self._tried) >= MAX_A_DAY:
            return
        known = {query.key: query for query in queries}
        for gap in sorted(self._gaps, key=lambda gap: gap.opened_at):
            query = known.get(gap.form)
            if query is None or _name(gap) in self._tried:
                continue
            asked = self._asked_by(gap, query, wall)
            if asked is not None:
                self._begin(gap, asked, wall)
                return

    def goes_on(self, sweep: Sweep) -> bool:
        """Return False for a try that is to end though it has more to ask for: everything is too much."""
        if sweep.query.subject is not Subject.FIREHOSE or sweep.window.is_done:
            return True
        left, (low, high) = sweep.window.remaining, sweep.window.span
        done_s = 0 if left is None else min(high, sweep.started) - left[1]
        if sweep.events > MAX_WHOLE_EVENTS:
            return False
        return left is None or done_s <= 0 or sweep.events * (high - low) <= MAX_WHOLE_EVENTS * done_s

    def gives_up(self, sweep: Sweep) -> bool:
        """Leave a try that was refused once too often, or cannot end; returns whether it is left."""
        if sweep.purpose is not Purpose.RETRY or (sweep.failures + 1 < MAX_FAILURES and self.goes_on(sweep)):
            return False
        self._sweeps.end(sweep)
        gap, self._gap = self._gap, None
        if gap is not None and sweep.failures + 1 < MAX_FAILURES:
            self._try_otherwise(gap)
        return True

    def complete(self, sweep: Sweep) -> None:
        """Take note that a try came to its end, and close what was had."""
        gap, self._gap = self._gap, None
        if sweep.is_unproven or gap is None:
            return
        if sweep.query.subject is not Subject.FIREHOSE:
            self._known.gaps.settle(sweep)
            return
        is_whole = sweep.events and not sweep.window.found_by_kinds and not sweep.window.missing
        if not is_whole:
            self._try_otherwise(gap)
            return
        for low, high in sweep.window.covered:
            self._gaps.close(gap.form, low, high, Gap(gap.reason))

    def _try_otherwise(self, gap: OpenGap) -> None:
        self._whole_fails = True
        self._tried.pop(_name(gap), None)

    def _begin(self, gap: OpenGap, query: Query, wall: int) -> None:
        self._tried[_name(gap)] = wall
        self._gap = gap
        until = min(gap.until, wall + FUTURE_S)
        self._starter.begin_retry(query, gap.since, until, wall, PAUSE_S)

    def _asked_by(self, gap: OpenGap, query: Query, wall: int) -> Query | None:
        """Return the query to ask for a gap with, `None` if it is not to be asked for now."""
        if gap.since >= wall or gap.reason in _OF_RELAY:
            return None
        if gap.reason in _OF_FORM and query.subject is not Subject.FIREHOSE:
            if not self._whole_fails and self._may_ask_whole(wall):
                return FIREHOSE_QUERY
            return None if Gap(gap.reason) in self._starter.known_gaps(query) else query
        settings = self._known.horizon.settings
        swept_s = settings.resweep_window if settings.resweep_every else FUTURE_S
        return query if gap.reason in PAGING_GAPS and gap.until < wall - swept_s else None

    def _may_ask_whole(self, wall: int) -> bool:
        limits, forms = self._known.limits.now, self._known.forms
        is_refused = limits.whole_refused_at > 0 and wall - limits.whole_refused_at < DAY_S
        is_narrow = limits.needs_kinds or limits.refuses_kindless or limits.notes_by_author or limits.withholds
        return not (is_refused or is_narrow or forms.has_holes(Subject.FIREHOSE))


def _name(gap: OpenGap) -> tuple[str, str, int]:
    return gap.form, gap.reason, gap.since
