"""Controls: events that a relay gave by itself, of which those are chosen that tell the most of a form. Pure."""

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

from pipeline.crawl.sync.asked_kinds import HIDDEN_KINDS
from pipeline.crawl.sync.forms.forms import Form, Reach
from pipeline.crawl.sync.query import Subject
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS, TEXT_NOTE, is_ephemeral, is_replaceable
from pipeline.nostr.tags import expiration, first_values

# Events remembered, some 200 bytes each; enough for two of them to share a value.
MAX_KEPT: Final = 256
# Events asked for where none came by itself.
SEARCH_LIMIT: Final = 60
# The kinds with the most mentions, no more of them than any relay takes in a filter.
SEARCHED_LOW: Final = frozenset({1, 3, 6, 7, 16, 1111, 1984, 9735})
SEARCHED_HIGH: Final = frozenset({30000, 30001, 30003, 30008, 30009, 30023, 30311, 30315, 39000, 39089})
_KEY: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Control:
    """An event that the relay gave, as far as filters select by it. `mention`: the first key that it names."""

    id: bytes
    author: bytes
    kind: int
    created_at: int
    mention: str | None


class Controls:
    """The latest events of one relay that serve as controls."""

    def __init__(self) -> None:
        self._kept: deque[Control] = deque(maxlen=MAX_KEPT)

    def note(self, event: Event) -> None:
        """Take note of an event that the relay gave; passes over what it need not store or show."""
        if is_ephemeral(event.kind) or event.kind in HIDDEN_KINDS or expiration(event) is not None:
            return
        mention = next((value for value in first_values(event, "p") if _KEY.fullmatch(value)), None)
        self._kept.append(Control(event.id, event.pubkey, event.kind, event.created_at, mention))

    def has_of(self, reach: Reach) -> bool:
        """Return True if the relay gave an event that a search for `reach` selects."""
        searched = search(reach)
        return any(each.kind in (searched.kinds or ()) for each in self._kept)

    def spend(self, control: Control) -> None:
        """Pass over a control from now on: it is gone, or its second is too full to prove anything."""
        self._kept = deque((each for each in self._kept if each.id != control.id), maxlen=MAX_KEPT)

    def best(self, form: Form, *, without_notes: bool) -> Control | None:
        """Return the control to check `form` with, `None` if there is none; `without_notes`: none of kind 1."""
        fitting = [
            each
            for each in self._kept
            if form.reach.includes(each.kind)
            and (form.subject is not Subject.MENTIONS or each.mention is not None)
            and (form.subject is not Subject.GLOBAL or each.kind in GLOBAL_KINDS)
            and not (without_notes and each.kind == TEXT_NOTE)
        ]
        if form.reach is Reach.MIXED:
            fitting = self._with_older_above(fitting)
        # What is replaced, or lists thousands of keys of which a store may index some, is the second choice.
        return min(fitting, key=lambda each: (is_replaceable(each.kind), each.kind, each.created_at), default=None)

    def _with_older_above(self, controls: list[Control]) -> list[Control]:
        """Return those whose value also selects an older event of a higher kind."""
        oldest: dict[str | None, dict[int, int]] = {}
        for each in self._kept:
            if Reach.LOW.includes(each.kind):
                by_kind = oldest.setdefault(each.mention, {})
                by_kind[each.kind] = min(each.created_at, by_kind.get(each.kind, each.created_at))
        return [
            control
            for control in controls
            if any(
                kind > control.kind and created_at < control.created_at - 1
                for kind, created_at in oldest.get(control.mention, {}).items()
            )
        ]


def search(reach: Reach) -> Filter:
    """Return the filter that asks for events to serve as controls."""
    return Filter(kinds=SEARCHED_HIGH if reach is Reach.HIGH else SEARCHED_LOW, limit=SEARCH_LIMIT)
