"""Fetching everything between two times from a relay that returns at most so many events of those asked for.

`Window` decides which page to ask for next and when everything has been had (relays cap pages silently, so a page
that is not full proves nothing). It steps down by the oldest event seen and asks for that second again, since others
may share it; that second is also the proof that the relay's `until` includes its own second: some relays exclude it,
and are then asked for one second more. It finds out by itself when a relay returns the oldest events first, goes by
no times, or answers nothing to filters that name no kinds. What it cannot get is told in `gaps`. It does no I/O and
knows no clock.
"""

from collections import Counter
from collections.abc import Set as AbstractSet
from copy import copy
from dataclasses import replace

from pipeline.crawl.named_kinds import begun, by_kinds, known_gaps
from pipeline.crawl.plan import ALL_KINDS, HIDDEN_KINDS, LISTED_KINDS, MAX_MEMBERS, Query, Subject
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


class Window:
    """Pages through one query from `since` to `until`, both included."""

    __slots__ = (
        "_answers_kindless", "_behind", "_believes_empty", "_exclusive", "_flipped", "_hidden", "_known_gaps",
        "_known_newest_first", "_known_oldest_first", "_largest", "_last_gap", "_max_kinds", "_needs_kinds",
        "_oldest_first", "_pristine", "_refused", "_slices", "_spans", "breaks_off", "covered", "dense_seconds",
        "gap_reasons", "limit", "missing", "pages",
    )  # fmt: skip

    def __init__(
        self, query: Query, since: int, until: int, *,
        limit: int = PAGE_LIMIT, exclusive: bool = False, max_members: int = MAX_MEMBERS,
        manners: Manners | None = None,
    ) -> None:  # fmt: skip
        manners = manners or Manners()
        self.limit = limit
        self.pages = 0
        self.breaks_off = False
        """Whether pages were seen to break off."""
        self.dense_seconds = 0
        self.gap_reasons: Counter[Gap] = Counter()
        self.missing: list[tuple[Gap, int, int]] = []
        """What could not be had: why, from when and to when."""
        since = max(since, 0)
        parts = query.parts(1 if manners.finds_first_only else max_members) if until >= since else []
        self._max_kinds = manners.max_kinds
        self._refused = manners.refused_kinds
        self._hidden = HIDDEN_KINDS - manners.withheld
        self._believes_empty = manners.believes_empty
        self._slices = [
            slice_ for part in parts for slice_ in begun(Slice(part, None, since, until), manners, manners.max_kinds)
        ]
        self._known_gaps = known_gaps(query, manners)
        self.covered: list[tuple[int, int]] = [(since, until)]
        """The spans that are gone through."""
        self._pristine = len(self._slices) == 1
        # How many slices lie behind those that come first, as long as there are any.
        self._behind: int | None = None
        self._exclusive = exclusive or manners.excludes_until
        self._flipped = False
        self._oldest_first = manners.oldest_first
        self._known_newest_first = False
        self._known_oldest_first = False
        self._answers_kindless = manners.answers_kindless
        self._needs_kinds = False
        self._spans = 0
        self._last_gap: tuple[Gap, int] | None = None
        self._largest = manners.largest_page

    @property
    def is_done(self) -> bool:
        """Whether every page has been had."""
        return not self._slices

    @property
    def excludes_until(self) -> bool:
        """Whether this relay was seen to leave out the second named by `until`."""
        return self._exclusive

    @property
    def oldest_first(self) -> bool:
        """Whether this relay was seen to begin with the oldest events."""
        return self._oldest_first

    @property
    def answers_kindless(self) -> bool:
        """Whether this relay was seen to give anything to a filter without kinds."""
        return self._answers_kindless

    @property
    def largest_page(self) -> int:
        """The most events that this relay was seen to return at once."""
        return self._largest

    @property
    def needs_kinds(self) -> bool:
        """Whether it gave something by kinds, and never anything without."""
        return self._needs_kinds and not self._answers_kindless

    @property
    def gaps(self) -> int:
        """How often something could not be had."""
        return self.gap_reasons.total()

    @property
    def span(self) -> tuple[int, int]:
        """From when to when it goes, whatever is left out between."""
        return min(low for low, _ in self.covered), max(high for _, high in self.covered)

    @property
    def remaining(self) -> tuple[int, int] | None:
        """From when to when nothing has been had yet, `None` where that is no single span of time."""
        if len(self._slices) != 1 or not self._pristine or self._oldest_first or self._slices[0].role is not Role.PAGE:
            return None
        return self._slices[0].low, self._slices[0].high

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
        lower._slices = [self._slices[0].between(low, high)]
        lower.covered, lower.missing, lower.gap_reasons = [(low, high)], [], Counter()
        lower.pages = lower.dense_seconds = 0
        return lower

    def give_up_below(self, low: int) -> None:
        """Leave what is `remaining` below `low` to another window."""
        (part,) = self._slices
        self._slices = [replace(part, low=low)]

    def absorb(self, other: "Window") -> None:
        """Take what another window found to be missing in a part of this one's span."""
        self.missing += other.missing
        self._largest = max(self._largest, other.largest_page)

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

    @property
    def is_first(self) -> bool:
        """Whether the next page is about members who were put first."""
        return self._behind is not None

    def page(self) -> Filter:
        """The filter of the page to ask for now; the same until its result is told. Not for a window that is done."""
        part = self._slices[-1]
        until = part.high + 1 if self._exclusive else part.high
        return part.query.filter(kinds=part.kinds, since=part.low, until=until, limit=self.limit)

    def take(self, result: PageResult) -> None:
        """Note that the page asked for came to its EOSE."""
        part = self._slices.pop()
        self._begin_page(result)
        if part.is_kindless and result.returned:
            self._answers_kindless = True
        if result.falls:
            self._oldest_first = False
        if result.undated and result.oldest is None:
            self._bisect(part)
        elif result.newer and result.newer >= result.count:
            self._leave_timeless(part, result)
        elif self._oldest_first and part.role is Role.LOWER:
            self._take_lower(part, result)
        elif self._oldest_first:
            self._climb(part, result)
        elif part.role is Role.UPPER:
            self._take_upper(part, result)
        elif not self._flips(part, result):
            self._descend(part, result)
        self._largest = max(self._largest, result.returned)
        self._prune()

    def break_off(self, result: PageResult) -> bool:
        """Note that the page asked for broke off, as it does each time; returns False if it cannot be made smaller.

        What came bounds how much is asked for from now on. What is left is known only where the answer falls in time;
        else the time is halved.
        """
        part = self._slices[-1]
        falls = result.falls and result.oldest is not None and part.low <= result.oldest < part.high
        if not falls and (part.low == part.high or (not result.count and self._spans >= MAX_SPANS)):
            return False
        self._begin_page(result)
        self._slices.pop()
        self.breaks_off = True
        if falls and result.oldest is not None:
            self.limit = min(self.limit, result.returned)
            self._slices.append(part.between(part.low, result.oldest))
        else:
            self._spans += not result.count
            self._bisect(part)
        self._prune()
        return True

    def _begin_page(self, result: PageResult) -> None:
        """Count a page, and note what it shows to be missing whatever else it brought."""
        self.pages += 1
        if self.pages == 1:
            for gap in self._known_gaps:
                self._miss(gap, *self.span)
        for low, high in result.skipped:
            self._miss(Gap.OVERSIZED, low, high)

    def _flips(self, part: Slice, result: PageResult) -> bool:
        """Whether the page shows that `until` is read otherwise than it was thought, and must be asked for again."""
        returns = result.newest is not None and result.newest >= part.high
        if part.repeats and not self._exclusive and not returns:
            # The second asked for again must hold the event that named it.
            self._exclusive = self._flipped = True
        elif part.repeats and self._flipped and not returns:
            # It does not even so: others hide it, and the relay is as it was.
            self._exclusive = self._flipped = False
            part = replace(part, repeats=False)
        elif result.oldest is not None and result.oldest > part.high:
            # Only the extra second came back, full: this relay does not exclude it after all.
            self._exclusive = False
            part = replace(part, repeats=False)
        else:
            self._flipped = False
            return False
        self._slices.append(part)
        return True

    def _descend(self, part: Slice, result: PageResult) -> None:
        if result.oldest is None or result.newest is None:
            self._leave_empty(part, result)
            return
        if part.role is Role.CHECK:
            self._suspect(part)
        if self._is_whole(part, result):
            return
        if result.oldest >= part.high:
            if part.low < part.high:
                self._slices.append(part.between(part.low, part.high - 1))
            self._leave_second(part.between(part.high, part.high), result, alone=part.low == part.high)
            return
        if part.repeats:
            self._known_newest_first = True
        elif result.rises and not self._known_newest_first and result.newest < part.high:
            self._slices.append(part.between(result.newest, part.high, role=Role.UPPER))
        if not result.older:
            self._slices.append(part.between(part.low, max(result.oldest, part.low), repeats=True))

    def _take_upper(self, part: Slice, result: PageResult) -> None:
        if result.newest is not None and result.newest > part.low:
            self._oldest_first = self._known_oldest_first = True
            self._climb(part, result)

    def _take_lower(self, part: Slice, result: PageResult) -> None:
        """Stop climbing where a page did not begin with the oldest: the relay has changed, or was misunderstood.

        Events that arrive between two pages make one that shuffles look as if it had kept them back.
        """
        if result.oldest is None or result.oldest >= part.high:
            self._known_oldest_first = True
            return
        self._oldest_first = False
        self._descend(part.between(part.low, part.high), result)

    def _climb(self, part: Slice, result: PageResult) -> None:
        """The same walk for a relay that begins with the oldest: upwards."""
        if result.newest is None:
            self._leave_empty(part, result)
            return
        if part.role is Role.CHECK:
            self._suspect(part)
        if result.newest > part.low:
            self._slices.append(part.between(min(result.newest, part.high), part.high))
            if result.oldest is not None and part.low < result.oldest < part.high and not self._known_oldest_first:
                self._slices.append(part.between(part.low, result.oldest, role=Role.LOWER))
            return
        if part.low < part.high:
            self._slices.append(part.between(part.low + 1, part.high))
        self._leave_second(part.between(part.low, part.low), result, alone=part.low == part.high)

    def _leave_second(self, second: Slice, result: PageResult, *, alone: bool) -> None:
        """All of the page lay in one second: leave it, unless the cap may have hidden others there."""
        if self._may_be_full(result):
            self.dense_seconds += not alone
            self._split(second, Gap.DENSE_SECOND)

    def _leave_timeless(self, part: Slice, result: PageResult) -> None:
        """The relay returns what is newer than asked for: a full page hides what lies within, a smaller does not."""
        if self._may_be_full(result):
            self._split(part, Gap.IGNORES_TIMES)

    def _may_be_full(self, result: PageResult) -> bool:
        """Whether a cap may have cut the page off."""
        return result.returned >= max(min(self._largest, self.limit), min(LEAST_CAP, self.limit))

    def _bisect(self, part: Slice) -> None:
        """The page showed no time at all: halve the time, since what it left out may lie anywhere."""
        if part.low < part.high:
            middle = (part.low + part.high) // 2
            self._slices += (part.between(part.low, middle), part.between(middle + 1, part.high))

    def _miss(self, gap: Gap, low: int, high: int) -> None:
        self.gap_reasons[gap] += 1
        self.missing.append((gap, low, high))

    def _split(self, part: Slice, gap: Gap) -> None:
        parts = part.halves()
        if not parts:
            if self._last_gap != (gap, part.high):
                self._miss(gap, part.low, part.high)
                self._last_gap = (gap, part.high)
            if part.is_kindless:
                parts = replace(part, kinds=ALL_KINDS).halves()
        self._slices.extend(parts)

    def _leave_empty(self, part: Slice, result: PageResult) -> None:
        """Believe that there is nothing, unless the relay may have had other reasons to say so."""
        if result.older or self._believes_empty or self._shows_all(part):
            return
        if part.role is Role.SPAN:
            self._narrow_down(part)
        else:
            self._slices += by_kinds(part, LISTED_KINDS - self._refused, Role.CHECK, self._max_kinds)

    def _is_whole(self, part: Slice, result: PageResult) -> bool:
        """Whether the page is too small to have been cut off."""
        return result.returned < min(LEAST_CAP, self.limit) and self._shows_all(part)

    def _shows_all(self, part: Slice) -> bool:
        """Whether nothing that the relay may count and hide is likely to lie in a slice."""
        trusted = TRUSTED_MENTIONS_S if part.query.subject is Subject.MENTIONS else TRUSTED_SPAN_S
        return not part.is_kindless or part.high - part.low < trusted

    def _suspect(self, part: Slice) -> None:
        """There was nothing without kinds, and there is something by kinds: look where else it was left out."""
        if not self._answers_kindless and not self._needs_kinds:
            self._slices += by_kinds(part, self._hidden - self._refused, Role.PAGE, self._max_kinds)
        self._needs_kinds = True
        self._narrow_down(Slice(part.query, None, part.low, part.high))

    def _narrow_down(self, part: Slice) -> None:
        if self._spans >= (MAX_SPANS if self._answers_kindless else MAX_BLIND_SPANS):
            # Counted once for each window: how much is missing cannot be known.
            gap = Gap.HIDDEN_KINDS if self._answers_kindless else Gap.UNLISTED_KINDS
            self._miss(gap, part.low, part.high)
            self.gap_reasons[gap] = 1
            return
        self._spans += 2
        middle = (part.low + part.high) // 2
        self._slices += (
            part.between(part.low, middle, role=Role.SPAN), part.between(middle + 1, part.high, role=Role.SPAN)
        )  # fmt: skip

    def _prune(self) -> None:
        """Drop checks whose question has been answered."""
        while self._slices and self._slices[-1].role is Role.UPPER and (self._known_newest_first or self._oldest_first):
            self._slices.pop()
        self._see_whether_first()

    def _see_whether_first(self) -> None:
        if self._behind is not None and len(self._slices) <= self._behind:
            self._behind = None
