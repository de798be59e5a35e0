"""Whether an empty page without kinds shows that there is nothing. No I/O, no clock.

Some relays give nothing for filters so broad, and some count events to the limit that they then hide.

| a page without kinds | is followed by |
|---|---|
| empty, over a short time | nothing: it is believed, unless the relay says that it left out something |
| empty, the first of its form over a long time | a *check*: the same by all listed kinds |
| empty, another one | the same; a check by the usual kinds where that takes several requests |

| a check | is followed by |
|---|---|
| brings nothing | nothing |
| is refused | a check by the usual kinds, if it was by more and may have been too large; it is told |
| brings something | halves of the time without kinds; the kinds that it did not name |

| a half of the time | is followed by |
|---|---|
| brings something | its rest, like any page |
| empty, and halves are left to spend | its halves |
| empty else | nothing: it is a gap |
"""

from dataclasses import replace
from typing import Final

from pipeline.crawl.sync.asked_kinds import HIDDEN_KINDS, LISTED_KINDS
from pipeline.crawl.sync.paging.kind_lists import MAX_CHECKS, USUAL_KINDS, by_kinds
from pipeline.crawl.sync.paging.missing import Missing, MissingRecord
from pipeline.crawl.sync.paging.slices import Gap, Manners, PageResult, Role, Slice
from pipeline.crawl.sync.query import Query, Subject

# An empty answer about all kinds over less than this (seconds) is believed.
TRUSTED_SPAN_S: Final = 3600
# Most hidden events are mentions.
TRUSTED_MENTIONS_S: Final = 600
# Pages spent on narrowing down where hidden events end; 72 h come down to about an hour each.
MAX_SPANS: Final = 64
# The same for a relay that never gave anything for all kinds: enough to find out whether it ever does.
MAX_BLIND_SPANS: Final = 4


class EmptyPages:
    """What one window makes of empty pages.

    `answers_kindless`: the relay was seen to give something without kinds; `max_kinds`: how many a check may name.
    """

    __slots__ = (
        "_believes", "_hidden", "_is_long", "_knowledge", "_refused", "_spans", "answers_kindless", "found_by_kinds",
        "max_kinds",
    )  # fmt: skip

    def __init__(self, manners: Manners, *, is_long: bool) -> None:
        # Parts of a long window are not trusted as one of their length is.
        self._is_long = is_long
        self.answers_kindless = manners.answers_kindless
        self._believes = manners.believes_empty
        self._hidden = HIDDEN_KINDS - manners.withheld
        self._knowledge = manners.pages
        self.max_kinds = manners.max_kinds
        self.found_by_kinds = False
        """Whether a check found what pages without kinds had left out."""
        self._refused = manners.refused_kinds
        self._spans = 0

    @property
    def needs_kinds(self) -> bool:
        """Whether the relay gave something by kinds, and never anything without."""
        return self.found_by_kinds and not self.answers_kindless

    def note(self, part: Slice, result: PageResult, *, is_last: bool) -> None:
        """Take note of a page; `is_last`: nothing of the same check follows."""
        if part.is_kindless and result.returned:
            self.answers_kindless = True
        if part.role is Role.CHECK and is_last:
            self._knowledge.checked.add(replace(part, kinds=None).form)

    def shows_all(self, part: Slice) -> bool:
        """Whether nothing that the relay may count and hide is likely to lie in a slice.

        Of a long window a slice may begin where hidden events do: they may fill pages, though hardly more than one a
        second comes.
        """
        trusted = trusted_span(part.query)
        if self._is_long and part.role is not Role.SPAN:
            trusted = min(trusted, max(self._knowledge.largest.values(), default=0))
        return not part.is_kindless or part.high - part.low < trusted

    def after_empty(self, part: Slice, missing: MissingRecord, *, has_left_out: bool = False) -> list[Slice]:
        """Return what an empty page is followed by; `has_left_out`: the relay hid something, and says so."""
        if (self._believes or self.shows_all(part)) and not (has_left_out and part.is_kindless):
            return []
        if part.role is Role.SPAN:
            return self._halves(part, missing)
        kinds, is_checked = LISTED_KINDS - self._refused, self._is_checked_briefly(part.form)
        if len(kinds) > MAX_CHECKS * self.max_kinds and not is_checked:
            missing.add(Missing(Gap.UNCHECKED, part.low, part.high))
            is_checked = True
        return self._check(part, USUAL_KINDS - self._refused if is_checked else kinds)

    def after_refused(self, part: Slice) -> list[Slice]:
        """Return what a check is followed by that was refused."""
        is_by_more = part.role is Role.CHECK and part.kinds is not None and part.kinds > USUAL_KINDS
        return self._check(part, USUAL_KINDS - self._refused) if is_by_more else []

    def after_found(self, part: Slice, missing: MissingRecord) -> list[Slice]:
        """Return what a check is followed by that brought something: look where else it was left out."""
        is_first = not self.answers_kindless and not self.found_by_kinds
        hidden = by_kinds(part, self._hidden - self._refused, Role.PAGE, self.max_kinds) if is_first else []
        self.found_by_kinds = True
        whole = Slice(part.query, None, part.low, part.high)
        followed = [*hidden, *self._halves(whole, missing)]
        if self._is_checked_briefly(whole.form) and part.kinds is not None and part.kinds <= USUAL_KINDS:
            rest = LISTED_KINDS - USUAL_KINDS - self._refused
            followed += by_kinds(whole, rest, Role.PAGE, self.max_kinds)
        return followed

    def may_halve(self) -> bool:
        """Take note of a page that broke off before anything came; returns whether its time may be halved."""
        if self._spans >= MAX_SPANS:
            return False
        self._spans += 1
        return True

    def _is_checked_briefly(self, form: str) -> bool:
        """Whether usual kinds are enough: all of them take several requests, and did so before."""
        return form in self._knowledge.checked and len(LISTED_KINDS - self._refused) > self.max_kinds

    def _check(self, part: Slice, kinds: frozenset[int]) -> list[Slice]:
        return by_kinds(part, kinds, Role.CHECK, self.max_kinds)

    def _halves(self, part: Slice, missing: MissingRecord) -> list[Slice]:
        if self._spans >= (MAX_SPANS if self.answers_kindless else MAX_BLIND_SPANS):
            gap = Gap.HIDDEN_KINDS if self.answers_kindless else Gap.UNLISTED_KINDS
            missing.add(Missing(gap, part.low, part.high), once=True)
            return []
        self._spans += 2
        middle = (part.low + part.high) // 2
        halves = part.between(part.low, middle), part.between(middle + 1, part.high)
        return [replace(half, role=Role.SPAN) for half in halves]


def trusted_span(query: Query) -> int:
    """Return how long (seconds) an empty answer about `query` is believed for."""
    return TRUSTED_MENTIONS_S if query.subject is Subject.MENTIONS else TRUSTED_SPAN_S
