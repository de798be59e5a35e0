"""One subscription of a session: what it asks for, what came of it, and how it ended."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum

from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import CONFIDENTIAL_KINDS, TEXT_NOTE
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.succession import RecentIds
from pipeline.relay.unread import UnreadSpans

# A relay may search long before its first event, but not pause as long between two.
FIRST_ANSWER_S = 30.0
NEXT_ANSWER_S = 10.0
# Times of a page that are kept, in the order in which they came; no relay seen returns as many at once.
MAX_TIMES = 5_000
# Ids of one page, or that came live beside it, that are compared.
_MAX_COMPARED = 2_000
# As few malformed events among so many as old archives hold are not reported.
_READ_PER_MALFORMED = 10
# Later than any time that an event has.
_NO_TIME = 1 << 62
LIVE_PREFIX = "L"
PAGE_PREFIX = "P"


@dataclass(frozen=True, slots=True)
class PageEnded:
    """A page is over; `refusal` is `None` when it is complete. Counts and times are of the events that match it.

    `newer` and `older` count those that match but for their time; `times` are those of all of them as they came.
    """

    key: str
    refusal: RelayRefusal | None
    detail: str
    count: int
    oldest: int | None
    newest: int | None
    newer: int = 0
    older: int = 0
    times: tuple[int, ...] = field(default=(), compare=False)
    ids: frozenset[bytes] = frozenset()
    """Which ids came of those asked for, where the page was one by ids, and of those watched for."""
    skipped: tuple[tuple[int, int], ...] = ()
    """From when to when (Unix seconds) lies what was too long to be read; counted like the rest."""
    malformed: tuple[tuple[int, int], ...] = ()
    """From when to when lies what is malformed, where that is more than a few; counted like the rest."""
    undated: int = 0
    """How many of those that were not read have a time that is not known."""
    strangers: int = 0
    """How many events came that do not match the page, whatever their time; the relay counts them to its limit."""
    is_after_auth: bool = False
    """Whether it was refused before we authenticated, and asked for again."""
    arrived: int = 0
    """How many of its events came live as well, while it was open: the relay may not count them to its limit."""
    has_left_out: bool = False
    """Whether the relay says that it left out some of the events that match."""


@dataclass(frozen=True, slots=True)
class LiveEnded:
    """A live subscription was ended by the relay, or never begun."""

    key: str
    refusal: RelayRefusal
    detail: str


class PendingAuth(Enum):
    """Why a subscription waits for the end of an AUTH to be asked for again."""

    REFUSED = "refused"
    ENDED = "ended"
    """It ended well, but perhaps with less than an authenticated client gets."""


@dataclass(slots=True)
class Subscription:
    """What is asked for under one id, in a request of `size` bytes, the `number`th of the connection.

    `beside`: how many were open with it then; `is_early`: the relay had answered nothing before.
    """

    id: str
    key: str
    filters: tuple[Filter, ...]
    last_at: float
    beside: int = 0
    patience: float = 1.0
    answered: bool = False
    answered_at: float | None = None
    """When the relay said something about it first."""
    is_complete: bool = False
    is_over: bool = False
    """The relay has ended it, so that no CLOSE is due: some take one too many for a mistake of ours."""
    count: int = 0
    oldest: int | None = None
    newest: int | None = None
    newer: int = 0
    older: int = 0
    hold: PendingAuth | None = None
    was_held: bool = False
    is_withheld: bool = False
    """The relay demanded AUTH for the sake of some of the events that it selects."""
    has_left_out: bool = False
    """It did so by saying that it left them out."""
    size: int = 0
    number: int = 0
    is_early: bool = False
    ids: set[bytes] = field(default_factory=set)
    strangers: int = 0
    undated: int = 0
    previous: "Subscription | None" = None
    """What is open at the relay under the same id until it takes this, as far as that is known."""
    copies: RecentIds | None = None
    """What came lately, where it replaced another under its id."""
    skipped: UnreadSpans = field(default_factory=UnreadSpans)
    malformed: UnreadSpans = field(default_factory=UnreadSpans)
    watched: frozenset[bytes] = frozenset()
    _came: set[bytes] = field(default_factory=set)
    _came_live: set[bytes] = field(default_factory=set)
    _last: int | None = None
    _times: list[int] = field(default_factory=list)
    _malformed_count: int = 0

    @property
    def is_page(self) -> bool:
        """Whether it asks for stored events only."""
        return self.id.startswith(PAGE_PREFIX)

    @property
    def asks_for_none(self) -> bool:
        """Whether it asks for no stored event, by `limit: 0`."""
        return not self.is_page and any(each.limit == 0 for each in self.filters)

    @property
    def is_kindless(self) -> bool:
        """Whether it asks for all kinds of some authors, or of what mentions somebody."""
        return any(each.kinds is None and (each.authors or each.tags) for each in self.filters)

    @property
    def selects_confidential(self) -> bool:
        """Whether it asks for direct messages among other kinds."""
        return any(
            each.ids is None and (each.kinds is None or not each.kinds.isdisjoint(CONFIDENTIAL_KINDS))
            for each in self.filters
            if each.kinds is None or not each.kinds <= CONFIDENTIAL_KINDS
        )

    @property
    def is_authorless(self) -> bool:
        """Whether it asks for notes, among others or alone, that mention somebody, whoever wrote them."""
        return any(
            each.tags and each.authors is None and (each.kinds is None or TEXT_NOTE in each.kinds)
            for each in self.filters
        )

    def names_kind(self, kinds: Collection[int]) -> bool:
        """Whether it asks for any of these kinds by name."""
        return any(each.kinds is not None and not each.kinds.isdisjoint(kinds) for each in self.filters)

    @property
    def deadline(self) -> float:
        """When the relay has been silent for too long."""
        return self.last_at + self.patience * (NEXT_ANSWER_S if self.answered else FIRST_ANSWER_S)

    def hear(self, now: float) -> None:
        """Note that the relay says something about it."""
        self.last_at = now
        if not self.answered:
            self.answered, self.answered_at = True, now

    def note_event(self, event: Event, now: float) -> bool:
        """Count an event; returns whether it was asked for."""
        if any(each.matches(event) for each in self.filters):
            self._note(event.created_at, now)
            self._note_id(event.id)
        elif self.is_page and replace(self.filters[0], since=None, until=None).matches(event):
            self._note_outside(event.created_at, now)
        else:
            if self.is_page:
                self.strangers += 1
            return False
        return True

    def note_time(self, created_at: int | None, now: float, event_id: bytes | None = None) -> None:
        """Count an event of which no more is known than its time and id, if that."""
        if event_id is not None:
            self._note_id(event_id)
        if created_at is not None and any(_spans(each, created_at) for each in self.filters):
            self._note(created_at, now)
        elif created_at is not None and self.is_page:
            self._note_outside(created_at, now)
        else:
            self.hear(now)
            self._note_undated()

    def note_malformed(self, created_at: int | None, now: float, event_id: bytes | None = None) -> None:
        """Count an event that is malformed, of which no more is known than its time and id, if that."""
        self._malformed_count += 1
        self.note_time(created_at, now, event_id)
        if created_at is None:
            self.malformed.add_undated(self._latest_possible)
        else:
            self.malformed.add(created_at, created_at)

    def note_live(self, event_id: bytes) -> None:
        """Note that an event came live while this page is open."""
        if len(self._came_live) < _MAX_COMPARED:
            self._came_live.add(event_id)

    def note_skipped(self, created_at: int | None, now: float, event_id: bytes | None = None) -> None:
        """Count an event that was too long to be read; where its time is not known it lies between its neighbours."""
        self.note_time(created_at, now, event_id)
        if created_at is None:
            self.skipped.add_undated(self._latest_possible)
        else:
            self.skipped.add(created_at, created_at)

    def refused(self, refusal: RelayRefusal, detail: str) -> PageEnded | LiveEnded:
        """Its end by the relay, or by our patience."""
        return self.ended(refusal, detail) if self.is_page else LiveEnded(self.key, refusal, detail)

    def ended(self, refusal: RelayRefusal | None = None, detail: str = "") -> PageEnded:
        """Its end as a page."""
        since = self.filters[0].since or 0
        self.skipped.on_end(since)
        self.malformed.on_end(since)
        return PageEnded(
            self.key,
            refusal,
            detail,
            self.count,
            self.oldest,
            self.newest,
            self.newer,
            self.older,
            tuple(self._times),
            frozenset(self.ids),
            tuple(self.skipped.spans),
            tuple(self.malformed.spans) if self._is_malformed else (),
            self.undated,
            self.strangers,
            self.was_held,
            len(self._came & self._came_live),
            self.has_left_out,
        )

    @property
    def _latest_possible(self) -> int:
        """The latest time that what comes next may have in an answer that falls."""
        if self._last is not None:
            return self._last
        until = self.filters[0].until
        return _NO_TIME if until is None else until

    @property
    def _is_malformed(self) -> bool:
        """Whether more of it is malformed than of an old archive."""
        others = self.count + self.newer + self.older + self.strangers - self._malformed_count
        return self._malformed_count * _READ_PER_MALFORMED > others

    def _note_id(self, event_id: bytes) -> None:
        is_asked = any(each.ids is not None and event_id in each.ids for each in self.filters)
        if is_asked or event_id in self.watched:
            self.ids.add(event_id)
        if self.is_page and len(self._came) < _MAX_COMPARED:
            self._came.add(event_id)

    def _note(self, created_at: int, now: float) -> None:
        self.hear(now)
        self.count += 1
        self.skipped.on_time(created_at)
        self.malformed.on_time(created_at)
        self._last = created_at
        self._note_order(created_at)
        if self.oldest is None or created_at < self.oldest:
            self.oldest = created_at
        if self.newest is None or created_at > self.newest:
            self.newest = created_at

    def _note_undated(self) -> None:
        """Count an event of unknown time, which takes a place in a page all the same."""
        if self.is_page:
            self.count += 1
            self.undated += 1

    def _note_outside(self, created_at: int, now: float) -> None:
        """Count an event that matches a page but for its time."""
        self.hear(now)
        self._note_order(created_at)
        until = self.filters[0].until
        if until is not None and created_at > until:
            self.newer += 1
        else:
            self.older += 1

    def _note_order(self, created_at: int) -> None:
        if self.is_page and len(self._times) < MAX_TIMES:
            self._times.append(created_at)


def _spans(wanted: Filter, created_at: int) -> bool:
    return (wanted.since is None or created_at >= wanted.since) and (wanted.until is None or created_at <= wanted.until)
