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

The slices to ask for are a stack. A page of the slice on top is taken in this order:

| the page | is followed by |
|---|---|
| lacks an event seen at a border of the slice | the same slice with the border read otherwise (`borders`) |
| answers a control with more than the page had | everything from the start, in any order |
| is newer than asked for, or older and does not fall | if it may be full, the slice by kinds or members |
| shows no time at all, as all of it was too long to be read | halves of its time |
| is full of what does not match | its time divided |
| is empty | nothing; a long slice without kinds: checks by kinds, then halves of its time |
| rises, or is of a divided slice | its time divided, unless it has fewer events than what the slice was cut from |
| lies in the newest second of the slice | the rest of the slice; if it may be full, the second by kinds or members |
| falls | the slice up to its oldest second; the first times, and now and then, a control |

Checks and controls are optional: one that is refused is dropped and told (`drop_optional`). It does no I/O and knows no
clock.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from itertools import takewhile

from pipeline.crawl.borders import Borders
from pipeline.crawl.named_kinds import MAX_CHECKS, USUAL_KINDS, begun, by_kinds, joined, known_gaps
from pipeline.crawl.plan import ALL_KINDS, HIDDEN_KINDS, LISTED_KINDS, MAX_MEMBERS, Member, Query, Subject
from pipeline.crawl.slices import Gap, Manners, PageResult, Role, Slice, parted
from pipeline.nostr.filter import Filter

