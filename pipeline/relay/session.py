"""One connection's subscriptions, as a state machine without I/O or clock (NIP-01, section "Communication").

The owner opens live subscriptions and pages, sends what `outgoing` holds, feeds every message in, and acts on what
comes back: a page ends complete, at its EOSE and only then, or incomplete with the reason. Times are monotonic
seconds.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from pipeline.relay.limits import Limits
from pipeline.relay.refusals import Refusal, classify

# A relay may search long before its first event, but not pause as long between two.
FIRST_ANSWER_S = 30.0
NEXT_ANSWER_S = 10.0
LIVE_PREFIX = "L"
PAGE_PREFIX = "P"


@dataclass(frozen=True, slots=True)
class PageEnded:
    """A page is over; `refusal` is `None` when it is complete. Counts and times are of the events that match it."""

    key: str
    refusal: Refusal | None
    detail: str
    count: int
    oldest: int | None
    newest: int | None


@dataclass(frozen=True, slots=True)
class LiveEnded:
    """A live subscription was ended by the relay."""

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
    opened_at: float
    last_at: float
    count: int = 0
    oldest: int | None = None
    newest: int | None = None

    @property
    def is_page(self) -> bool:
        return self.id.startswith(PAGE_PREFIX)

    def note(self, created_at: int, now: float) -> None:
        """Count an event."""
        self.last_at = now
        self.count += 1
        if self.oldest is None or created_at < self.oldest:
            self.oldest = created_at
        if self.newest is None or created_at > self.newest:
            self.newest = created_at

    @property
    def deadline(self) -> float:
        return self.last_at + (NEXT_ANSWER_S if self.last_at > self.opened_at else FIRST_ANSWER_S)


class Session:
    """The subscriptions of one connection. Owned by one thread."""

    __slots__ = ("_ids", "_next_id", "limits", "outgoing", "unasked")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.outgoing: deque[str] = deque()
        self.unasked = 0
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

    def open_page(self, key: str, page: Filter, now: float) -> None:
        """Ask for stored events; ends in one `PageEnded` with this `key`. A key has one page open at most."""
        self._open(self._new_id(PAGE_PREFIX), key, (page,), now)

    def cancel_page(self, key: str) -> None:
        """Give up the page of `key` without an outcome."""
        for each in [each for each in self._ids.values() if each.is_page and each.key == key]:
            self._close(each)

    def note_event(self, subscription_id: str, event: Event, now: float) -> None:
        """Count an event, of whatever validity, towards the subscription that it names."""
        subscription = self._ids.get(subscription_id)
        if subscription is None or not any(each.matches(event) for each in subscription.filters):
            self.unasked += 1
            return
        subscription.note(event.created_at, now)

    def note_time(self, subscription_id: str, created_at: int | None, now: float) -> None:
        """Count an event of which no more is known than its time, if that: one known before, or malformed."""
        subscription = self._ids.get(subscription_id)
        if subscription is None:
            self.unasked += 1
        elif created_at is not None and any(_spans(each, created_at) for each in subscription.filters):
            subscription.note(created_at, now)
        else:
            subscription.last_at = now

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

    def expire(self, now: float) -> Iterator[PageEnded]:
        """End pages whose relay has fallen silent."""
        for each in [each for each in self._ids.values() if each.is_page and each.deadline <= now]:
            self._close(each)
            yield _ended(each, Refusal.TIMEOUT, "no answer")

    def next_deadline(self) -> float | None:
        """When `expire` will have something to do; `None` while no page is open."""
        return min((each.deadline for each in self._ids.values() if each.is_page), default=None)

    def resume(self, now: float) -> None:
        """Start waiting anew for every answer, after a pause in which nothing was read."""
        for each in self._ids.values():
            each.last_at = max(each.last_at, now)

    def _new_id(self, prefix: str) -> str:
        self._next_id += 1
        return f"{prefix}{self._next_id}"

    def _open(self, subscription_id: str, key: str, filters: Sequence[Filter], now: float) -> None:
        self._ids[subscription_id] = _Subscription(subscription_id, key, tuple(filters), now, now)
        self.outgoing.append(encode_req(subscription_id, filters))

    def _close(self, subscription: _Subscription) -> None:
        del self._ids[subscription.id]
        self.outgoing.append(encode_close(subscription.id))

    def _on_eose(self, subscription_id: str, now: float) -> Iterator[Outcome]:
        subscription = self._ids.get(subscription_id)
        if subscription is None:
            return
        subscription.last_at = now
        if subscription.is_page:
            self._close(subscription)
            yield _ended(subscription, None, "")

    def _on_closed(self, subscription_id: str, reason: str, prefix: str) -> Iterator[Outcome]:
        subscription = self._ids.pop(subscription_id, None)
        if subscription is not None:
            yield self._refused(subscription, classify(reason, prefix), reason, others=len(self._ids))

    def _on_notice(self, text: str) -> Iterator[Outcome]:
        """A NOTICE names no subscription: it is a refusal only where it can be told whose."""
        kind = classify_notice(text)
        if kind in (NoticeType.EMPTY, NoticeType.UNKNOWN):
            return
        refusal = classify(text)
        pages = [each for each in self._ids.values() if each.is_page]
        if refusal in (Refusal.TOO_MANY_SUBSCRIPTIONS, Refusal.TOO_MANY_FILTERS, Refusal.TOO_LARGE) and self._ids:
            # These answer the newest request at once, and no CLOSED follows.
            dead = [max(self._ids.values(), key=lambda each: each.opened_at)]
        elif len(pages) == 1 or refusal is Refusal.RATE_LIMITED:
            dead = pages
        else:
            dead = []
        for each in dead:
            self._close(each)
            yield self._refused(each, refusal, text, others=len(self._ids))

    def _refused(self, subscription: _Subscription, refusal: Refusal, detail: str, *, others: int) -> Outcome:
        match refusal:
            case Refusal.TOO_MANY_SUBSCRIPTIONS:
                self.limits = self.limits.fewer_subscriptions(others + 1)
            case Refusal.TOO_MANY_FILTERS:
                self.limits = self.limits.fewer_filters()
            case Refusal.TOO_LARGE:
                self.limits = self.limits.smaller()
            case Refusal.RATE_LIMITED:
                self.limits = self.limits.fewer_pages()
            case _:
                pass
        if subscription.is_page:
            return _ended(subscription, refusal, detail)
        return LiveEnded(subscription.key, refusal, detail)


def _spans(wanted: Filter, created_at: int) -> bool:
    return (wanted.since is None or created_at >= wanted.since) and (wanted.until is None or created_at <= wanted.until)


def _ended(subscription: _Subscription, refusal: Refusal | None, detail: str) -> PageEnded:
    return PageEnded(subscription.key, refusal, detail, subscription.count, subscription.oldest, subscription.newest)
