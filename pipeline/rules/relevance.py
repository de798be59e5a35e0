"""Which events are relevant: the one implementation of the rules, for crawlers and saver."""

from collections.abc import Container
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from pipeline.nostr.event import Event
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.tags import public_keys
from pipeline.store.wanted_authors import WantedChanges

# A contact list may mention any number of users. One more than the 15 that an attribute has room for, so that a sink
# can tell that its list is cut.
MAX_MENTIONS: Final = 16


class Rule(StrEnum):
    """Why an event is relevant: its kind, its author, or whom it mentions. The names are those in the database."""

    GLOBAL = "global"
    USER = "user"
    FOLLOWEE = "followee"
    MENTION = "mention"


class Match(NamedTuple):
    """All rules that an event matches, and the first `MAX_MENTIONS` registered users in its `p` tags, as hex."""

    rules: tuple[Rule, ...]
    mentions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose events are wanted after change number `generation`."""

    generation: int
    authors: Container[bytes]
    registered: AbstractSet[bytes]
    has_ceased: bool
    """True if anybody ceased to be wanted since the one before, for good or for a while, or may have at home."""


class Relevance:
    """Registered users and wanted authors, in memory. Owned by one thread.

    Either it keeps sets of its own (about 100 bytes each) up with changes, or it follows what others keep.
    """

    __slots__ = ("_own", "_own_hex", "authors", "generation", "registered")

    def __init__(self) -> None:
        self.generation = 0
        self._own: tuple[set[bytes], set[bytes]] = set(), set()
        # Registered users as tags name them.
        self._own_hex: set[str] = set()
        self.authors: Container[bytes] = self._own[0]
        self.registered: AbstractSet[bytes] = self._own[1]

    def follow(self, wanted: Wanted) -> None:
        """Go by what others keep from now on."""
        self.generation, self.authors, self.registered = wanted.generation, wanted.authors, wanted.registered

    def apply(self, changes: WantedChanges) -> bool:
        """Apply `changes`, which must begin after `generation`; return True if any author ceased to be wanted."""
        self.generation = changes.generation
        removed = False
        authors, registered = self._own
        for change in changes.authors:
            # A member that changed was not wanted for a while.
            removed |= change.public_key in authors
            (authors.add if change.wanted else authors.discard)(change.public_key)
        for change in changes.registered:
            removed |= change.public_key in registered
            (registered.add if change.wanted else registered.discard)(change.public_key)
            (self._own_hex.add if change.wanted else self._own_hex.discard)(change.public_key.hex())
        return removed

    def is_of_stranger(self, event: Event) -> bool:
        """Return True if `event` is of a global kind, and its author is neither a user nor followed by one."""
        return event.kind in GLOBAL_KINDS and event.pubkey not in self.authors

    def rule(self, event: Event) -> Rule | None:
        """Return the first rule by which `event` is relevant; `None` if it is not."""
        if event.kind in GLOBAL_KINDS:
            return Rule.GLOBAL
        if event.pubkey in self.authors:
            return Rule.USER if event.pubkey in self.registered else Rule.FOLLOWEE
        if self.registered and not self.registered.isdisjoint(public_keys(event)):
            return Rule.MENTION
        return None

    def match(self, event: Event, *, is_followed_user: bool) -> Match:
        """Return all rules that `event` matches; for one who keeps sets of its own.

        `is_followed_user`: its author is a registered user, and is in the contact list of another.
        """
        rules: list[Rule] = []
        if event.pubkey in self.registered:
            rules.append(Rule.USER)
        if is_followed_user or (not rules and event.pubkey in self.authors):
            rules.append(Rule.FOLLOWEE)
        users = self._own_hex
        mentioned = [tag[1] for tag in event.tags if len(tag) > 1 and tag[0] == "p" and tag[1] in users]
        if mentioned:
            rules.append(Rule.MENTION)
        if event.kind in GLOBAL_KINDS:
            rules.append(Rule.GLOBAL)
        return Match(tuple(rules), tuple(dict.fromkeys(mentioned))[:MAX_MENTIONS] if mentioned else ())
