"""What every relay is asked for: one set of queries, cut so that a small change of what is wanted changes little.

Members (authors, or registered users for mentions) are cut into chunks by the leading bits of their keys. A chunk
that grows too large is split in two by one more bit; all others stay as they are, and so do the subscriptions and
cursors that go by their names. A chunk is named by its bits, so that a new chunk finds the cursor of the one that it
was cut from.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import CONTACTS, GLOBAL_KINDS, METADATA, RELAY_LIST
from pipeline.store.wanted import Change, Changes

# A key costs 67 bytes of JSON and relays refuse filters with too many; 250 stays well inside every limit seen.
MAX_MEMBERS = 250
PROFILE_KINDS = frozenset({METADATA, CONTACTS, RELAY_LIST})


class Subject(StrEnum):
    """What a query asks about; the first part of its key."""

    GLOBAL = "global"
    AUTHORS = "authors"
    MENTIONS = "mentions"
    PROFILES = "profiles"


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody whom a query names, wanted since `since` (seconds) by change number `generation`."""

    public_key: bytes
    since: int
    generation: int


@dataclass(frozen=True, slots=True)
class Query:
    """One thing that each relay is asked for, whatever the time span."""

    subject: Subject
    prefix: str
    members: tuple[Member, ...] = ()

    @property
    def key(self) -> str:
        """The name under which cursors and subscriptions know the query."""
        return f"{self.subject}/{self.prefix}"

    @property
    def is_live(self) -> bool:
        """Whether the query is subscribed to and kept complete; profiles are only looked back for."""
        return self.subject is not Subject.PROFILES

    @property
    def kinds(self) -> frozenset[int] | None:
        """The kinds asked for, `None` for all."""
        match self.subject:
            case Subject.GLOBAL:
                return GLOBAL_KINDS
            case Subject.PROFILES:
                return PROFILE_KINDS
            case _:
                return None

    @property
    def generation(self) -> int:
        """The newest change among the members."""
        return max((member.generation for member in self.members), default=0)

    def of_members(self, members: Iterable[Member]) -> "Query":
        """The same query about only some members."""
        return Query(self.subject, self.prefix, tuple(members))

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
        keys = frozenset(member.public_key for member in self.members)
        mentions = self.subject is Subject.MENTIONS
        return Filter(
            authors=None if mentions or self.subject is Subject.GLOBAL else keys,
            tags=(("p", frozenset(key.hex() for key in keys)),) if mentions else (),
            kinds=self.kinds if kinds is None else kinds,
            since=since,
            until=until,
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All queries, complete for every change up to `generation`."""

    generation: int
    queries: tuple[Query, ...]


GLOBAL_QUERY = Query(Subject.GLOBAL, "")


@dataclass(slots=True)
class Planner:
    """Keeps the plan up with changes of what is wanted. Owned by one thread; does no I/O."""

    generation: int = 0
    _authors: dict[bytes, Member] = field(default_factory=dict)
    _registered: dict[bytes, Member] = field(default_factory=dict)

    def apply(self, changes: Changes) -> None:
        """Take `changes`, which must begin after `generation`."""
        _apply(self._authors, changes.authors)
        _apply(self._registered, changes.registered)
        self.generation = changes.generation

    def plan(self) -> Plan:
        """The queries for what is wanted now."""
        profiles = [Query(Subject.PROFILES, prefix, chunk) for prefix, chunk in chunks(self._registered)]
        mentions = [Query(Subject.MENTIONS, prefix, chunk) for prefix, chunk in chunks(self._registered)]
        authors = [Query(Subject.AUTHORS, prefix, chunk) for prefix, chunk in chunks(self._authors)]
        # First things first: a new user's contact list decides what else is wanted.
        return Plan(self.generation, (*profiles, GLOBAL_QUERY, *mentions, *authors))


def chunks(members: Mapping[bytes, Member]) -> Iterator[tuple[str, tuple[Member, ...]]]:
    """Cut `members` into chunks of at most `MAX_MEMBERS`, each with the bits that its keys begin with."""
    ordered = [members[key] for key in sorted(members)]
    if ordered:
        yield from _split(ordered, "")


def _split(members: list[Member], prefix: str) -> Iterator[tuple[str, tuple[Member, ...]]]:
    if len(members) <= MAX_MEMBERS:
        yield prefix, tuple(members)
        return
    byte, shift = len(prefix) // 8, 7 - len(prefix) % 8
    for bit in (0, 1):
        half = [member for member in members if member.public_key[byte] >> shift & 1 == bit]
        if half:
            yield from _split(half, prefix + str(bit))


def _apply(members: dict[bytes, Member], changes: Iterable[Change]) -> None:
    for change in changes:
        if change.wanted:
            members[change.public_key] = Member(change.public_key, change.since // 1000, change.generation)
        else:
            members.pop(change.public_key, None)
