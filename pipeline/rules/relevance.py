"""Which events are relevant: the one implementation of the rules, for crawlers and saver."""

from collections.abc import Container
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from pipeline.nostr.event import Event
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.tags import public_keys
from pipeline.store.wanted_authors import WantedChanges


class Rule(StrEnum):
    """Why an event is relevant; the first that applies."""

    GLOBAL_KIND = "global-kind"
    AUTHOR = "author"
    MENTION = "mention"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose events are wanted after change number `generation`."""

    generation: int
    authors: Container[bytes]
    registered: AbstractSet[bytes]
    has_ceased: bool
    """True if anybody ceased to be wanted since the one before, for good or for a while."""


class Relevance:
    """Registered users and wanted authors, in memory. Owned by one thread.

    Either it keeps sets of its own (about 100 bytes each) up with changes, or it follows what others keep.
    """

    __slots__ = ("_own", "authors", "generation", "registered")

    def __init__(self) -> None:
        self.generation = 0
        self._own: tuple[set[bytes], set[bytes]] = set(), set()
        self.authors: Container[bytes] = self._own[0]
        self.registered: AbstractSet[bytes] = self._own[1]

    def follow(self, wanted: Wanted) -> None:
        """Go by what others keep from now on."""
        self.generation, self.authors, self.registered = wanted.generation, wanted.authors, wanted.registered

    def apply(self, changes: WantedChanges) -> bool:
        """Apply `changes`, which must begin after `generation`; return True if any author ceased to be wanted."""
        self.generation = changes.generation
        removed = False
        for members, changed in zip(self._own, (changes.authors, changes.registered), strict=True):
            for change in changed:
                # A member that changed was not wanted for a while.
                removed |= change.public_key in members
                if change.wanted:
                    members.add(change.public_key)
                else:
                    members.discard(change.public_key)
        return removed

    def is_of_stranger(self, event: Event) -> bool:
        """Return True if `event` is of a global kind, and its author is neither a user nor followed by one."""
        return event.kind in GLOBAL_KINDS and event.pubkey not in self.authors

    def rule(self, event: Event) -> Rule | None:
        """Return the rule by which `event` is relevant; `None` if it is not."""
        if event.kind in GLOBAL_KINDS:
            return Rule.GLOBAL_KIND
        if event.pubkey in self.authors:
            return Rule.AUTHOR
        if self.registered and not self.registered.isdisjoint(public_keys(event)):
            return Rule.MENTION
        return None
