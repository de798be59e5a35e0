"""Whether a relay answers filters as broad as that for global kinds; found out once for each connection. No I/O."""

from enum import Enum, auto
from typing import Final

from pipeline.crawl.counts import CrawlCounts
from pipeline.crawl.plan import Subject
from pipeline.crawl.slices import Gap
from pipeline.crawl.sweep import Sweep
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded


class _State(Enum):
    NOT_NEEDED = auto()
    NEEDED = auto()
    DONE = auto()


class Lookout:
    """Asks for one event that every relay in use has, where a sweep for global kinds brought none."""

    KEY: Final = "canary"
    _PAGE: Final = Filter(kinds=GLOBAL_KINDS, limit=1)

    __slots__ = ("_state",)

    def __init__(self) -> None:
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
        elif self._state is _State.NOT_NEEDED:
            self._state = _State.NEEDED

    def open(self, session: Session, mono: float) -> None:
        """Ask, if that is needed and there is room."""
        if self._state is _State.NEEDED and session.has_room_for_page():
            self._state = _State.DONE
            session.open_page(self.KEY, self._PAGE, mono)

    def ended(self, ended: PageEnded, counts: CrawlCounts) -> None:
        """Take the answer: nothing at all is told as a gap."""
        if ended.refusal is None and not ended.count:
            counts.gap_reasons[Gap.NO_BROAD_FILTERS] += 1
