"""A window: one query over one span of time at one relay, asked for page by page.

How its pages follow each other is told in `pager.py`. What is left of a window may be cut anew between two of them, as
`slice_stack.py` does it. No I/O, no clock.
"""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from copy import copy, deepcopy
from typing import Final

from pipeline.crawl.sync.members import Member
from pipeline.crawl.sync.paging.empty_pages import trusted_span
from pipeline.crawl.sync.paging.kind_lists import begun, known_gaps
from pipeline.crawl.sync.paging.missing import Missing, MissingRecord
from pipeline.crawl.sync.paging.pager import Pager
from pipeline.crawl.sync.paging.slice_stack import SliceStack
from pipeline.crawl.sync.paging.slices import Gap, Manners, Role, Slice
from pipeline.crawl.sync.planner import MAX_MEMBERS
from pipeline.crawl.sync.query import Query

# Asking for more than a relay's cap makes some return far less; this many every relay seen accepts.
PAGE_LIMIT: Final = 500


class Window(Pager):
    """Pages through one query from `since` to `until`, both included."""

    __slots__ = ()

    def __init__(
        self, query: Query, since: int, until: int, *,
        limit: int = PAGE_LIMIT, max_members: int = MAX_MEMBERS, manners: Manners | None = None,
        settled: int | None = None,
    ) -> None:  # fmt: skip
        manners, since = manners or Manners(), max(since, 0)
        parts = query.parts(1 if manners.finds_first_only else max_members) if until >= since else []
        left = SliceStack(each for part in parts for each in begun(Slice(part, None, since, until), manners))
        super().__init__(
            left, (since, until), manners, is_long=until - since >= trusted_span(query),
            gaps=known_gaps(query, manners), limit=limit, settled=until if settled is None else settled,
        )  # fmt: skip

    # What is known.

    @property
    def is_done(self) -> bool:
        """Whether every page has been had."""
        return not self._left and not self.stuck

    @property
    def answers_kindless(self) -> bool:
        """Whether this relay was seen to give anything to a filter without kinds."""
        return self._empties.answers_kindless

    @property
    def needs_kinds(self) -> bool:
        """Whether it gave something by kinds, and never anything without."""
        return self._empties.needs_kinds

    @property
    def found_by_kinds(self) -> bool:
        """Whether something came by kinds that pages without had left out, so that these prove nothing."""
        return self._empties.found_by_kinds

    @property
    def gap_reasons(self) -> Counter[Gap]:
        """How often something could not be had, by reason."""
        return self._record.reasons

    @property
    def gaps(self) -> int:
        """How often something could not be had."""
        return self._record.reasons.total()

    @property
    def missing(self) -> list[Missing]:
        """What could not be had; not what fewer events show than a page of the same form had since."""
        return self._record.confirmed(self._may_be_full)

    def take_missing(self) -> list[Missing]:
        """Return what was found missing since the last call."""
        return self._record.take_new()

    @property
    def remaining(self) -> tuple[int, int] | None:
        """From when to when nothing has been had yet, `None` where that is no single span of time."""
        return None if self.stuck else self._left.remaining

    @property
    def is_first(self) -> bool:
        """Whether the next page is about members who were put first."""
        return self._left.is_first

    @property
    def is_optional(self) -> bool:
        """Whether the next page only checks what others showed."""
        return self._left.role not in (None, Role.PAGE)

    @property
    def is_control(self) -> bool:
        """Whether the next page asks again for what was had."""
        return self._left.role is Role.CONTROL

    @property
    def has_page(self) -> bool:
        """Whether there is a page to ask for."""
        return len(self._left) > 0

    # What is left, cut anew.

    def resume(self, low: int, high: int, done_from: int) -> bool:
        """Leave out what an earlier window of this query has had: all between `high` and `done_from`.

        Returns False if it must be asked for after all.
        """
        part = self._left.resume(low, high, done_from)
        if part is not None:
            self.covered = [(low, high), (done_from, part.high)]
        return part is not None

    def lower_part(self, low: int, high: int) -> "Window":
        """Return a window of its own for a part of this one's time, with all that is known of the relay."""
        return self._beside(self._left.lower_part(low, high), low, high)

    def _beside(self, left: SliceStack, low: int, high: int) -> "Window":
        other = copy(self)
        other._left, other.covered = left, [(low, high)]
        other._record, other.stuck, other._doubt = MissingRecord(), [], None
        other._disproofs, other._empties = dict(self._disproofs), copy(self._empties)
        # What is tried out at the border of one slice says nothing about those of another.
        other.borders = deepcopy(self.borders)
        other.pages = other.dense_seconds = 0
        return other

    def give_up_below(self, low: int) -> None:
        """Leave what is `remaining` below `low` to another window."""
        self._left.give_up_below(low)

    @property
    def divisible(self) -> int:
        """How many slices may be left to other windows: of what was begun in several, those that come last."""
        return 0 if self.stuck else self._left.divisible

    def last_part(self, count: int) -> "Window":
        """Leave the `count` slices that come last to a window of its own; returns that, with all that is known."""
        last = self._beside(self._left.last_part(count), *self.span)
        last._known_gaps = ()
        return last

    def absorb(self, other: "Window") -> None:
        """Take what another window found to be missing in a part of this one's span."""
        self._record.absorb(other._record)

    def allow_kinds(self, most: int) -> None:
        """Name up to `most` kinds in a filter from now on, as the relay has accepted.

        The next page may be under way; what lies behind it is asked for in longer lists.
        """
        if most > self._empties.max_kinds:
            self._empties.max_kinds = most
            self._left.join_kinds(most)

    def leave_out(self, low: int, high: int) -> None:
        """Leave out what was had in another way: all from `low` to `high`. Only before the first page."""
        self._left.leave_out(low, high)

    def put_first(self, keys: AbstractSet[bytes]) -> None:
        """Ask for these members first. Only before the first page."""
        self._left.put_first(keys)

    def take_over(self, others: Sequence["Window"], members: AbstractSet[Member]) -> None:
        """Go on where others were, the first of them over all of their time, which were refused for these members.

        Whoever became wanted anew since is asked for anew: what came meanwhile was dropped.
        """
        if not any(other.pages for other in others):
            # Nothing was had: all are asked for together.
            return
        left = [part for other in others for part in (*other._left, *(stuck.part for stuck in other.stuck))]
        low, high = others[0].span
        self._left.take_over(left, members, low, min(high, others[0].settled))

    def reform(self, manners: Manners, max_members: int) -> None:
        """Cut what is left as the relay takes it now, after it refused something."""
        self._empties.max_kinds, self._max_span = manners.max_kinds, manners.max_span
        query = self._left.top.query if self._left else None
        self._left.reform(manners, max_members)
        for gap in known_gaps(query, manners) if query is not None and self.pages else ():
            if gap not in self._record.gaps:
                self._record.add(Missing(gap, *self.span))
