"""Everything that a relay holds about one key in one span, however few events it returns at once. Pure.

The crawl relies on the order of a page, on cursors and on comparisons; a proof must not. It relies on one fact: *a page
with fewer events than the relay returned to another filter of the same form was not cut off.* So the span is halved,
at the median of what came, until each page is smaller than the largest page of its form, or has so few events that no
relay cuts there.

A form of filter may be answered with holes: some relays return nothing to filters without kinds, and some leave kinds
out of an answer about a mention. So until a relay has shown that its answer without kinds is whole, the kinds that are
used most are asked for by name as well:

| without kinds | by name | then |
|---|---|---|
| some events | nothing else | `WHOLE`: no filter of this subject names kinds any more |
| anything | an event that the other did not have | `HOLES`: from now on all known kinds are asked for by name |
| nothing | nothing | not known yet |
| refused for lack of kinds, or full of what was not asked for | | `HOLES` |

A part of the walk is a span and perhaps kinds. Its page is followed by:

| the page | then |
|---|---|
| is small enough | nothing |
| may be cut off, and is mostly not what was asked for | by name; of kinds, unproven |
| may be cut off | its halves; of one second, its kinds in parts, and others are unproven |
| may be cut off, of one kind in one second | unproven |
| is refused | unproven |

Each second is asked for with its neighbours, as some relays read `since` or `until` as exclusive. Where an answer
without kinds has holes, kinds that no NIP defines are not found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pipeline.crawl.sync.asked_kinds import HIDDEN_KINDS, LISTED_KINDS
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import (
    CONTACTS,
    DELETION,
    GENERIC_REPOST,
    METADATA,
    REACTION,
    RELAY_LIST,
    REPORT,
    REPOST,
    TEXT_NOTE,
)
from pipeline.printable import count_of

LEAST_CAP: Final = 5
"""No relay returns so few events for a larger limit."""
PAGE_LIMIT: Final = 500
MAX_PAGES: Final = 400
"""Of one walk; what is left then is unproven."""
# Some stores answer a filter with more kinds as if they had nothing.
KINDS_PER_FILTER: Final = 10
_ZAP: Final = 9735
_COMMON_KINDS: Final = frozenset(
    {METADATA, TEXT_NOTE, CONTACTS, DELETION, REPOST, REACTION, GENERIC_REPOST, REPORT, _ZAP, RELAY_LIST}
)


class Aspect(StrEnum):
    """What a walk asks for."""

    AUTHOR = "author"
    MENTION = "mention"


class Kindless(StrEnum):
    """How a relay answers filters without kinds."""

    UNKNOWN = "unknown"
    WHOLE = "whole"
    HOLES = "holes"


@dataclass(slots=True)
class FormHabits:
    """What the walks about one subject have shown of one relay."""

    kindless: Kindless = Kindless.UNKNOWN
    largest: dict[str, int] = field(default_factory=dict)
    """The largest page by form of filter."""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything by an author, or that mentions a user, from `since` to `until` (Unix seconds, both included)."""

    subject: Aspect
    key: bytes
    since: int
    until: int

    @property
    def name(self) -> str:
        """The name by which its answer is kept."""
        return f"{self.subject}:{self.key.hex()}"

    def filter(self, *, kinds: frozenset[int] | None = None, span: tuple[int, int] | None = None) -> Filter:
        """Return the filter for some kinds and a part of its span."""
        since, until = span or (self.since, self.until)
        if self.subject is Aspect.AUTHOR:
            return Filter(authors=frozenset({self.key}), kinds=kinds, since=since, until=until)
        return Filter(tags=(("p", frozenset({self.key.hex()})),), kinds=kinds, since=since, until=until)

    def selects(self, event: Event) -> bool:
        """Return True if the event is part of the answer."""
        return self.filter().matches(event)


@dataclass(frozen=True, slots=True)
class Unproven:
    """A span of which the relay may hold more than it returned, and why."""

    since: int
    until: int
    why: str


