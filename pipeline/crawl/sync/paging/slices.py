"""The parts of a window, and what a page of one brought."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Final

from pipeline.crawl.sync.paging.page_knowledge import PageKnowledge
from pipeline.crawl.sync.planner import MAX_MEMBERS
from pipeline.crawl.sync.query import Query
from pipeline.relay.limits import MAX_SPAN_S

# So few others come along with those who are asked for first: a request for them alone would cost more.
MAX_COMPANIONS: Final = 50

# A relay that takes no more seconds than these between `since` and `until` is asked for so many all the same.
_LEAST_SPAN_S: Final = 60
_BORDER_S: Final = 1


class Gap(StrEnum):
    """What a relay has and does not give; a metric label."""

    DENSE_SECOND = "dense-second"
    IGNORES_TIMES = "ignores-times"
    HIDDEN_KINDS = "hidden-kinds"
    UNLISTED_KINDS = "unlisted-kinds"
    HOLES = "holes"
    WITHHELD = "withheld"
    NOTES_BY_AUTHOR = "notes-by-author"
    NO_BROAD_FILTERS = "no-broad-filters"
    NO_EOSE = "no-eose"
    REFUSED = "refused"
    KINDS_REFUSED = "kinds-refused"
    UNANSWERED = "unanswered"
    UNCHECKED = "unchecked"
    UNFINISHED = "unfinished"
    OVERSIZED = "oversized"
    MALFORMED = "malformed"


# Those found page by page, each with its span.
PAGING_GAPS: Final = (
    Gap.DENSE_SECOND, Gap.IGNORES_TIMES, Gap.HIDDEN_KINDS, Gap.UNLISTED_KINDS, Gap.HOLES, Gap.WITHHELD,
    Gap.NOTES_BY_AUTHOR, Gap.UNCHECKED, Gap.OVERSIZED, Gap.MALFORMED, Gap.KINDS_REFUSED,
)  # fmt: skip
# Those of sweeps that cannot come to their end: the first that does closes them, since it goes on from the same cursor.
SWEEP_GAPS: Final = (Gap.NO_EOSE, Gap.REFUSED, Gap.UNANSWERED, Gap.UNFINISHED)


@dataclass(frozen=True, slots=True)
class PageResult:
    """What a page brought up to its EOSE: events that match it, valid or not, and their oldest and newest second.

    `newer` and `older` count those that match but for their time; `times` are those of all of them as they came, as
    far as they were noted; `skipped`: the spans in which lies what was too long to be read, `malformed`: those of what
    is malformed, where that is more than a few; `undated`: how many of those show no time; `strangers`: how many came
    that do not match; `arrived`: how many came live as well, so that they may have been stored before the page or have
    arrived while it was sent; `has_left_out`: the relay says that it left out others.
    """

    count: int
    oldest: int | None = None
    newest: int | None = None
    newer: int = 0
    older: int = 0
    times: tuple[int, ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()
    malformed: tuple[tuple[int, int], ...] = ()
    undated: int = 0
    strangers: int = 0
    arrived: int = 0
    has_left_out: bool = False

    @property
    def stored(self) -> int:
        """How many of what it returned were stored before it for sure, as far as what came live shows."""
        return self.returned - self.arrived

    @property
    def returned(self) -> int:
        """Everything that the relay's cap counts."""
        return self.count + self.newer + self.older + self.strangers

    def falls(self, settled: int) -> bool:
        """Whether it came newest first, but for what is newer than `settled` and may have arrived while it was sent."""
        return not self.rises(settled)

    def rises(self, settled: int) -> int:
        """Return how often a newer event came after an older one, but for what is newer than `settled`."""
        return sum(later > earlier for earlier, later in pairwise(at for at in self.times if at <= settled))

    def within(self, low: int, high: int) -> list[int]:
        """The times from `low` to `high` in order."""
        known = self.times or tuple(at for at in (self.oldest, self.newest) if at is not None)
        return sorted(at for at in known if low <= at <= high)


