"""Which of the events that a sink was given a replay is about: by author, and by rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.event import Event
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.rules.relevance import Match, Relevance, Rule
from pipeline.store import authors, replays, wanted_authors
from pipeline.store.database import Database, Tx
from pipeline.store.events import FIRST_SEEN
from pipeline.store.replays import GivenEvent, ReplayScope

LOOK_ROWS: Final = 2_000
"""Rows of `seen` that one step looks at, some 10 ms; to note all of them to be fetched takes some 20."""


@dataclass(frozen=True, slots=True)
class ReplayCount:
    """How many events are still kept, and how many are to be fetched."""

    kept: int = 0
    not_kept: int = 0

    @property
    def total(self) -> int:
        """Return how many there are."""
        return self.kept + self.not_kept


class ReplaySelection:
    """Selection by the authors and rules of a scope. For the thread that made it.

    Of an event whose payload is kept, the rules count that were noted when it was saved. Of another one only kind and
    author are known until a relay has returned it; then the rules of today count.
    """

    def __init__(self, database: Database, scope: ReplayScope) -> None:
        self._rules = frozenset(map(Rule, scope.rules))
        with database.read() as tx:
            self._authors = {authors.find(tx, key) for key in scope.authors}
            self._wanted = wanted_authors.numbers(tx) if self._rules else set()
        self._relevance = Relevance()

    def may_select(self, given: GivenEvent) -> bool:
        """Return True unless the replay is not about this event."""
        if self._authors and given.author not in self._authors:
            return False
        if not self._rules:
            return True
        if given.rules is not None:
            return not self._rules.isdisjoint(given.rules.split())
        if Rule.MENTION in self._rules or (Rule.GLOBAL in self._rules and given.kind in GLOBAL_KINDS):
            return True
        return given.author in self._wanted and not self._rules.isdisjoint((Rule.USER, Rule.FOLLOWEE))

    def match(self, tx: Tx, event: Event, author: int) -> Match:
        """Return the rules of today that match an event."""
        if wanted_authors.latest_generation(tx) != self._relevance.generation:
            self._relevance.apply(wanted_authors.stream_since(tx, self._relevance.generation))
        is_followed = event.pubkey in self._relevance.registered and bool(wanted_authors.followed_users(tx, [author]))
        return self._relevance.match(event, is_followed_user=is_followed)

    def selects(self, match: Match) -> bool:
        """Return True if the replay is about events that match so; not about those that no rule matches any more."""
        return bool(match.rules) and (not self._rules or not self._rules.isdisjoint(match.rules))


def count(
    database: Database, scope: ReplayScope, selection: ReplaySelection, on_turn: Callable[[], None] = lambda: None
) -> ReplayCount:
    """Return how many events a replay is about; `on_turn` is called between the steps, which are short."""
    kept = not_kept = 0
    place, is_last = FIRST_SEEN, False
    while not is_last:
        on_turn()
        with database.read() as tx:
            _, place, is_last = step = replays.look(tx, scope, place, LOOK_ROWS)
        found = [each.is_kept for each in step.found if selection.may_select(each)]
        kept += sum(found)
        not_kept += len(found) - sum(found)
    return ReplayCount(kept, not_kept)