@dataclass(frozen=True, slots=True)
class Part:
    """What one page asks for."""

    low: int
    high: int
    kinds: frozenset[int] | None = None

    @property
    def form(self) -> str:
        """The form of its filter, which a relay's cap goes by."""
        return "kindless" if self.kinds is None else "kinds"

    def divided(self, times: Sequence[int]) -> "tuple[Part, ...]":
        """Return its parts, the newest last; none if nothing divides it. `times`: those of its page, in order."""
        if self.low < self.high:
            middle = times[len(times) // 2] if times else (self.low + self.high) // 2
            middle = max(self.low, min(middle, self.high - 1))
            return (Part(self.low, middle, self.kinds), Part(middle + 1, self.high, self.kinds))
        if self.kinds is None:
            return tuple(Part(self.low, self.high, kinds) for kinds in (HIDDEN_KINDS, *_groups(LISTED_KINDS)))
        if len(self.kinds) == 1:
            return ()
        half = -(-len(self.kinds) // 2)
        return tuple(Part(self.low, self.high, kinds) for kinds in _groups(self.kinds, half))


class Walk:
    """One question to one relay: `part` is to be asked for next, `take` or `refuse` is told of its page."""

    __slots__ = ("_by_name", "_knowledge", "_parts", "_without", "events", "pages", "question", "unproven")

    def __init__(self, question: Question, knowledge: FormHabits) -> None:
        self.question = question
        self.events: dict[bytes, Event] = {}
        """What came and is part of the answer, by id; neither verified nor compared."""
        self.unproven: list[Unproven] = []
        self.pages = 0
        self._knowledge = knowledge
        self._parts: list[Part] = []
        # Ids by how they were asked for; the second while that is compared with the first.
        self._without: set[bytes] = set()
        self._by_name: set[bytes] = set()
        if knowledge.kindless is Kindless.HOLES:
            self._ask_by_name()
        elif knowledge.kindless is Kindless.UNKNOWN:
            self._parts.append(self._whole(_COMMON_KINDS))
        if knowledge.kindless is not Kindless.HOLES:
            self._parts.append(self._whole(None))

    @property
    def part(self) -> Part | None:
        """What to ask for now; None once the walk is at its end."""
        return self._parts[-1] if self._parts else None

    def filter(self) -> Filter:
        """Return the filter of the page to ask for now, without a limit."""
        part = self._parts[-1]
        return self.question.filter(kinds=part.kinds, span=(max(0, part.low - 1), part.high + 1))

    def take(self, returned: int, events: Iterable[Event]) -> None:
        """Take the page, which came to its EOSE: `returned` events in all, and those that match its filter."""
        part = self._parts.pop()
        self.pages += 1
        page = list(events)
        came = self.keep(page)
        (self._without if part.kinds is None else self._by_name).update(event.id for event in came)
        known = self._knowledge.largest.get(part.form, 0)
        self._knowledge.largest[part.form] = max(known, returned)
        if returned >= LEAST_CAP and returned >= known:
            self._divide(part, returned, sorted(event.created_at for event in page))
        self._bound()
        if not self._parts:
            self._judge_form()

    def keep(self, events: Iterable[Event]) -> list[Event]:
        """Keep what is part of the answer, and return it."""
        came = [event for event in events if self.question.selects(event)]
        self.events.update((event.id, event) for event in came)
        return came

    def refuse(self, why: str, *, lacks_kinds: bool = False) -> None:
        """Note that the page was refused, or broke off; `lacks_kinds`: since it names none."""
        part = self._parts.pop()
        self.pages += 1
        if not (lacks_kinds and part.kinds is None and self._go_by_name()):
            self.unproven.append(Unproven(part.low, part.high, why))

    def abandon(self, why: str) -> None:
        """End the walk; what it did not come to is unproven."""
        if self._parts:
            self.unproven.append(
                Unproven(min(each.low for each in self._parts), max(each.high for each in self._parts), why)
            )
            self._parts.clear()

    def _divide(self, part: Part, returned: int, times: Sequence[int]) -> None:
        if 2 * len(times) < returned:
            if part.kinds is not None or not self._go_by_name():
                self.unproven.append(Unproven(part.low, part.high, "most of a page was not asked for"))
            return
        pieces = part.divided(times)
        self._parts.extend(pieces)
        if not pieces:
            self.unproven.append(
                Unproven(part.low, part.high, f"{count_of(returned, 'event')} of one kind in one second")
            )
        elif part.low == part.high and part.kinds is None:
            self.unproven.append(
                Unproven(part.low, part.high, f"{count_of(returned, 'event')} in one second: other kinds")
            )

    def _bound(self) -> None:
        if self.pages >= MAX_PAGES:
            self.abandon(f"more than {MAX_PAGES} pages")

    def _judge_form(self) -> None:
        """Find out at the end whether the answer without kinds was whole; if not, go on by name."""
        if self._knowledge.kindless is not Kindless.UNKNOWN:
            return
        more = [self.events[event_id].created_at for event_id in self._by_name - self._without]
        if any(not any(part.since <= at <= part.until for part in self.unproven) for at in more):
            self._go_by_name()
        elif self._without:
            self._knowledge.kindless = Kindless.WHOLE

    def _go_by_name(self) -> bool:
        """Ask for everything by kinds from now on; return False if that is done already."""
        if self._knowledge.kindless is Kindless.HOLES:
            return False
        self._knowledge.kindless = Kindless.HOLES
        self._parts.clear()
        self._ask_by_name()
        return True

    def _ask_by_name(self) -> None:
        # Direct messages by themselves, as some relays refuse a filter for their sake.
        self._parts += [self._whole(kinds) for kinds in (HIDDEN_KINDS, *_groups(LISTED_KINDS))]

    def _whole(self, kinds: frozenset[int] | None) -> Part:
        return Part(self.question.since, self.question.until, kinds)


def _groups(kinds: frozenset[int], size: int = KINDS_PER_FILTER) -> list[frozenset[int]]:
    ordered = sorted(kinds)
    return [frozenset(ordered[first : first + size]) for first in range(0, len(ordered), size)]