class Role(IntEnum):
    """Why a slice is asked for. Only a `PAGE` is required; of the others only what they show is lost with them."""

    PAGE = 0
    CONTROL = 1
    """Whether a part of the time that a page covers holds more than the page had of it."""
    CHECK = 2
    """By kinds, what was empty without."""
    SPAN = 3
    """Without kinds, a part of what was wrongly empty."""
    REST = 4
    """Without kinds, what no list names, of a relay that may refuse it for what it withholds."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a window still to be fetched: some members, maybe some of the kinds, from `low` to `high` (seconds).

    `begins`, `ends`: an event dated `low`, `high` was seen and must come again. `most`: the largest page of the spans
    that it was cut from, where these were cut since their pages could not be believed. `expected`: of a control, how
    many events the page had.
    """

    query: Query
    kinds: frozenset[int] | None
    low: int
    high: int
    role: Role = Role.PAGE
    begins: bool = False
    ends: bool = False
    most: int = 0
    expected: int = 0

    @property
    def is_kindless(self) -> bool:
        """Whether it asks for all kinds."""
        return self.kinds is None and self.query.kinds is None

    @property
    def is_second(self) -> bool:
        """Whether time divides it no further."""
        return self.low == self.high

    @property
    def form(self) -> str:
        """The shape of its filter: relays bound what they return differently by it."""
        return f"{self.query.subject}:{'any' if self.is_kindless else 'kinds'}"

    def between(self, low: int, high: int, *, begins: bool = False, ends: bool = False) -> "Slice":
        """The same over another time; what was a part of something wrongly empty stays so."""
        kept = Role.SPAN if self.role is Role.SPAN else Role.PAGE
        return Slice(self.query, self.kinds, low, high, kept, begins, ends, self.most)

    def piece(self, low: int, high: int, *, begins: bool = False, ends: bool = False) -> "Slice":
        """A part of it that keeps what was seen at the borders that both have."""
        begins |= self.begins and low == self.low
        return self.between(low, high, begins=begins, ends=ends or (self.ends and high == self.high))

    def outside(self, low: int, high: int) -> tuple["Slice", ...]:
        """What lies outside a span of time, the newest last."""
        if high < self.low or self.high < low:
            return (self,)
        pieces = ((self.low, low - 1), (high + 1, self.high))
        return tuple(self.between(first, last) for first, last in pieces if first <= last)

    def spans(self, most: int) -> tuple["Slice", ...]:
        """The slice, or if it is longer than what may be asked for at once, its newest part behind the rest.

        Both have the seconds at their border: some relays leave out the second of `since`, or of `until`.
        """
        most = max(most - 2 * _BORDER_S, _LEAST_SPAN_S)
        if self.high - self.low <= most:
            return (self,)
        cut = self.high - most
        older = replace(self, high=min(cut + 2 * _BORDER_S, self.high), ends=False)
        return older, replace(self, low=cut, begins=False)

    def halves(self) -> tuple["Slice", ...]:
        """The slice cut by kinds, else by members; empty when it cannot be cut any further."""
        kinds = sorted(self.kinds if self.kinds is not None else self.query.kinds or ())
        if len(kinds) > 1:
            parts = (
                [{kind} for kind in kinds] if len(kinds) <= 4 else [kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :]]
            )
            return tuple(Slice(self.query, frozenset(part), self.low, self.high) for part in parts)
        members = self.query.members
        if len(members) > 1:
            middle = len(members) // 2
            return tuple(
                Slice(self.query.of_members(part), self.kinds, self.low, self.high)
                for part in (members[:middle], members[middle:])
            )
        return ()

    def divided(self, result: PageResult, size: int) -> tuple["Slice", ...]:
        """The slice cut by time where its page had events, what is to be asked first at the end; empty for a second.

        Each piece had fewer of them than the whole, so that a page which has fewer than the relay returns is whole;
        `size` of them were cut off by nothing but its cap.
        Neighbours share a second where they can, in which an event was seen: a relay that leaves out the second named
        by `since` or `until` shows it there and loses nothing.
        """
        if self.is_second:
            return ()
        part = replace(self, role=Role.PAGE, most=max(self.most, size))
        seen = result.within(self.low, self.high)
        if not seen:
            middle = (self.low + self.high) // 2
            return part.piece(self.low, middle), part.piece(middle + 1, self.high)
        first, last = seen[0], seen[-1]
        inner = [at for at in seen if first < at < last]
        if inner:
            at = inner[len(inner) // 2]
            return part.piece(self.low, at, ends=True), part.piece(at, self.high, begins=True)
        # The second comes first: it shows how the relay reads both borders.
        pieces = (self.low, first - 1), (first + 1, self.high), (first, first)
        return tuple(
            part.piece(low, high, begins=low == high == first, ends=low == high == first)
            for low, high in pieces
            if low <= high
        )


def parted(slices: Iterable[Slice], first: AbstractSet[bytes]) -> tuple[list[Slice], list[Slice]]:
    """The same, cut by members: what does not name any of `first`, and what does, with few others at most."""
    behind: list[Slice] = []
    before: list[Slice] = []
    for part in slices:
        members = part.query.members
        named, others = members.split(first)
        if len(members) - len(named) <= MAX_COMPANIONS:
            (before if named else behind).append(part)
            continue
        behind.append(replace(part, query=part.query.of_members(others)))
        if named:
            before.append(replace(part, query=part.query.of_members(named)))
    return behind, before


@dataclass(frozen=True, slots=True)
class Manners:
    """What is known of how a relay answers pages; learned by one window and passed on to the next.

    `includes_since`: it was seen to return the second named by `since`; `pages`: shared with the relay's other windows;
    `compares`: it may be asked to compare sets (NIP-77).
    """

    excludes_until: bool = False
    excludes_since: bool = False
    includes_since: bool = False
    answers_kindless: bool = False
    pages: PageKnowledge = field(default_factory=PageKnowledge)
    max_kinds: int = MAX_MEMBERS
    max_span: int = MAX_SPAN_S
    """Seconds between `since` and `until`."""
    compares: bool = False
    refuses_kindless: bool = False
    notes_by_author: bool = False
    refused_kinds: frozenset[int] = frozenset()
    """Kinds that it refuses by name; they are left out."""
    has_holes: bool = False
    """Without kinds it leaves out events of this query."""
    names_all: bool = False
    """Such kinds as no list names are asked for by name as well, some hundred requests for one span."""
    is_live: bool = False
    """Live subscriptions bring what no list names."""
    asks_both: bool = False
    """It is not known whether it does, so that what names kinds is asked for as well."""
    finds_first_only: bool = False
    """Of several members it finds what the first one selects only."""
    withholds: bool = False
    """It refuses filters that select messages among other kinds."""
    gives_shown: bool = False
    """It gives all else that they select before it does."""
    withheld: frozenset[int] = frozenset()
    """Kinds that it was seen not to show us, so that they are not asked for."""
    believes_empty: bool = False
    """An empty answer is not checked by kinds."""
