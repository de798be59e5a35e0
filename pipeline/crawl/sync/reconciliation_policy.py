"""Which of one relay's sweeps are made by comparing sets (NIP-77) rather than by pages, and what comes of it.

It pays where much of what the relay has is held already. A page costs some 600 bytes an event, had or not. To compare
costs some 35 bytes an event where a tenth is missing here and there, and hardly any where nothing is; an event that is
missing costs 670, its id included. So what is swept for the first time, or after an absence, is compared if it reaches
back an hour and we hold something of it, and so is every resweep; what we hold nothing of is paged. Mentions cannot be
compared, since no tags are stored, nor can everything that a relay has, of which most is unwanted.

A relay is believed only once it named something that we had held back from it, or gave something that we had not: one
that always agrees would otherwise hide everything. What cannot be compared is paged, as if nothing had been tried.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pipeline.crawl.sync.item_sets import ItemSetProvider, ItemSetWindow, Unavailable
from pipeline.crawl.sync.paging.missing import Stuck
from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.reconciler import Reconciler
from pipeline.crawl.sync.stats import SyncStats
from pipeline.crawl.sync.sweep import Purpose, Sweep
from pipeline.nostr.negentropy import InvalidNegentropy, ItemSet
from pipeline.relay.limits import RelayLimits
from pipeline.relay.negentropy_session import NegOutcome
from pipeline.relay.session import Session

# A relay that does not compare sets is asked again after this (seconds).
RETRY_S: Final = 7 * 86_400
# Less than this (seconds) is had as quickly page by page.
LEAST_SPAN_S: Final = 3600
# To learn the ids of what we hardly have any of would only cost more.
_LEAST_ITEMS: Final = 64
# Seconds to wait for our own set, or for another reconciliation to end, before looking again.
_TURN_S: Final = 1.0
# The first times, as our own set is mostly there by then.
_FIRST_TURN_S: Final = 0.05
_MAX_TURNS: Final = 60
# Messages of `Reconciliation` and the filter before the first.
_LEAST_FRAME_BYTES: Final = 40_000
_COMPLETE: Final = "complete"
_UNPROVEN: Final = "unproven"
_PROTOCOL: Final = "protocol"


class ReconciliationPolicy:
    """The reconciliations of one relay's crawl. No I/O of its own, no clock; `mono` is monotonic seconds."""

    __slots__ = ("_give_up", "_item_sets", "_stats")

    def __init__(
        self, item_sets: ItemSetProvider | None, stats: SyncStats, give_up: Callable[[Sweep, Stuck], None]
    ) -> None:
        """`give_up` is told what of a sweep can be had neither by pages nor by comparing."""
        self._item_sets = item_sets
        self._stats = stats
        self._give_up = give_up

    def may_compare(self, limits: RelayLimits, wall: int) -> bool:
        """Whether the relay may be asked to compare what pages do not divide."""
        failed_at = limits.negentropy_failed_at
        return not (failed_at and wall - failed_at < RETRY_S) and limits.max_frame_bytes >= _LEAST_FRAME_BYTES

    def applies_to(self, sweep: Sweep, limits: RelayLimits, wall: int) -> bool:
        """Whether a sweep should be tried by comparing."""
        failed_at = limits.negentropy_failed_at
        if self._item_sets is None or (failed_at and wall - failed_at < RETRY_S):
            return False
        if sweep.query.subject not in (Subject.GLOBAL, Subject.AUTHORS) or limits.until_exclusive:
            return False
        if limits.needs_kinds or limits.refuses_kindless or limits.withholds:
            return False
        if limits.max_frame_bytes < _LEAST_FRAME_BYTES:
            return False
        is_long = sweep.purpose in (Purpose.TAIL, Purpose.INITIAL) and sweep.span >= LEAST_SPAN_S
        return (is_long or sweep.purpose is Purpose.RESWEEP) and len(sweep.query.members) <= sweep.query.most_members(
            limits
        )

    def open_next(self, sweep: Sweep, session: Session, mono: float) -> bool:
        """Ask for the sweep's next step, or wait for it; returns whether it is not to be paged now."""
        if session.limits.negentropy_failed_at >= sweep.started:
            # Found out by another sweep meanwhile; from here on its pages are those of its window.
            self._stop(sweep)
        if not sweep.compares and sweep.stuck is None and sweep.window.stuck:
            self._begin_stuck(sweep, sweep.window.stuck[0], session)
        if not sweep.compares and sweep.stuck is None:
            return False
        if sweep.reconciler is None and not self._begin(sweep, session, mono):
            return sweep.compares
        reconciler = sweep.reconciler
        assert reconciler is not None, "begun"
        while reconciler.is_fetching:
            page = reconciler.page(session.limits)
            if page:
                sweep.is_open = True
                session.open_page(sweep.key, page, mono)
                return True
            self._settle(sweep, reconciler, session)
        if reconciler.is_done:
            self._fall_back_to_paging(sweep, _COMPLETE if reconciler.is_proven else _UNPROVEN)
            return False
        if session.reconciliation.is_open:
            sweep.not_before = mono + _TURN_S
            return True
        sweep.is_open = True
        session.reconciliation.open(sweep.key, *reconciler.opening(), mono)
        return True

    def on_message(self, sweep: Sweep | None, payload: bytes, session: Session, mono: float, wall: int) -> None:
        """Take the relay's next message."""
        if sweep is None or sweep.reconciler is None:
            session.reconciliation.close()
            return
        try:
            message = sweep.reconciler.answered(payload)
        except InvalidNegentropy as error:
            session.reconciliation.close()
            sweep.is_open = False
            self._count_bytes(session)
            if not sweep.reconciler.ended(error.reason):
                self._fall_back_to_paging(sweep, _PROTOCOL)
                self._record_failure(session, wall)
            return
        if message is not None:
            session.reconciliation.answer(message, mono)
            return
        session.reconciliation.close()
        sweep.is_open = False
        self._count_bytes(session)

    def on_finished(self, sweep: Sweep | None, end: NegOutcome, session: Session, wall: int) -> None:
        """The relay ended a reconciliation, or did not answer."""
        self._count_bytes(session)
        if sweep is None or sweep.reconciler is None:
            return
        sweep.is_open = False
        if sweep.reconciler.ended(end):
            return
        self._fall_back_to_paging(sweep, end)
        if end not in (NegOutcome.AUTH_REQUIRED, NegOutcome.RATE_LIMITED, NegOutcome.TOO_MANY, NegOutcome.DROPPED):
            self._record_failure(session, wall)

    def abandon(self, sweep: Sweep) -> None:
        """The relay does not give by their ids what it named: have the rest page by page."""
        self._fall_back_to_paging(sweep, NegOutcome.REFUSED)

    def on_lost(self, session: Session, wall: int) -> None:
        """The connection was lost: perhaps over a message that the relay did not know."""
        if session.reconciliation.is_probing:
            self._record_failure(session, wall)

    def _begin_stuck(self, sweep: Sweep, stuck: Stuck, session: Session) -> None:
        """Compare with nothing what pages do not divide: the relay names all that it has of it."""
        limits, part = session.limits, stuck.part
        sweep.stuck = stuck
        sweep.reconciler = Reconciler(
            part.query, ItemSet(()), *sweep.window.borders.span(part),
            frame=limits.max_frame_bytes, is_proven=limits.reconciles,
        )  # fmt: skip
        sweep.reconciler.kinds = part.kinds

    def _stop(self, sweep: Sweep) -> None:
        """Page the sweep from here on; what pages do not divide is missing."""
        sweep.compares = sweep.window.compares = False
        sweep.reconciler = sweep.stuck = None
        for stuck in list(sweep.window.stuck):
            self._give_up(sweep, stuck)

    def _record_failure(self, session: Session, wall: int) -> None:
        """Let a relay be for long that failed before it ever succeeded; one that succeeded is tried again each time."""
        if not session.limits.reconciles:
            session.learn(replace(session.limits, negentropy_failed_at=wall))

    def _begin(self, sweep: Sweep, session: Session, mono: float) -> bool:
        assert self._item_sets is not None, "nothing suits without"
        low, high = sweep.started - sweep.span, sweep.started
        held = self._item_sets.item_set_for(sweep.query, low)
        if held is Unavailable.LOADING and sweep.turns < _MAX_TURNS:
            sweep.not_before = mono + min(_TURN_S, _FIRST_TURN_S * 2.0**sweep.turns)
            sweep.turns += 1
            return False
        if not isinstance(held, ItemSetWindow):
            sweep.compares = False
            return False
        low, high = max(low, held.since, 0), min(high, held.until)
        if len(held.items.between(low, high)) < _LEAST_ITEMS:
            sweep.compares = False
            return False
        limits = session.limits
        sweep.reconciler = Reconciler(
            sweep.query, held.items, low, high,
            frame=limits.max_frame_bytes, is_proven=limits.reconciles,
        )  # fmt: skip
        return True

    def _settle(self, sweep: Sweep, reconciler: Reconciler, session: Session) -> None:
        low, high = reconciler.settle()
        if reconciler.is_proven:
            if sweep.stuck is None and low <= high:
                sweep.window.leave_out(low, high)
            if not session.limits.reconciles:
                session.learn(replace(session.limits, reconciles=True, negentropy_failed_at=0))

    def _fall_back_to_paging(self, sweep: Sweep, result: str) -> None:
        """Whatever is not settled is paged from here on."""
        self._stats.reconciliations[str(result)] += 1
        reconciler, stuck = sweep.reconciler, sweep.stuck
        sweep.compares = False
        sweep.reconciler = sweep.stuck = None
        if reconciler is not None:
            self._stats.needed += reconciler.needed
        if stuck is None or reconciler is None:
            return
        # Some relays compare no more than a page holds: one that names as many as came before shows nothing.
        if result == _COMPLETE and reconciler.needed > stuck.returned:
            sweep.window.had(stuck)
        else:
            self._give_up(sweep, stuck)

    def _count_bytes(self, session: Session) -> None:
        self._stats.compared_bytes += session.reconciliation.take_bytes()
