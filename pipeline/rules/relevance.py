"""Which events are relevant: the one implementation of the rules, for crawlers and saver."""

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


class Relevance:
    """Registered users and wanted authors, in memory (about 100 bytes each). Owned by one thread."""

    __slots__ = ("authors", "generation", "registered")

    def __init__(self) -> None:
        self.generation = 0
        self.authors: set[bytes] = set()
        self.registered: set[bytes] = set()

    def apply(self, changes: WantedChanges) -> bool:
        """Apply `changes`, which must begin after `generation`; return True if any author ceased to be wanted."""
        self.generation = changes.generation
        removed = False
        for members, changed in ((self.authors, changes.authors), (self.registered, changes.registered)):
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
