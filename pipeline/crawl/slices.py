"""The parts of a window, and what a page of one brought."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Final

from pipeline.crawl.plan import MAX_MEMBERS, Query

# So few others come along with those who are asked for first: a request for them alone would cost more.
MAX_COMPANIONS: Final = 50


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
    UNANSWERED = "unanswered"
    OVERSIZED = "oversized"


# Those found page by page, each with its span.
PAGING_GAPS: Final = (
    Gap.DENSE_SECOND, Gap.IGNORES_TIMES, Gap.HIDDEN_KINDS, Gap.UNLISTED_KINDS, Gap.HOLES, Gap.WITHHELD,
    Gap.NOTES_BY_AUTHOR, Gap.OVERSIZED,
)  # fmt: skip
# Those of sweeps that cannot come to their end: the first that does closes them, since it goes on from the same cursor.
SWEEP_GAPS: Final = (Gap.NO_EOSE, Gap.REFUSED, Gap.UNANSWERED)


@dataclass(frozen=True, slots=True)
class PageResult:
    """What a page brought up to its EOSE: events that match it, valid or not, and their oldest and newest second.

    `newer` and `older` count those that match but for their time; `rises`: some came after an older one; `skipped`: the
    spans in which lies what was too long to be read; `undated`: how many of those show no time.
    """

    count: int
    oldest: int | None = None
    newest: int | None = None
    newer: int = 0
    older: int = 0
    rises: bool = False
    skipped: tuple[tuple[int, int], ...] = ()
    undated: int = 0

    @property
    def returned(self) -> int:
        """Everything that the relay's cap counts."""
        return self.count + self.newer + self.older

    @property
    def falls(self) -> bool:
        """Whether it surely came newest first."""
        return not self.rises and self.oldest != self.newest


class Role(IntEnum):
    """Why a slice is asked for."""

    PAGE = 0
    UPPER = 1
    """Whether events newer than a page's newest were left out, as by a relay that begins with the oldest."""
    CHECK = 2
    """By kinds, what was empty without."""
    SPAN = 3
    """Without kinds, a part of what was wrongly empty."""
    LOWER = 4
    """Whether events older than a page's oldest were left out after all, by a relay said to begin with the oldest."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a window still to be fetched: some members, maybe some of the kinds, from `low` to `high` (seconds).

    `repeats`: an event dated `high` was seen and must come again.
    """

    query: Query
    kinds: frozenset[int] | None
    low: int
    high: int
    role: Role = Role.PAGE
    repeats: bool = False

    @property
    def is_kindless(self) -> bool:
        """Whether it asks for all kinds."""
        return self.kinds is None and self.query.kinds is None

    def between(self, low: int, high: int, *, role: Role | None = None, repeats: bool = False) -> "Slice":
        """The same over another time; what was a part of something wrongly empty stays so."""
        kept = Role.SPAN if self.role is Role.SPAN else Role.PAGE
        return Slice(self.query, self.kinds, low, high, kept if role is None else role, repeats)

    def outside(self, low: int, high: int) -> tuple["Slice", ...]:
        """What lies outside a span of time, the newest last."""
        if high < self.low or self.high < low:
            return (self,)
        pieces = ((self.low, low - 1), (high + 1, self.high))
        return tuple(self.between(first, last) for first, last in pieces if first <= last)

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


def parted(slices: Iterable[Slice], first: AbstractSet[bytes]) -> tuple[list[Slice], list[Slice]]:
    """The same, cut by members: what does not name any of `first`, and what does, with few others at most."""
    behind: list[Slice] = []
    before: list[Slice] = []
    for part in slices:
        members = part.query.members
        named = [member for member in members if member.public_key in first]
        if len(members) - len(named) <= MAX_COMPANIONS:
            (before if named else behind).append(part)
            continue
        others = [member for member in members if member.public_key not in first]
        behind.append(replace(part, query=part.query.of_members(others)))
        if named:
            before.append(replace(part, query=part.query.of_members(named)))
    return behind, before


@dataclass(frozen=True, slots=True)
class Manners:
    """What is known of how a relay answers pages; learned by one window and passed on to the next."""

    excludes_until: bool = False
    oldest_first: bool = False
    answers_kindless: bool = False
    largest_page: int = 0
    refuses_kindless: bool = False
    notes_by_author: bool = False
    max_kinds: int = MAX_MEMBERS
    refused_kinds: frozenset[int] = frozenset()
    """Kinds that it refuses by name; they are left out."""
    has_holes: bool = False
    """Without kinds it leaves out events of this query."""
    asks_both: bool = False
    """It is not known whether it does, so that what names kinds is asked for as well."""
    finds_first_only: bool = False
    """Of several members it finds what the first one selects only."""
    withholds: bool = False
    """It refuses filters that select messages among other kinds."""
    withheld: frozenset[int] = frozenset()
    """Kinds that it was seen not to show us, so that they are not asked for."""
    believes_empty: bool = False
    """An empty answer is not checked by kinds."""
