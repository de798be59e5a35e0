"""Whether a relay answers filters as broad as that for global kinds; found out once for each connection. No I/O."""

from enum import Enum, auto
from typing import Final

from pipeline.crawl.open_gaps import OpenGaps
from pipeline.crawl.plan import ALL_KINDS, GLOBAL_QUERY, Subject
from pipeline.crawl.slices import Gap
from pipeline.crawl.sweep import Sweep
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS, TEXT_NOTE
from pipeline.relay.limits import Limits
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded

# One of these nearly every relay has.
_USUAL: Final = frozenset({0, 1, 3, 5, 6, 7, 9735, 10002, 30023, 1111})


class _State(Enum):
    NOT_NEEDED = auto()
    NEEDED = auto()
    ASKED = auto()
    EMPTY = auto()
    ASKED_FOR_ANY = auto()
    DONE = auto()


class Lookout:
    """Asks a relay that gave something by author for one event of global kinds, where a sweep for them brought none.

    If there is none it is asked for one of any kind. One that has none of that either, without authors, refuses such
    filters in silence; else it has no global kinds, and nothing is missed.
    """

    KEY: Final = "canary"
    _PAGE: Final = Filter(kinds=GLOBAL_KINDS, limit=1)

    __slots__ = ("_gaps", "_state")

    def __init__(self, gaps: OpenGaps) -> None:
        self._gaps = gaps
        self._state = _State.NOT_NEEDED

    def connected(self) -> None:
        """A new connection stands."""
        self._state = _State.NOT_NEEDED

    def completed(self, sweep: Sweep) -> None:
        """Take what a complete sweep says about it."""
        if sweep.query.subject is not Subject.GLOBAL:
            return
        if sweep.events:
            self._state = _State.DONE
            self._answers()
        elif self._state is _State.NOT_NEEDED:
            self._state = _State.NEEDED

    def open(self, session: Session, mono: float) -> None:
        """Ask, if that is needed and there is room. Only of a relay that has given something."""
        if not session.has_room_for_page():
            return
        if self._state is _State.NEEDED:
            self._state = _State.ASKED
            session.open_page(self.KEY, self._PAGE, mono)
        elif self._state is _State.EMPTY:
            self._state = _State.ASKED_FOR_ANY
            session.open_page(self.KEY, Filter(kinds=_any_kinds(session.limits), limit=1), mono)

    def ended(self, ended: PageEnded) -> None:
        """Take the answer: nothing of any kind is told as a gap."""
        asked, self._state = self._state, _State.DONE
        if ended.count:
            self._answers()
        if ended.refusal is not None or ended.count:
            return
        if asked is _State.ASKED:
            self._state = _State.EMPTY
        elif asked is _State.ASKED_FOR_ANY:
            self._gaps.open(GLOBAL_QUERY.key, 0, self._gaps.now, Gap.NO_BROAD_FILTERS)

    def _answers(self) -> None:
        """Note that the relay gives something to so broad a filter."""
        self._gaps.close(GLOBAL_QUERY.key, 0, self._gaps.now, Gap.NO_BROAD_FILTERS)


def _any_kinds(limits: Limits) -> frozenset[int]:
    """As many kinds as a relay takes, the usual ones first; without what it would refuse in words."""
    kinds = ALL_KINDS - {TEXT_NOTE} if limits.notes_by_author else ALL_KINDS
    usual = sorted(kinds, key=lambda kind: (kind not in _USUAL, kind))
    return frozenset(usual[: limits.max_kinds])
