"""One thing that a relay is asked for: about whom, and which kinds. Cursors and subscriptions go by its name."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.crawl.sync.asked_kinds import ALL_KINDS, LISTED_KINDS, PROFILE_KINDS
from pipeline.crawl.sync.members import NO_MEMBERS, Member, Members
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GIFT_WRAP, GLOBAL_KINDS, RELAY_LIST, TEXT_NOTE
from pipeline.relay.limits import RelayLimits

# What the names of queries for what users write begin with; no chunk of the plan has it.
USERS = "~"
# Between the tier in the name of a chunk and its bits; the first tier has no mark.
_TIER_MARK = "."


class Subject(StrEnum):
    """What a query asks about; the first part of its key."""

    GLOBAL = "global"
    AUTHORS = "authors"
    MENTIONS = "mentions"
    GIFT_WRAPS = "gift-wraps"
    """Those mentions that are dated long before they are published."""
    PROFILES = "profiles"
    RELAY_LISTS = "relay-lists"
    """Where wanted authors are to be found, however long ago they said so; asked of few relays, once."""
    FIREHOSE = "whole"
    """Everything that a relay has; what is wanted of it is found here."""


# Subjects that are not subscribed to.
_LOOKED_BACK_FOR = frozenset({Subject.PROFILES, Subject.RELAY_LISTS, Subject.GIFT_WRAPS})
# Subjects that name whom events mention.
BY_TAG = frozenset({Subject.MENTIONS, Subject.GIFT_WRAPS})


@dataclass(frozen=True, slots=True)
class Query:
    """One thing that each relay is asked for, whatever the time span."""

    subject: Subject
    prefix: str
    members: Members = NO_MEMBERS
    generation: int = field(default=0, compare=False)
    """The newest change among the members, found where it is not given; of what names none, what it is to cover."""
    key: str = field(init=False, compare=False)
    """The name under which cursors and subscriptions know the query."""
    # Asked for every query of every relay each time that something may be due.
    tier: int = field(init=False, compare=False, repr=False)
    """How late its members became wanted; 0 for those who come before all others."""
    is_live: bool = field(init=False, compare=False, repr=False)
    """Whether it is subscribed to and kept complete; others are only looked back for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.subject}/{self.prefix}")
        mark = self.prefix.find(_TIER_MARK)
        object.__setattr__(self, "tier", int(self.prefix[mark - 1]) if mark > 0 else 0)
        object.__setattr__(self, "is_live", self.subject not in _LOOKED_BACK_FOR)
        if self.members and not self.generation:
            object.__setattr__(self, "generation", self.members.newest)

    @property
    def bits(self) -> str:
        """Return the bits that the keys of its members begin with."""
        return self.prefix[self.prefix.find(_TIER_MARK) + 1 :]

    @property
    def is_planned(self) -> bool:
        """Whether it is one of a plan's chunks, rather than of authors that an operator named."""
        return not self.prefix.startswith("*")

    @property
    def kinds(self) -> frozenset[int] | None:
        """The kinds asked for, `None` for all."""
        match self.subject:
            case Subject.GLOBAL:
                return GLOBAL_KINDS
            case Subject.PROFILES:
                return PROFILE_KINDS
            case Subject.RELAY_LISTS:
                return frozenset({RELAY_LIST})
            case Subject.GIFT_WRAPS:
                return frozenset({GIFT_WRAP})
            case _:
                return None

    def named_kinds(self, *, kindless: bool, notes_by_author: bool, shown_only: bool = False) -> frozenset[int] | None:
        """The kinds to name to a relay that refuses filters without kinds, or notes without authors; `None`: its own.

        `shown_only`: without those that are shown to some only. Not all that there are: what is missing must be told.
        """
        kinds = LISTED_KINDS if shown_only else ALL_KINDS
        if self.subject is Subject.MENTIONS and notes_by_author:
            return kinds - {TEXT_NOTE}
        return kinds if (kindless or shown_only) and self.kinds is None else None

    def of_members(self, members: Iterable[Member]) -> "Query":
        """The same query about only some members."""
        return Query(self.subject, self.prefix, Members.of(members))

    def most_members(self, limits: RelayLimits) -> int:
        """How many members a filter for this query may name to a relay."""
        most = limits.max_tag_values if self.subject in BY_TAG else limits.max_authors
        return min(most, limits.members_that_fit)

    def parts(self, most: int) -> "list[Query]":
        """The same query cut so that none names more than `most` members."""
        if len(self.members) <= most:
            return [self]
        return [self.of_members(self.members[i : i + most]) for i in range(0, len(self.members), most)]

    def filter(
        self,
        *,
        kinds: frozenset[int] | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Filter:
        """The filter for a span of time (seconds, both ends included); `kinds` narrows those of the query."""
        by_author = self.subject in (Subject.AUTHORS, Subject.PROFILES, Subject.RELAY_LISTS)
        return Filter(
            authors=self.members.key_set if by_author else None,
            tags=(("p", self.members.hex_keys),) if self.subject in BY_TAG else (),
            kinds=self.kinds if kinds is None else kinds,
            since=since,
            until=until,
            limit=limit,
        )


GLOBAL_QUERY = Query(Subject.GLOBAL, "")
FIREHOSE_QUERY = Query(Subject.FIREHOSE, "")


def tier_mark(tier: int) -> str:
    """Return what the names of chunks of a tier begin with."""
    return f"{tier}{_TIER_MARK}" if tier else ""