# Asking for more than a relay's cap makes some return far less; this many every relay seen accepts.
PAGE_LIMIT = 500
# An empty answer about all kinds over more than this (seconds) is asked again by kinds: some relays count hidden
# events to the limit, some give nothing for filters so broad.
TRUSTED_SPAN_S = 3600
# What is hidden mostly mentions somebody.
TRUSTED_MENTIONS_S = 600
# Pages spent on narrowing down where hidden events end; 72 h come down to about an hour each.
MAX_SPANS = 64
# The same for a relay that never gave anything for all kinds: enough to find out whether it ever does.
MAX_BLIND_SPANS = 4
# No relay returns so few events for a larger limit.
LEAST_CAP = 5


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be had: why, from when to when, and how many events the page that shows it had."""

    gap: Gap
    low: int
    high: int
    form: str = ""
    returned: int = 0


@dataclass(frozen=True, slots=True)
class Stuck:
    """A slice that pages do not divide, and how many events its page had."""

    part: Slice
    gap: Gap
    returned: int


class Window:
    """Pages through one query from `since` to `until`, both included.

    `settled`: what is dated later may still arrive between two pages. Of a relay that compares sets, what is `stuck`
    waits for `had` or `give_up`, rather than being a gap at once.
    """

    __slots__ = (
        "_all", "_answers_kindless", "_behind", "_believes_empty", "_borders", "_controlled", "_disproofs",
        "_hidden", "_is_long", "_known_gaps", "_last_gap", "_max_kinds", "_max_span", "_missing", "_needs_kinds",
        "_new_missing", "_pristine", "_refused", "_slices", "_spans", "_trusts_order", "breaks_off", "compares",
        "covered", "dense_seconds", "gap_reasons", "knowledge", "limit", "pages", "settled", "stuck",
    )  # fmt: skip

    def __init__(
        self, query: Query, since: int, until: int, *,
        limit: int = PAGE_LIMIT, max_members: int = MAX_MEMBERS, manners: Manners | None = None,
        settled: int | None = None,
    ) -> None:  # fmt: skip
        manners = manners or Manners()
        self.limit = limit
        self.pages = 0
        self.breaks_off = False
        """Whether pages were seen to break off."""
        self.dense_seconds = 0
        self.gap_reasons: Counter[Gap] = Counter()
        self.compares = manners.compares
        self.stuck: list[Stuck] = []
        since = max(since, 0)
        self.covered: list[tuple[int, int]] = [(since, until)]
        """The spans that are gone through."""
        parts = query.parts(1 if manners.finds_first_only else max_members) if until >= since else []
        # Parts of such a window are not trusted as one of their length is.
        self._is_long = until - since >= _trusted_span(query)
        self._max_kinds = manners.max_kinds
        self._max_span = manners.max_span
        self._believes_empty = manners.believes_empty
        self._refused = manners.refused_kinds
        self._hidden = HIDDEN_KINDS - manners.withheld
        self._slices = [slice_ for part in parts for slice_ in begun(Slice(part, None, since, until), manners)]
        self._all: tuple[Slice, ...] = ()
        self._known_gaps = known_gaps(query, manners)
        self._missing: list[Missing] = []
        self._new_missing: list[Missing] = []
        self._pristine = len(self._slices) == 1
        self.settled = until if settled is None else settled
        # How many slices lie behind those that come first, as long as there are any.
        self._behind: int | None = None
        self._borders = Borders(manners)
        self.knowledge = manners.pages
        """What pages showed of the relay, which its other windows know too."""
        # The oldest second of a page whose control came back with nothing new, until it shows that the page was cut.
        self._controlled: int | None = None
        self._trusts_order = True
        self._answers_kindless = manners.answers_kindless
        # By form, how often its order had been disproved when this window began to rely on it.
        self._disproofs: dict[str, int] = {}
        self._needs_kinds = False
        self._spans = 0
        self._last_gap: tuple[Gap, int] | None = None

    # What is known.

    @property
    def is_done(self) -> bool:
        """Whether every page has been had."""
        return not self._slices and not self.stuck

    @property
    def has_page(self) -> bool:
        """Whether there is a page to ask for."""
        return bool(self._slices)

    @property
    def borders(self) -> Borders:
        """What was seen of how the relay reads `since` and `until`."""
        return self._borders

    @property
    def answers_kindless(self) -> bool:
        """Whether this relay was seen to give anything to a filter without kinds."""
        return self._answers_kindless

    @property
    def needs_kinds(self) -> bool:
        """Whether it gave something by kinds, and never anything without."""
        return self._needs_kinds and not self._answers_kindless

    @property
    def gaps(self) -> int:
        """How often something could not be had."""
        return self.gap_reasons.total()

    @property
    def missing(self) -> list[Missing]:
        """What could not be had; not what fewer events show than a page of the same form had since."""
        return [each for each in self._missing if not each.form or self._may_be_full(each.form, each.returned)]

    def take_missing(self) -> list[Missing]:
        """Return what was found missing since the last call."""
        taken, self._new_missing = self._new_missing, []
        return taken

    @property
    def span(self) -> tuple[int, int]:
        """From when to when it goes, whatever is left out between."""
        return min(low for low, _ in self.covered), max(high for _, high in self.covered)

    @property
    def remaining(self) -> tuple[int, int] | None:
        """From when to when nothing has been had yet, `None` where that is no single span of time."""
        if len(self._slices) != 1 or self.stuck or not self._pristine or self._slices[0].role is not Role.PAGE:
            return None
        return self._slices[0].low, self._slices[0].high

    @property
    def _left(self) -> list[Slice]:
        return [*self._slices, *(stuck.part for stuck in self.stuck)]

    @property
    def is_first(self) -> bool:
        """Whether the next page is about members who were put first."""
        return self._behind is not None

    @property
    def is_optional(self) -> bool:
        """Whether the next page only checks what others showed."""
        return bool(self._slices) and self._slices[-1].role is not Role.PAGE

    @property
    def is_control(self) -> bool:
        """Whether the next page asks again for what was had."""
        return bool(self._slices) and self._slices[-1].role is Role.CONTROL

    # What is asked for.

    def resume(self, low: int, high: int, done_from: int) -> bool:
        """Leave out what an earlier window of this query has had: all between `high` and `done_from`.

        Returns False if it must be asked for after all.
        """
        if not self._pristine or len(self._slices) != 1:
            return False
        part = self._slices[0]
        is_within = part.low <= low <= high < done_from <= part.high
        if is_within:
            self.covered = [(low, high), (done_from, part.high)]
            self._slices = [part.between(max(part.low, low), high), part.between(done_from, part.high)]
        return is_within

    def lower_part(self, low: int, high: int) -> "Window":
        """Return a window of its own for a part of this one's time, with all that is known of the relay."""
        lower = copy(self)
        lower._slices, lower.covered = [self._slices[0].between(low, high)], [(low, high)]
        lower._missing, lower._new_missing, lower.stuck, lower.gap_reasons = [], [], [], Counter()
        lower._disproofs = dict(self._disproofs)
        # What is tried out at the border of one slice says nothing about those of another.
        lower._borders = deepcopy(self._borders)
        lower.pages = lower.dense_seconds = 0
        return lower

    def give_up_below(self, low: int) -> None:
        """Leave what is `remaining` below `low` to another window."""
        (part,) = self._slices
        self._slices = [replace(part, low=low)]

    @property
    def divisible(self) -> int:
        """How many slices may be left to other windows: of what was begun in several, those that come last."""
        if self._pristine or self.stuck:
            return 0
        required = takewhile(lambda part: part.role is Role.PAGE, self._slices[:-1])
        return sum(1 for _ in required)

    def last_part(self, count: int) -> "Window":
        """Leave the `count` slices that come last to a window of its own; returns that, with all that is known."""
        last = self.lower_part(*self.span)
        last._slices, self._slices = self._slices[:count], self._slices[count:]
        last._known_gaps, last._behind = (), None
        if self._behind is not None:
            self._behind = max(0, self._behind - count) or None
        return last

    def absorb(self, other: "Window") -> None:
        """Take what another window found to be missing in a part of this one's span."""
        self._missing += other._missing

    def allow_kinds(self, most: int) -> None:
        """Name up to `most` kinds in a filter from now on, as the relay has accepted.

        The next page may be under way; what lies behind it is asked for in longer lists.
        """
        if most <= self._max_kinds:
            return
        self._max_kinds = most
        if self._behind is None:
            self._slices = [*joined(self._slices[:-1], most), *self._slices[-1:]]

    def leave_out(self, low: int, high: int) -> None:
        """Leave out what was had in another way: all from `low` to `high`. Only before the first page."""
        parts = [part.outside(low, high) for part in self._slices]
        self._slices = [piece for pieces in parts for piece in pieces]
        if self._behind is not None:
            self._behind = sum(map(len, parts[: self._behind]))
            self._see_whether_first()

    def put_first(self, keys: AbstractSet[bytes]) -> None:
        """Ask for these members first. Only before the first page."""
        behind, before = parted(self._slices, keys)
        self._slices = [*behind, *before]
        self._behind = len(behind) if before else None

    def take_over(self, others: Sequence["Window"], members: AbstractSet[Member]) -> None:
        """Go on where others were, the first of them over all of their time, which were refused for these members.

        Whoever became wanted anew since is asked for anew: what came meanwhile was dropped.
        """
        if not any(other.pages for other in others):
            # Nothing was had: all are asked for together.
            return
        low, high = others[0].span
        wanted = {each for part in self._slices for each in part.query.members}
        slices: list[Slice] = []
        for part in (part for other in others for part in other._left):
            left = [each for each in part.query.members if each in wanted]
            if left and part.role is not Role.CONTROL:
                slices.append(replace(part, query=part.query.of_members(left)))
        # What is new comes first: it may be answered.
        for part in self._slices:
            known = [each for each in part.query.members if each in members]
            fresh = [each for each in part.query.members if each not in members]
            if known:
                slices += replace(part, query=part.query.of_members(known)).outside(low, min(high, others[0].settled))
            if fresh:
                slices.append(replace(part, query=part.query.of_members(fresh)))
        self._slices, self._behind, self._pristine = slices, None, False

    def page(self) -> Filter:
        """The filter of the page to ask for now; the same until its result is told. Only while `has_page`."""
        self._slices += self._slices.pop().spans(self._max_span)
        part = self._slices[-1]
        since, until = self._borders.span(part)
        return part.query.filter(kinds=part.kinds, since=since, until=until, limit=self.limit)

    # What comes of it.

    def take(self, result: PageResult) -> None:
        """Note that the page asked for came to its EOSE."""
        self._begin_page(result)
        part = self._slices.pop()
        if part.is_kindless and result.returned:
            self._answers_kindless = True
        if part.role is Role.CHECK and not self._has_more_of(part):
            self.knowledge.checked.add(replace(part, kinds=None).form)
        if self._is_disproved(part.form):
            self._begin_anew()
            return
        falls = self._is_by_time(part, result)
        is_whole = result.returned < max(part.most, self._least_cap)
        again = self._borders.asked_again(part, result, is_whole=is_whole, falls=falls)
        if again is not None:
            self._slices.append(again)
        elif part.role is Role.CONTROL:
            self._take_control(part, result)
        else:
            self._take_page(part, result, falls=falls)
        self.knowledge.note_size(part.form, result.returned)
        self._see_whether_first()

    def break_off(self, result: PageResult) -> bool:
        """Note that the page asked for broke off, as it does each time; returns False if it cannot be made smaller.

        What came bounds how much is asked for from now on. What is left is known only where the answer falls in time;
        else the time is halved.
        """
        part, oldest = self._slices[-1], result.oldest
        falls = self._is_by_time(part, result) and oldest is not None and part.low <= oldest < part.high
        if not falls and (part.is_second or (not result.count and self._spans >= MAX_SPANS)):
            return False
        self._begin_page(result)
        self._slices.pop()
        self.breaks_off = True
        if falls and oldest is not None:
            self.limit = min(self.limit, result.returned)
            self._slices.append(part.between(part.low, oldest))
        else:
            self._spans += not result.count
            self._halve(part)
        self._see_whether_first()
        return True

    def drop_optional(self) -> None:
        """Leave the page asked for unasked, as it was refused, and with it the others of the same check."""
        part = self._slices.pop()
        assert part.role is not Role.PAGE, "required work is never dropped"
        while self._has_more_of(part):
            self._slices.pop()
        self._miss(Missing(Gap.UNCHECKED, part.low, part.high))
        if part.role is Role.CHECK and part.kinds is not None and part.kinds > USUAL_KINDS:
            # All at once may have been too much to ask for.
            self._slices += by_kinds(part, USUAL_KINDS - self._refused, Role.CHECK, self._max_kinds)
        self._see_whether_first()

    def reform(self, manners: Manners, max_members: int) -> None:
        """Cut what is left as the relay takes it now, after it refused something."""
        self._max_kinds, self._max_span = manners.max_kinds, manners.max_span
        slices: list[Slice] = []
        self._slices = [part for part in self._slices if part.role is not Role.CONTROL]
        for number, part in enumerate(self._slices):
            if number == self._behind:
                self._behind = len(slices)
            kept = part if part.kinds is not None and len(part.kinds) <= manners.max_kinds else None
            for query in part.query.parts(max_members):
                cut = replace(part, query=query)
                slices += [cut] if kept is not None else _reformed(cut, manners)
        known = {each.gap for each in self._missing}
        for gap in known_gaps(self._slices[0].query, manners) if self._slices else ():
            if self.pages and gap not in known:
                self._miss(Missing(gap, *self.span))
        self._pristine = self._pristine and len(slices) == len(self._slices)
        self._slices = slices

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
            self._all = tuple(self._slices)
            for gap in self._known_gaps:
                self._miss(Missing(gap, *self.span))
        self.pages += 1
        for low, high in result.skipped:
            self._miss(Missing(Gap.OVERSIZED, low, high))

    def _is_by_time(self, part: Slice, result: PageResult) -> bool:
        """Whether what a page left out is taken to be older than what it had."""
        return self._trusts_order and not part.most and result.falls(self.settled)

    def _take_control(self, part: Slice, result: PageResult) -> None:
        if len(result.within(part.low, part.high)) <= part.expected:
            self._controlled = part.low - 1
            return
        self.knowledge.disprove(part.form)
        self._begin_anew()

    def _is_disproved(self, form: str) -> bool:
        """Whether a control showed that the order proves nothing, since this window began to rely on it."""
        known = self.knowledge.failures(form)
        return self._trusts_order and known > self._disproofs.setdefault(form, known)

    def _begin_anew(self) -> None:
        """Sorted, but not chosen by time: whatever was had so far proves nothing."""
        self._trusts_order = False
        self._slices = [replace(each, most=0) for each in self._all]
        self._pristine = self._pristine and len(self._slices) == 1

    def _take_page(self, part: Slice, result: PageResult, *, falls: bool) -> None:
        if (result.newer and result.newer >= result.count) or (result.older and not falls):
            self._leave_timeless(part, result)
        elif result.undated and result.oldest is None:
            self._halve(part)
        elif result.strangers and not result.count and result.returned >= max(part.most, self._least_cap):
            self._divide(part, result)
        elif not result.count:
            self._leave_empty(part, result)
        else:
            if part.role is Role.CHECK:
                self._suspect(part)
            if falls:
                self._descend(part, result)
            elif result.returned >= max(part.most, self._least_cap):
                self._divide(part, result)

    def _descend(self, part: Slice, result: PageResult) -> None:
        assert result.oldest is not None, "there are some"
        if result.returned < self._least_cap and self._shows_all(part):
            return
        if result.oldest >= part.high:
            if not part.is_second:
                self._go_below_second(part, result)
            self._leave_second(part, result)
            return
        if not result.older and result.oldest >= part.low:
            self._slices.append(part.between(part.low, result.oldest, ends=True))
            self._control(part, result, result.oldest)

    def _go_below_second(self, part: Slice, result: PageResult) -> None:
        rest = part.between(part.low, part.high - 1)
        if result.returned < self._least_cap and part.role is not Role.SPAN:
            # Asked for alone, it would show one event more of what is counted and hidden, at most.
            self._leave_empty(rest, result)
        else:
            self._slices.append(rest)

    def _control(self, part: Slice, result: PageResult, oldest: int) -> None:
        """Ask now and then for the time that a page covers but its oldest second, which may be cut off."""
        if self._controlled == part.high and oldest < part.high:
            self.knowledge.prove(part.form)
        self._controlled = None
        high = min(part.high, self.settled)
        if result.returned < self._least_cap or oldest >= high or not result.times:
            return
        if not self.knowledge.wants_control(part.form, result.returned):
            return
        expected = len(result.within(oldest + 1, high))
        self._slices.append(replace(part.between(oldest + 1, high), role=Role.CONTROL, expected=expected))

    def _divide(self, part: Slice, result: PageResult) -> None:
        pieces = part.divided(result)
        if pieces:
            self._slices += pieces
        else:
            self.dense_seconds += 1
            self._leave_second(part, result)

    def _halve(self, part: Slice) -> None:
        """The page showed no time at all: what it left out may lie anywhere."""
        if not part.is_second:
            middle = (part.low + part.high) // 2
            self._slices += (part.piece(part.low, middle), part.piece(middle + 1, part.high))

    def _leave_second(self, part: Slice, result: PageResult) -> None:
        """All of the page lay in the newest second: leave it, unless the cap may have hidden others there."""
        if not self._may_be_full(part.form, result.returned):
            return
        self.dense_seconds += not part.is_second
        second = replace(part.between(part.high, part.high, begins=True, ends=True), most=0)
        if part.is_second or self._borders.knows_since:
            self._split(second, Gap.DENSE_SECOND, result.returned)
        else:
            # By itself first: it shows whether the relay leaves out the second named by `since`.
            self._slices.append(second)

    def _leave_timeless(self, part: Slice, result: PageResult) -> None:
        """The relay returns what was not asked for: a full page hides what lies within, a smaller does not."""
        if self._may_be_full(part.form, result.returned):
            self._split(part, Gap.IGNORES_TIMES, result.returned)

    @property
    def _least_cap(self) -> int:
        return min(LEAST_CAP, self.limit)

    def _may_be_full(self, form: str, returned: int) -> bool:
        """Whether a cap may have cut off a page with so many events."""
        return returned >= max(min(self.knowledge.largest[form], self.limit), self._least_cap)

    def _split(self, part: Slice, gap: Gap, returned: int) -> None:
        parts = part.halves()
        if parts:
            self._slices += parts
            return
        stuck = Stuck(part, gap, returned)
        if self.compares:
            self.stuck.append(stuck)
        else:
            self._leave_gap(stuck)

    def _leave_gap(self, stuck: Stuck) -> None:
        part = stuck.part
        self._miss(Missing(stuck.gap, part.low, part.high, part.form, stuck.returned))
        if part.is_kindless:
            self._slices += replace(part, kinds=ALL_KINDS).halves()

    def _miss(self, missing: Missing) -> None:
        self._missing.append(missing)
        self._new_missing.append(missing)
        if self._last_gap != (missing.gap, missing.high):
            self.gap_reasons[missing.gap] += 1
            self._last_gap = (missing.gap, missing.high)

    # What was empty.

    def _leave_empty(self, part: Slice, result: PageResult) -> None:
        """Believe that there is nothing, unless the relay may have had other reasons to say so."""
        if result.older or self._believes_empty or self._shows_all(part):
            return
        if part.role is Role.SPAN:
            self._narrow_down(part)
            return
        kinds = LISTED_KINDS - self._refused
        is_known = self._is_checked_briefly(part.form)
        if is_known or len(kinds) > MAX_CHECKS * self._max_kinds:
            if not is_known:
                self._miss(Missing(Gap.UNCHECKED, part.low, part.high))
            kinds = USUAL_KINDS - self._refused
        self._slices += by_kinds(part, kinds, Role.CHECK, self._max_kinds)

    def _is_checked_briefly(self, form: str) -> bool:
        """Whether usual kinds are enough: all of them take several requests, and did so before."""
        return form in self.knowledge.checked and len(LISTED_KINDS - self._refused) > self._max_kinds

    def _shows_all(self, part: Slice) -> bool:
        """Whether nothing that the relay may count and hide is likely to lie in a slice.

        Of a long window a slice may begin where hidden events do: they may fill pages, though hardly more than one a
        second comes.
        """
        trusted = _trusted_span(part.query)
        if self._is_long and part.role is not Role.SPAN:
            trusted = min(trusted, max(self.knowledge.largest.values(), default=0))
        return not part.is_kindless or part.high - part.low < trusted

    def _suspect(self, part: Slice) -> None:
        """There was nothing without kinds, and there is something by kinds: look where else it was left out."""
        if not self._answers_kindless and not self._needs_kinds:
            self._slices += by_kinds(part, self._hidden - self._refused, Role.PAGE, self._max_kinds)
        self._needs_kinds = True
        hidden = Slice(part.query, None, part.low, part.high)
        self._narrow_down(hidden)
        if self._is_checked_briefly(hidden.form) and part.kinds is not None and part.kinds <= USUAL_KINDS:
            rest = LISTED_KINDS - USUAL_KINDS - self._refused
            self._slices += by_kinds(hidden, rest, Role.PAGE, self._max_kinds)

    def _narrow_down(self, part: Slice) -> None:
        if self._spans >= (MAX_SPANS if self._answers_kindless else MAX_BLIND_SPANS):
            # Counted once for each window: how much is missing cannot be known.
            gap = Gap.HIDDEN_KINDS if self._answers_kindless else Gap.UNLISTED_KINDS
            self._miss(Missing(gap, part.low, part.high))
            self.gap_reasons[gap] = 1
            return
        self._spans += 2
        middle = (part.low + part.high) // 2
        lower, upper = part.between(part.low, middle), part.between(middle + 1, part.high)
        self._slices += (replace(lower, role=Role.SPAN), replace(upper, role=Role.SPAN))

    def _has_more_of(self, part: Slice) -> bool:
        """Whether what comes next belongs to the same check."""
        if not self._slices or self._slices[-1].role is not part.role:
            return False
        other = self._slices[-1]
        return (part.query, part.low, part.high) == (other.query, other.low, other.high)

    def _see_whether_first(self) -> None:
        if self._behind is not None and len(self._slices) <= self._behind:
            self._behind = None


def _trusted_span(query: Query) -> int:
    return TRUSTED_MENTIONS_S if query.subject is Subject.MENTIONS else TRUSTED_SPAN_S


def _reformed(part: Slice, manners: Manners) -> Iterable[Slice]:
    """A slice as the relay takes it now."""
    if part.kinds is not None:
        return by_kinds(part, part.kinds, part.role, manners.max_kinds)
    return begun(part, replace(manners, asks_both=False))
