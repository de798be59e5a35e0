"""One connection's subscriptions, as a state machine without I/O or clock (NIP-01, section "Communication").

The owner opens live subscriptions and pages, sends what `outgoing` holds, feeds every message in, and acts on what
comes back: a page ends complete, at its EOSE and only then, or incomplete with the reason. Times are monotonic
seconds.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import (
    AuthChallenge,
    Closed,
    Eose,
    Notice,
    NoticeType,
    RelayMessage,
    classify_notice,
    encode_close,
    encode_req,
)
from pipeline.nostr.notices import reason_prefix
from pipeline.relay.limits import Limits
from pipeline.relay.refusals import Refusal, classify

# A relay may search long before its first event, but not pause as long between two.
FIRST_ANSWER_S = 30.0
NEXT_ANSWER_S = 10.0
# More stored events than this before the EOSE of `limit: 0`, and the relay takes 0 for no limit.
MAX_UNASKED_STORED = 500
# What a relay drops without a word is taken for a limit on subscriptions; for one of this only once that was learned.
_LEAST_BY_SILENCE = 2
LIVE_PREFIX = "L"
PAGE_PREFIX = "P"


@dataclass(frozen=True, slots=True)
class PageEnded:
    """A page is over; `refusal` is `None` when it is complete. Counts and times are of the events that match it.

    `newer` and `older` count those that match but for their time; `rises`: some event came after an older one.
    """

    key: str
    refusal: Refusal | None
    detail: str
    count: int
    oldest: int | None
    newest: int | None
    newer: int = 0
    older: int = 0
    rises: bool = False


@dataclass(frozen=True, slots=True)
class LiveEnded:
    """A live subscription was ended by the relay, or never begun."""

    key: str
    refusal: Refusal
    detail: str


@dataclass(frozen=True, slots=True)
class Challenged:
    """The relay sent an AUTH challenge (NIP-42)."""

    challenge: str


Outcome = PageEnded | LiveEnded | Challenged


@dataclass(slots=True)
class _Subscription:
    id: str
    key: str
    filters: tuple[Filter, ...]
    last_at: float
    beside: int = 0
    room: int = 0
    patience: float = 1.0
    answered: bool = False
    is_complete: bool = False
    count: int = 0
    oldest: int | None = None
    newest: int | None = None
    newer: int = 0
    older: int = 0
    rises: bool = False
    _last: int | None = None

    @property
    def is_page(self) -> bool:
        return self.id.startswith(PAGE_PREFIX)

    def hear(self, now: float) -> None:
        """Note that the relay says something about it."""
        self.last_at = now
        self.answered = True

    def note(self, created_at: int, now: float) -> None:
        """Count an event."""
        self.hear(now)
        self.count += 1
        self.rises = self.rises or (self._last is not None and created_at > self._last)
        self._last = created_at
        if self.oldest is None or created_at < self.oldest:
            self.oldest = created_at
        if self.newest is None or created_at > self.newest:
            self.newest = created_at

    def note_outside(self, created_at: int, now: float) -> None:
        """Count an event that matches a page but for its time."""
        self.hear(now)
        until = self.filters[0].until
        if until is not None and created_at > until:
            self.newer += 1
        else:
            self.older += 1

    @property
    def deadline(self) -> float:
        return self.last_at + self.patience * (NEXT_ANSWER_S if self.answered else FIRST_ANSWER_S)


class Session:
    """The subscriptions of one connection. Owned by one thread."""

    __slots__ = ("_ids", "_next_id", "answers", "largest_request", "limits", "outgoing", "proven", "unasked")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.outgoing: deque[str] = deque()
        self.unasked = 0
        self.answers = 0
        # Subscriptions that were surely open at once.
        self.proven = 1
        self.largest_request = 0
        self._ids: dict[str, _Subscription] = {}
        self._next_id = 0

    @property
    def subscriptions(self) -> int:
        """How many subscriptions are open."""
        return len(self._ids)

    @property
    def pages(self) -> int:
        """How many of them are pages."""
        return sum(each.is_page for each in self._ids.values())

    @property
    def live_subscriptions(self) -> int:
        """How many of them are live."""
        return len(self._ids) - self.pages

    def has_room(self) -> bool:
        """Whether the relay's limit leaves room for another subscription."""
        return len(self._ids) < self.limits.max_subscriptions

    def has_room_for_live(self, key: str) -> bool:
        """Whether the live subscription `key` may be opened, or is open and may be replaced."""
        return self.has_room() or any(not each.is_page and each.key == key for each in self._ids.values())

    def has_room_for_page(self) -> bool:
        """Whether another page may be asked for now."""
        return self.has_room() and self.pages < self.limits.max_pages

    def open_live(self, key: str, filters: Sequence[Filter], now: float) -> None:
        """Subscribe to what is new under `key`; an open subscription of that key is replaced without a gap."""
        current = next((each for each in self._ids.values() if not each.is_page and each.key == key), None)
        self._open(current.id if current else self._new_id(LIVE_PREFIX), key, filters, now)

    def close_live(self, key: str) -> None:
        """End the live subscription of `key`, if it is open."""
        for each in [each for each in self._ids.values() if not each.is_page and each.key == key]:
            self._close(each)

    def open_page(self, key: str, page: Filter, now: float, *, patience: float = 1.0) -> None:
        """Ask for stored events; ends in one `PageEnded` with this `key`. A key has one page open at most.

        `patience` multiplies how long is waited for an answer.
        """
        self._open(self._new_id(PAGE_PREFIX), key, (page,), now, patience)

    def cancel_page(self, key: str) -> None:
        """Give up the page of `key` without an outcome."""
        for each in [each for each in self._ids.values() if each.is_page and each.key == key]:
            self._close(each)

    def note_event(self, subscription_id: str, event: Event, now: float) -> None:
        """Count an event, of whatever validity, towards the subscription that it names."""
        subscription = self._ids.get(subscription_id)
        if subscription is None:
            self.unasked += 1
        elif any(each.matches(event) for each in subscription.filters):
            subscription.note(event.created_at, now)
            self._note_stored(subscription)
        elif subscription.is_page and replace(subscription.filters[0], since=None, until=None).matches(event):
            subscription.note_outside(event.created_at, now)
        else:
            self.unasked += 1

    def note_time(self, subscription_id: str, created_at: int | None, now: float) -> None:
        """Count an event of which no more is known than its time, if that: one known before, or malformed."""
        subscription = self._ids.get(subscription_id)
        if subscription is None:
            self.unasked += 1
        elif created_at is not None and any(_spans(each, created_at) for each in subscription.filters):
            subscription.note(created_at, now)
            self._note_stored(subscription)
        elif created_at is not None and subscription.is_page:
            subscription.note_outside(created_at, now)
        else:
            subscription.hear(now)

    def receive(self, message: RelayMessage, now: float) -> Iterator[Outcome]:
        """Take a message other than EVENT and yield what it means for the owner."""
        match message:
            case Eose(subscription=subscription_id):
                yield from self._on_eose(subscription_id, now)
            case Closed(subscription=subscription_id, reason=reason, prefix=prefix):
                yield from self._on_closed(subscription_id, reason, prefix)
            case Notice(text=text):
                yield from self._on_notice(text)
            case AuthChallenge(challenge=challenge):
                yield Challenged(challenge)
            case _:
                pass

    def expire(self, now: float) -> Iterator[Outcome]:
        """End pages whose relay has fallen silent, and live subscriptions that it never opened."""
        for each in [each for each in self._awaited() if each.deadline <= now]:
            self._close(each)
            self._learn_from_silence(each)
            yield _refused(each, Refusal.TIMEOUT, "no answer")

    def next_deadline(self) -> float | None:
        """When `expire` will have something to do; `None` while no answer is due."""
        return min((each.deadline for each in self._awaited()), default=None)

    def _awaited(self) -> list[_Subscription]:
        # A relay that never sends an EOSE may have opened a live subscription all the same.
        return [each for each in self._ids.values() if each.is_page or (not each.answered and self.answers)]

    def _learn_from_silence(self, subscription: _Subscription) -> None:
        """Some relays drop without a word what is too much for them."""
        if subscription.answered or not self.answers:
            return
        if len(subscription.filters) > 1:
            self.limits = self.limits.fewer_filters()
        else:
            again = subscription.room <= _LEAST_BY_SILENCE
            least = max(self.proven, 1 if again else _LEAST_BY_SILENCE)
            self.limits = self.limits.fewer_subscriptions(max(subscription.beside, least + 1))

    def _note_stored(self, subscription: _Subscription) -> None:
        """Find out whether the relay takes `limit: 0` for no limit."""
        if subscription.is_page or subscription.is_complete or self.limits.zero_is_all:
            return
        if subscription.count > MAX_UNASKED_STORED:
            self.limits = replace(self.limits, zero_is_all=True)

    def resume(self, now: float) -> None:
        """Start waiting anew for every answer, after a pause in which nothing was read."""
        for each in self._ids.values():
            each.last_at = max(each.last_at, now)

    def _new_id(self, prefix: str) -> str:
        self._next_id += 1
        return f"{prefix}{self._next_id}"

    def _open(
        self, subscription_id: str, key: str, filters: Sequence[Filter], now: float, patience: float = 1.0
    ) -> None:
        # Anew also when it is replaced, so that the newest request comes last.
        self._ids.pop(subscription_id, None)
        beside = len(self._ids) + 1
        self._ids[subscription_id] = _Subscription(
            subscription_id, key, tuple(filters), now, beside, self.limits.max_subscriptions, patience
        )
        request = encode_req(subscription_id, filters)
        self.largest_request = max(self.largest_request, len(request))
        self.outgoing.append(request)

    def _close(self, subscription: _Subscription) -> None:
        del self._ids[subscription.id]
        self.outgoing.append(encode_close(subscription.id))

    def _on_eose(self, subscription_id: str, now: float) -> Iterator[Outcome]:
        subscription = self._ids.get(subscription_id)
        if subscription is None:
            return
        self.answers += 1
        subscription.is_complete = True
        subscription.hear(now)
        self.proven = max(self.proven, sum(each.answered for each in self._ids.values()))
        if subscription.is_page:
            self._close(subscription)
            yield _ended(subscription, None, "")

    def _on_closed(self, subscription_id: str, reason: str, prefix: str) -> Iterator[Outcome]:
        subscription = self._ids.pop(subscription_id, None)
        if subscription is not None:
            refusal = classify(reason, prefix)
            self._learn(refusal)
            yield _refused(subscription, refusal, reason)

    def _on_notice(self, text: str) -> Iterator[Outcome]:
        """A NOTICE names no subscription: it is a refusal only where it can be told whose."""
        refusal = classify(text, reason_prefix(text))
        if refusal is Refusal.ERROR and classify_notice(text) in (NoticeType.EMPTY, NoticeType.UNKNOWN):
            return
        dead = self._meant(refusal)
        for each in dead:
            self._close(each)
        if dead:
            self._learn(refusal)
        for each in dead:
            yield _refused(each, refusal, text)

    def _meant(self, refusal: Refusal) -> list[_Subscription]:
        """The subscriptions that a NOTICE with this sense must be about."""
        everything = list(self._ids.values())
        pages = [each for each in everything if each.is_page]
        match refusal:
            case Refusal.TOO_MANY_SUBSCRIPTIONS | Refusal.TOO_MANY_FILTERS | Refusal.TOO_LARGE:
                # These answer the newest request at once, and no CLOSED follows.
                return everything[-1:]
            case Refusal.RATE_LIMITED:
                # The request was dropped; any that has had no answer may be the one.
                return [each for each in everything if each.is_page or not each.answered]
            case _:
                return pages if len(pages) == 1 else []

    def _learn(self, refusal: Refusal) -> None:
        """Ask less of a relay that has just refused something, which is no longer among the open subscriptions."""
        match refusal:
            case Refusal.TOO_MANY_SUBSCRIPTIONS:
                self.limits = self.limits.fewer_subscriptions(len(self._ids) + 1)
            case Refusal.TOO_MANY_FILTERS:
                self.limits = self.limits.fewer_filters()
            case Refusal.TOO_LARGE:
                self.limits = self.limits.smaller()
            case Refusal.RATE_LIMITED:
                self.limits = self.limits.fewer_pages()
            case _:
                pass


def _refused(subscription: _Subscription, refusal: Refusal, detail: str) -> Outcome:
    if subscription.is_page:
        return _ended(subscription, refusal, detail)
    return LiveEnded(subscription.key, refusal, detail)


def _spans(wanted: Filter, created_at: int) -> bool:
    return (wanted.since is None or created_at >= wanted.since) and (wanted.until is None or created_at <= wanted.until)


def _ended(subscription: _Subscription, refusal: Refusal | None, detail: str) -> PageEnded:
    return PageEnded(
        subscription.key, refusal, detail, subscription.count, subscription.oldest, subscription.newest,
        subscription.newer, subscription.older, subscription.rises,
    )  # fmt: skip
