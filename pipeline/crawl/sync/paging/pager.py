"""The pager: everything between two times from a relay that returns at most so many events of those asked for.

A relay keeps its caps to itself, and they differ by the form of the filter: a page that is not full proves nothing, and
neither does a full one whose events are in no order. What can be relied on:

- Newest first: what a relay leaves out of a page is older than what it returns. Then the next page ends with the oldest
  second of the last, which others may share, and all is had once nothing older comes. That a page fell from newest to
  oldest does not show it by itself (the events may be sorted after they were chosen), so that some
  pages are followed by a control: the time that it covers, asked for alone, must not hold more than it had of it.
- Any order: a page with fewer events than the relay returned for more time of the same filter was not cut off. So the
  time is divided where the page had events, until each piece has fewer than what it was cut from.
- A second that is full is divided by kinds, then by members; what nothing divides is `stuck`: it is compared with the
  relay (NIP-77) by whoever drives the window, and if that fails it is a gap.

The slices to ask for are a stack (`slice_stack`). A page of the slice on top is taken in this order:

| the page | is followed by |
|---|---|
| may be full, and rises or ignores `until` after pages that fell unproven | everything from the start, in any order |
| has more than the page above it had of the time that both cover | everything from the start, in any order |
| lacks an event seen at a border of the slice | the same slice with the border read otherwise (`borders`) |
| answers a control with more than the page had | everything from the start, in any order |
| answers a control with older events, too, as `since` is ignored | a gap over its time, unless the next page goes on |
| is newer than asked for, or older and does not fall | if it may be full, the slice by kinds or members |
| shows no time at all, as all of it was too long to be read | halves of its time |
| is full of what does not match | its time divided |
| is empty, or has nothing below its newest second | nothing, or a check by kinds (`empty_pages`) |
| rises, or is of a divided slice | its time divided, unless it has fewer events than what the slice was cut from |
| lies in the newest second of the slice | the rest of the slice; if it may be full, the second by kinds or members |
| falls | the slice below, from just above its end (`page_ends`); at times first a control (`page_knowledge`) |

Checks and controls are optional: one that is refused is dropped and told (`drop_optional`). It does no I/O and knows no
clock.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from pipeline.crawl.sync.asked_kinds import ALL_KINDS
from pipeline.crawl.sync.paging.borders import Borders
from pipeline.crawl.sync.paging.empty_pages import EmptyPages
from pipeline.crawl.sync.paging.missing import Missing, MissingRecord, Stuck
from pipeline.crawl.sync.paging.page_ends import (
    ARRIVALS,
    ARRIVALS_SHARE,
    Overlap,
    PageEnd,
    end_beside_arrivals,
    end_of_cut_off,
    few_arrivals,
)
from pipeline.crawl.sync.paging.slice_stack import SliceStack
from pipeline.crawl.sync.paging.slices import Gap, Manners, PageResult, Role, Slice
from pipeline.nostr.filter import Filter

# No relay returns so few events for a larger limit.
LEAST_CAP: Final = 5


class Pager:
    """Asks for one slice after the other. `gaps`: what is known to be missing whatever comes.

    `settled`: what is dated later may still arrive between two pages. Of a relay that compares sets, what is `stuck`
    waits for `had` or `give_up`, rather than being a gap at once.
    """

    __slots__ = (
        "_controlled", "_disproofs", "_doubt", "_empties", "_known_gaps", "_left", "_max_span", "_overlap", "_record",
        "_relied_on", "_trusts_order", "borders", "breaks_off", "compares", "covered", "dense_seconds", "knowledge",
        "limit", "pages", "settled", "stuck",
    )  # fmt: skip

    def __init__(
        self, left: SliceStack, span: tuple[int, int], manners: Manners, *,
        is_long: bool, gaps: tuple[Gap, ...], limit: int, settled: int,
    ) -> None:  # fmt: skip
        self.limit = limit
        self.settled = settled
        self.pages = 0
        self.breaks_off = False
        """Whether pages were seen to break off."""
        self.dense_seconds = 0
        self.compares = manners.compares
        self.stuck: list[Stuck] = []
        self.covered: list[tuple[int, int]] = [span]
        """The spans that are gone through."""
        self.borders = Borders(manners)
        """What was seen of how the relay reads `since` and `until`."""
        self.knowledge = manners.pages
        """What pages showed of the relay, which its other windows know too."""
        self._left = left
        self._max_span = manners.max_span
        self._empties = EmptyPages(manners, is_long=is_long)
        self._record = MissingRecord()
        self._known_gaps = gaps
        # The oldest second of a page whose control came back with nothing new, until it shows that the page was cut.
        self._controlled: int | None = None
        # What the next page has in common with the last, which fell.
        self._overlap: Overlap | None = None
        # What a control of a relay that ignores `since` could not show to be whole, until an older page follows.
        self._doubt: Missing | None = None
        self._trusts_order = True
        # Forms of which a page that fell was taken to leave out only what is older.
        self._relied_on: frozenset[str] = frozenset()
        # By form, how often its order had been disproved when this window began to rely on it.
        self._disproofs: dict[str, int] = {}

    @property
    def span(self) -> tuple[int, int]:
        """From when to when it goes, whatever is left out between."""
        return min(low for low, _ in self.covered), max(high for _, high in self.covered)

    def page(self) -> Filter:
        """The filter of the page to ask for now; the same until its result is told. Only if there is one."""
        self._left.cut_top(self._max_span)
        part = self._left.top
        since, until = self.borders.span(part)
        return part.query.filter(kinds=part.kinds, since=since, until=until, limit=self.limit)

    # What comes of it.

    def take(self, result: PageResult) -> None:
        """Note that the page asked for came to its EOSE."""
        self._begin_page(result)
        part = self._left.pop()
        self._empties.note(part, result, is_last=not self._left.has_more_of(part))
        if self._is_disproved(part.form):
            self._begin_anew()
            return
        if self._fell_by_chance(part, result) or self._left_out_newer(part, result):
            self._disprove(part.form)
            return
        falls = self._is_by_time(part, result)
        is_whole = result.returned < max(part.most, self._least_cap)
        again = self.borders.asked_again(part, result, is_whole=is_whole, falls=falls)
        if again is not None:
            self._left.push(again)
        elif part.role is Role.CONTROL:
            self._take_control(part, result)
        else:
            self._settle_doubt(part, result, falls=falls)
            self._take_page(part, result, falls=falls)
        self.knowledge.note_size(part.form, result.stored)
        self._left.end_page()

    def break_off(self, result: PageResult) -> bool:
        """Note that the page asked for broke off, as it does each time; returns False if it cannot be made smaller.

        What came bounds how much is asked for from now on. What is left is known only where the answer falls in time;
        else the time is halved.
        """
        part, oldest = self._left.top, result.oldest
        falls = self._is_by_time(part, result) and oldest is not None and part.low <= oldest < part.high
        if not falls and (part.is_second or not (result.count or self._empties.may_halve())):
            return False
        self._begin_page(result)
        self._left.pop()
        self.breaks_off = True
        if falls and oldest is not None:
            self.limit = min(self.limit, result.returned)
            self._left.push(part.between(part.low, oldest))
        else:
            self._halve(part)
        self._left.end_page()
        return True

    def drop_optional(self, *, asks_less: bool = True) -> None:
        """Leave the page asked for unasked, as it was refused, and with it the others of the same check.

        `asks_less`: a check is made with fewer kinds, as all at once may have been too many.
        """
        part = self._left.pop()
        assert part.role is not Role.PAGE, "required work is never dropped"
        while self._left.has_more_of(part):
            self._left.pop()
        gap = Gap.UNLISTED_KINDS if part.role is Role.REST else Gap.UNCHECKED
        self._record.add(Missing(gap, part.low, part.high))
        if asks_less:
            self._left.push(*self._empties.after_refused(part))
        self._left.end_page()

    def had(self, stuck: Stuck) -> None:
        """Note that what was stuck was had in another way."""
        self.stuck.remove(stuck)

    def give_up(self, stuck: Stuck) -> None:
        """Note that what is stuck cannot be had; of all kinds, those that are listed are asked for alone."""
        self.stuck.remove(stuck)
        self._leave_gap(stuck)

    def _begin_page(self, result: PageResult) -> None:
        """Count a page, and note what it shows to be missing whatever else it brought."""
        if not self.pages:
            self._left.begin()
            for gap in self._known_gaps:
                self._record.add(Missing(gap, *self.span))
        self.pages += 1
        self.note_unread(Gap.OVERSIZED, result.skipped)
        self.note_unread(Gap.MALFORMED, result.malformed)

    def note_unread(self, gap: Gap, spans: Iterable[tuple[int, int]]) -> None:
        """Note that events of these spans came and could not be read."""
        for low, high in spans:
            self._record.add(Missing(gap, low, high))

    def _take_page(self, part: Slice, result: PageResult, *, falls: bool) -> None:
        is_full = result.returned >= max(part.most, self._least_cap)
        if (result.newer and result.newer >= result.count) or (result.older and not falls):
            self._leave_timeless(part, result)
        elif result.undated and result.oldest is None:
            if is_full or not result.malformed:
                self._halve(part)
        elif result.strangers and not result.count and is_full:
            self._divide(part, result)
        elif not result.count:
            self._leave_empty(part, result)
        else:
            if part.role is Role.CHECK:
                self._left.push(*self._empties.after_found(part, self._record))
            if falls:
                self._descend(part, result)
            elif is_full:
                self._divide(part, result)

    # Pages that fall, and whether that shows anything.

    def _descend(self, part: Slice, result: PageResult) -> None:
        assert result.oldest is not None, "there are some"
        if result.returned >= self._least_cap:
            self._relied_on |= {part.form}
        if result.returned < self._least_cap and not result.has_left_out and self._empties.shows_all(part):
            return
        if result.oldest >= part.high:
            if not part.is_second:
                self._go_below_second(part, result)
            self._leave_second(part, result)
            return
        if not result.older and result.oldest >= part.low:
            end = self._end_of(part, result, result.oldest)
            self._overlap = end.overlap
            self._left.push(part.between(part.low, end.had_from, ends=True))
            self._control(part, result, end.covers_from)

    def _end_of(self, part: Slice, result: PageResult, oldest: int) -> PageEnd:
        times = result.within(part.low, part.high)
        if not times or times[0] >= part.high:
            # Longer than what is noted of it, which is all of its newest second.
            return PageEnd(oldest, oldest)
        if result.arrived or self.settled < part.high:
            return end_beside_arrivals(times, part.high, result.arrived)
        if times[0] == oldest and self._may_be_full(part.form, result.returned):
            return end_of_cut_off(times, part.high)
        return PageEnd(oldest, oldest)

    def _left_out_newer(self, part: Slice, result: PageResult) -> bool:
        """Whether a page shows that the one above it left out what is newer than its oldest event."""
        if part.role is Role.CONTROL:
            return False
        overlap, self._overlap = self._overlap, None
        return overlap is not None and part.high == overlap.high + 1 and overlap.has_more(result)

    def _go_below_second(self, part: Slice, result: PageResult) -> None:
        rest = part.between(part.low, part.high - 1)
        if result.returned < self._least_cap and part.role is not Role.SPAN:
            # Asked for alone, it would show one event more of what is counted and hidden, at most.
            self._leave_empty(rest, result)
        else:
            self._left.push(rest)

    def _is_by_time(self, part: Slice, result: PageResult) -> bool:
        """Whether what a page left out is taken to be older than what it had."""
        return self._trusts_order and not part.most and result.falls(self.settled)

    def _control(self, part: Slice, result: PageResult, oldest: int) -> None:
        """Ask now and then for the time that a page covers but its oldest second, which may be cut off."""
        if self._controlled is not None and oldest < self._controlled <= part.high:
            self.knowledge.prove(part.form)
        self._controlled = None
        high = min(part.high, self.settled)
        if result.returned < self._least_cap or oldest >= high or not result.times:
            return
        if not self.knowledge.wants_control(part.form, result.returned):
            return
        expected = len(result.within(oldest + 1, high))
        self._left.push(replace(part.between(oldest + 1, high), role=Role.CONTROL, expected=expected))

    def _take_control(self, part: Slice, result: PageResult) -> None:
        if len(result.within(part.low, part.high)) > part.expected:
            self._disprove(part.form)
        elif result.older and self._may_be_full(part.form, result.returned):
            # The same page again: the relay ignores `since`.
            self._doubt = Missing(Gap.IGNORES_TIMES, part.low, part.high, part.form, result.returned)
        else:
            self._controlled = part.low - 1

    def _settle_doubt(self, part: Slice, result: PageResult, *, falls: bool) -> None:
        """Note a gap where a control showed nothing, unless the page below it goes on: the oldest were not chosen."""
        doubt, self._doubt = self._doubt, None
        goes_on = falls and result.oldest is not None and result.oldest < part.high
        if doubt is not None and not goes_on:
            self._record.add(doubt)

    def _fell_by_chance(self, part: Slice, result: PageResult) -> bool:
        """Return True if a page that may be cut off shows that earlier ones of its form fell by chance.

        It rises, or has what is newer than asked for. Few such events may have arrived while it was sent.
        """
        is_relied_on = self._trusts_order and not part.most and part.form in self._relied_on
        if not is_relied_on or self.knowledge.is_proven(part.form) or not self._may_be_full(part.form, result.returned):
            return False
        arrivals = max(few_arrivals(result.returned), result.arrived)
        return max(result.rises(self.settled), result.newer) > arrivals

    def _disprove(self, form: str) -> None:
        self.knowledge.disprove(form)
        self._begin_anew()

    def _is_disproved(self, form: str) -> bool:
        """Whether a control showed that the order proves nothing, since this window began to rely on it."""
        known = self.knowledge.failures(form)
        return self._trusts_order and known > self._disproofs.setdefault(form, known)

    def _begin_anew(self) -> None:
        """Sorted, but not chosen by time: whatever was had so far proves nothing."""
        self._trusts_order, self._doubt = False, None
        self._left.begin_anew()

    # Pages that are divided, and what divides no further.

    def _divide(self, part: Slice, result: PageResult) -> None:
        pieces = part.divided(result, self._sure_size(part, result))
        if pieces:
            self._left.push(*pieces)
        else:
            self.dense_seconds += 1
            self._leave_second(part, result)

    def _halve(self, part: Slice) -> None:
        """The page showed no time at all: what it left out may lie anywhere."""
        if not part.is_second:
            middle = (part.low + part.high) // 2
            self._left.push(part.piece(part.low, middle), part.piece(middle + 1, part.high))

    def _leave_second(self, part: Slice, result: PageResult) -> None:
        """All of the page lay in the newest second: leave it, unless the cap may have hidden others there."""
        if not self._may_be_full(part.form, result.returned):
            return
        self.dense_seconds += not part.is_second
        second = replace(part.between(part.high, part.high, begins=True, ends=True), most=0)
        if part.is_second or self.borders.knows_since:
            self._split(second, Gap.DENSE_SECOND, result.returned)
        else:
            # By itself first: it shows whether the relay leaves out the second named by `since`.
            self._left.push(second)

    def _leave_timeless(self, part: Slice, result: PageResult) -> None:
        """The relay returns what was not asked for: a full page hides what lies within, a smaller does not."""
        if self._may_be_full(part.form, result.returned):
            self._split(part, Gap.IGNORES_TIMES, result.returned)

    def _leave_empty(self, part: Slice, result: PageResult) -> None:
        if not result.older:
            self._left.push(*self._empties.after_empty(part, self._record, has_left_out=result.has_left_out))

    @property
    def _least_cap(self) -> int:
        return min(LEAST_CAP, self.limit)

    def _may_be_full(self, form: str, returned: int) -> bool:
        """Whether a cap may have cut off a page with so many events."""
        return returned >= self._least_cut(min(self.knowledge.largest[form], self.limit))

    def _sure_size(self, part: Slice, result: PageResult) -> int:
        """Return how many events of a page were stored for sure, and did not arrive while it was sent."""
        return result.stored if part.high <= self.settled else self._least_cut(result.stored)

    def _least_cut(self, most: int) -> int:
        """Return how many events a page that was cut off has at least, where another of its form had `most`."""
        return max(most - most // ARRIVALS_SHARE - ARRIVALS, self._least_cap)

    def _split(self, part: Slice, gap: Gap, returned: int) -> None:
        parts = part.halves()
        if parts:
            self._left.push(*parts)
            return
        stuck = Stuck(part, gap, returned)
        if self.compares:
            self.stuck.append(stuck)
        else:
            self._leave_gap(stuck)

    def _leave_gap(self, stuck: Stuck) -> None:
        part = stuck.part
        self._record.add(Missing(stuck.gap, part.low, part.high, part.form, stuck.returned))
        if part.is_kindless:
            self._left.push(*replace(part, kinds=ALL_KINDS).halves())
