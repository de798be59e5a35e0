"""What of a window is still to be asked for: a stack of slices, on top what comes next. Pure.

Between two pages it may be cut anew: what was had in another way is left out, some members come first, the lower part
of the time is given away, a window that was refused is taken over, or less is taken at once than was thought.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import takewhile

from pipeline.crawl.sync.members import Member
from pipeline.crawl.sync.paging.kind_lists import asks_rest, begun, by_kinds, joined
from pipeline.crawl.sync.paging.slices import Manners, Role, Slice, parted


class SliceStack:
    """The slices of one window."""

    __slots__ = ("_begun", "_behind", "_is_pristine", "_slices")

    def __init__(self, slices: Iterable[Slice]) -> None:
        self._slices = list(slices)
        # What there was before the first page.
        self._begun: tuple[Slice, ...] = ()
        # Whether what is left may be a single span of time.
        self._is_pristine = len(self._slices) == 1
        # How many slices lie behind those that come first, as long as there are any.
        self._behind: int | None = None

    def __len__(self) -> int:
        return len(self._slices)

    def __iter__(self) -> Iterator[Slice]:
        return iter(self._slices)

    # What comes next.

    @property
    def top(self) -> Slice:
        """What comes next."""
        return self._slices[-1]

    @property
    def role(self) -> Role | None:
        """Why that is asked for; `None` if nothing is left."""
        return self._slices[-1].role if self._slices else None

    @property
    def is_first(self) -> bool:
        """Whether it is about members who were put first."""
        return self._behind is not None

    @property
    def remaining(self) -> tuple[int, int] | None:
        """From when to when nothing has been had yet, `None` where that is no single span of time."""
        if len(self._slices) != 1 or not self._is_pristine or self.role is not Role.PAGE:
            return None
        return self.top.low, self.top.high

    def has_more_of(self, part: Slice) -> bool:
        """Whether what comes next belongs to the same check as `part`."""
        if self.role is not part.role:
            return False
        return (part.query, part.low, part.high) == (self.top.query, self.top.low, self.top.high)

    def begin(self) -> None:
        """Note that the first page came."""
        self._begun = tuple(self._slices)

    def cut_top(self, most: int) -> None:
        """Cut what comes next to a span of at most `most` seconds."""
        self._slices += self._slices.pop().spans(most)

    def pop(self) -> Slice:
        """Take what comes next."""
        return self._slices.pop()

    def push(self, *slices: Slice) -> None:
        """Let these come next, the last of them first."""
        self._slices += slices

    def end_page(self) -> None:
        """See whether those that come first are all had."""
        if self._behind is not None and len(self._slices) <= self._behind:
            self._behind = None

    def begin_anew(self) -> None:
        """Let all that there was before the first page come again."""
        self._slices = [replace(each, most=0) for each in self._begun]
        self._is_pristine = self._is_pristine and len(self._slices) == 1

    # What is cut anew.

    def resume(self, low: int, high: int, done_from: int) -> Slice | None:
        """Leave out all between `high` and `done_from`; returns the slice that it was, `None` if it does not fit."""
        if not self._is_pristine or len(self._slices) != 1:
            return None
        part = self.top
        if not part.low <= low <= high < done_from <= part.high:
            return None
        self._slices = [part.between(max(part.low, low), high), part.between(done_from, part.high)]
        return part

    def lower_part(self, low: int, high: int) -> "SliceStack":
        """Return a stack of its own for a part of the time of what comes next."""
        lower = SliceStack([self._slices[0].between(low, high)])
        lower._behind = self._behind
        return lower

    def give_up_below(self, low: int) -> None:
        """Leave what is `remaining` below `low` to another window."""
        (part,) = self._slices
        self._slices = [replace(part, low=low)]

    @property
    def divisible(self) -> int:
        """How many slices may be left to other windows: of what was begun in several, those that come last."""
        if self._is_pristine:
            return 0
        return sum(1 for _ in takewhile(lambda part: part.role in (Role.PAGE, Role.REST), self._slices[:-1]))

    def last_part(self, count: int) -> "SliceStack":
        """Leave the `count` slices that come last to a stack of its own; returns that."""
        last = SliceStack(self._slices[:count])
        last._is_pristine, self._slices = False, self._slices[count:]
        if self._behind is not None:
            self._behind = max(0, self._behind - count) or None
        return last

    def leave_out(self, low: int, high: int) -> None:
        """Leave out all from `low` to `high`."""
        parts = [part.outside(low, high) for part in self._slices]
        self._slices = [piece for pieces in parts for piece in pieces]
        if self._behind is not None:
            self._behind = sum(map(len, parts[: self._behind]))
            self.end_page()

    def put_first(self, keys: AbstractSet[bytes]) -> None:
        """Let these members come first."""
        behind, before = parted(self._slices, keys)
        self._slices = [*behind, *before]
        self._behind = len(behind) if before else None

    def take_over(self, left: Iterable[Slice], members: AbstractSet[Member], low: int, high: int) -> None:
        """Go on with what is `left` of windows over all from `low` to `high` that were refused for `members`.

        Whoever became wanted anew since is asked for anew, and first: it may be answered.
        """
        wanted = {each for part in self._slices for each in part.query.members}
        slices: list[Slice] = []
        for part in left:
            still = [each for each in part.query.members if each in wanted]
            if still and part.role is not Role.CONTROL:
                slices.append(replace(part, query=part.query.of_members(still)))
        for part in self._slices:
            known = [each for each in part.query.members if each in members]
            fresh = [each for each in part.query.members if each not in members]
            if known:
                slices += replace(part, query=part.query.of_members(known)).outside(low, high)
            if fresh:
                slices.append(replace(part, query=part.query.of_members(fresh)))
        self._slices, self._behind, self._is_pristine = slices, None, False

    def reform(self, manners: Manners, max_members: int) -> None:
        """Cut everything as the relay takes it now; controls are left out."""
        slices: list[Slice] = []
        self._slices = [part for part in self._slices if part.role is not Role.CONTROL]
        for number, part in enumerate(self._slices):
            if number == self._behind:
                self._behind = len(slices)
            is_kept = part.kinds is not None and len(part.kinds) <= manners.max_kinds
            for query in part.query.parts(max_members):
                cut = replace(part, query=query)
                slices += [cut] if is_kept else _reformed(cut, manners)
        self._is_pristine = self._is_pristine and len(slices) == len(self._slices)
        self._slices = slices

    def join_kinds(self, most: int) -> None:
        """Put lists of kinds together that go over the same time, up to `most` in one; not what comes next."""
        if self._behind is None:
            self._slices = [*joined(self._slices[:-1], most), *self._slices[-1:]]


def _reformed(part: Slice, manners: Manners) -> Iterable[Slice]:
    """A slice as the relay takes it now."""
    if part.kinds is not None:
        return by_kinds(part, part.kinds, part.role, manners.max_kinds)
    if part.role is Role.REST:
        return [part] if asks_rest(part.query, replace(manners, gives_shown=False)) else []
    return begun(part, replace(manners, asks_both=False))
