"""What one relay's crawl has found out about how it answers, over all its connections."""

from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.crawl.sync.forms.forms import FormKnowledge
from pipeline.crawl.sync.paging.page_knowledge import PageKnowledge
from pipeline.crawl.sync.paging.slices import Manners
from pipeline.crawl.sync.paging.window import Window
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.subscription import PageEnded

# Times the usual wait for an answer, for relays that turned out slow.
MAX_PATIENCE: Final = 4.0
# Times in a row that a page may stay without its EOSE until what came of it is taken for all there is.
MAX_SILENCES: Final = 2


@dataclass(slots=True)
class RelayQuirks:
    """`has_eose`: whether the relay was seen to end a page; `gave`: to give anything; `patience`: see `Session`."""

    has_eose: bool | None = None
    gave: bool = False
    patience: float = 1.0
    _answers_kindless: bool = False
    _includes_since: bool = False
    _pages: PageKnowledge = field(default_factory=PageKnowledge)

    def manners(self, limits: RelayLimits, *, compares: bool = False) -> Manners:
        """What a new window should know."""
        return Manners(
            excludes_until=limits.until_exclusive,
            excludes_since=limits.since_exclusive,
            includes_since=self._includes_since,
            answers_kindless=self._answers_kindless,
            pages=self._pages,
            max_kinds=limits.kinds_that_fit,
            max_span=limits.max_span,
            compares=compares,
            refuses_kindless=limits.refuses_kindless,
            notes_by_author=limits.notes_by_author,
            refused_kinds=frozenset(limits.refused_kinds),
            withholds=limits.withholds,
            gives_shown=limits.gives_shown,
        )

    def settles_for(self, ended: PageEnded, *, failures: int, events: int) -> bool:
        """Whether a page without its EOSE is as much as there will be, after so many failures in a row before.

        `events` came of the same sweep so far. What is settled for is gone on below, but completes nothing.
        """
        if ended.refusal is not RelayRefusal.TIMEOUT:
            return False
        if self.has_eose is False:
            return True
        tries = failures + 1
        has_given = ended.count > 0 or events > 0
        if has_given and tries >= MAX_SILENCES and self.has_eose is None:
            self.has_eose = False
            self.patience = 1.0
            return True
        self.patience = min(self.patience * 2, MAX_PATIENCE)
        return has_given and tries > MAX_SILENCES + 1

    def learn_forms(self, forms: FormKnowledge, limits: RelayLimits) -> RelayLimits:
        """Take over whether controls came back without kinds; returns `limits` by which live filters name them."""
        answers = forms.answers_kindless
        self._answers_kindless = self._answers_kindless or answers is True
        if self._answers_kindless or answers is None:
            return replace(limits, needs_kinds=limits.needs_kinds and not self._answers_kindless)
        return replace(limits, needs_kinds=True)

    def learn(self, window: Window, limits: RelayLimits, *, by_query: bool) -> RelayLimits:
        """Take over what a finished window found out; returns `limits` with what later processes should know too."""
        self._answers_kindless = self._answers_kindless or window.answers_kindless
        self._includes_since = window.borders.includes_since
        needs_kinds = (limits.needs_kinds or (window.needs_kinds and by_query)) and not self._answers_kindless
        return replace(
            limits,
            until_exclusive=window.borders.excludes_until,
            since_exclusive=window.borders.excludes_since,
            needs_kinds=needs_kinds,
        )
