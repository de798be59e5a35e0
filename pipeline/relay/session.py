"""One connection's subscriptions, as a state machine without I/O or clock (NIP-01, section "Communication").

The owner opens live subscriptions and pages, sends what `outgoing` holds, feeds every message in, and acts on what
comes back: a page ends complete, at its EOSE and only then, or incomplete with the reason. What a relay refuses until
we have authenticated (NIP-42) is held meanwhile and asked for again. Times are monotonic seconds.

| question | module |
|---|---|
| what is asked for, beside what, and what is repeated | `requests`, `open_subscriptions`, `succession`, `silence` |
| what a refusal means, ends and teaches | `session_refusals`, `refusals`, `limit_inference`, `doubts` |
| what waits for an AUTH | `session_auth`, `authentication` |
| what a silence teaches | `answers` |
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import AuthChallenge, Closed, Eose, NegError, NegMessage, Notice, Ok, RelayMessage
from pipeline.relay.answers import Answers
from pipeline.relay.authentication import AuthState
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.negentropy_session import NegFinished, NegMessageReceived
from pipeline.relay.page_pace import PagePace
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.requests import Requests
from pipeline.relay.session_auth import AuthWanted, SessionAuth
from pipeline.relay.session_refusals import SessionRefusals
from pipeline.relay.sighting import Sighting
from pipeline.relay.silence import Silences
from pipeline.relay.subscription import LiveEnded, PageEnded, Subscription

# More stored events than this before the EOSE of `limit: 0`, and the relay takes 0 for no limit.
MAX_UNASKED_STORED = 500

SessionEvent = PageEnded | LiveEnded | AuthWanted | NegMessageReceived | NegFinished
"""What the owner is to act on."""


class Session:
    """The subscriptions of one connection. Owned by one thread."""

    __slots__ = (
        "_answers", "_auth", "_pace", "_refusals", "_requests", "holds_pages", "late", "newest_live",
        "outgoing", "reconciliation", "subscriptions", "unasked",
    )  # fmt: skip

    def __init__(
        self, limits: LearnedLimits, *, can_authenticate: bool = False, auth_addresses: int = 1,
        silences: Silences | None = None,
    ) -> None:  # fmt: skip
        """`can_authenticate`: the owner has a key to answer challenges with, and so many addresses to name in it;
        `silences`: those of the relay on former connections.
        """
        self._requests = Requests(limits)
        self.subscriptions = self._requests.subscriptions
        self.outgoing = self.subscriptions.outgoing
        self.reconciliation = self._requests.exchange
        self.unasked = 0
        self.late = 0
        """Events that came under ids that had long been closed."""
        self.holds_pages = False
        """Whether no page may be asked for but one that is to have no other beside it."""
        self.newest_live = 0
        """The latest time (Unix seconds) of any event that came in a live subscription."""
        self._answers = Answers(silences or Silences())
        self._auth = SessionAuth(self._requests, is_possible=can_authenticate, addresses=auth_addresses)
        self._pace = PagePace()
        self._refusals = SessionRefusals(self._requests, self._auth, self._pace)

    @property
    def limits(self) -> RelayLimits:
        """What the relay allows, as far as is known now."""
        return self._requests.limits

    def learn(self, limits: RelayLimits) -> None:
        """Go by `limits` from now on, on later connections too."""
        self._requests.learn(limits)

    @property
    def pages(self) -> int:
        """How many pages are open."""
        return len(self.subscriptions.pages)

    @property
    def live_subscriptions(self) -> int:
        """How many live subscriptions are open."""
        return len(self.subscriptions) - self.pages

    @property
    def wants_another_connection(self) -> bool:
        """Whether a silence may be a limit, which only another connection shows."""
        return self._answers.wants_another_connection

    def key_of(self, subscription_id: str) -> str | None:
        """Return under which key a subscription was opened, `None` if it is not open."""
        subscription = self.subscriptions.get(subscription_id)
        return None if subscription is None else subscription.key

    def has_room(self) -> bool:
        """Whether the relay's limit leaves room for another subscription."""
        return self._requests.has_room()

    def has_room_for_live(self, key: str) -> bool:
        """Whether the live subscription `key` may be opened, or is open and may be replaced."""
        return self.has_room() or self.subscriptions.live(key) is not None

    def has_room_for_page(self) -> bool:
        """Whether another page may be asked for now."""
        return self.room_for_pages() > 0

    def room_for_pages(self) -> int:
        """Return how many more pages may be asked for now."""
        if self.holds_pages:
            return 0
        return self._requests.room_for_pages(1 if self._refusals.doubts.asks_alone else self.limits.max_pages)

    def open_live(self, key: str, filters: Sequence[Filter], now: float) -> None:
        """Subscribe to what is new under `key`; an open subscription of that key is replaced.

        Nothing falls between, or `take_torn` tells of it.
        """
        self._requests.open_live(key, filters, now)

    def live_answered_at(self, key: str) -> float | None:
        """Return when the live subscription `key` was answered first; None if it was not, or is not open."""
        live = self.subscriptions.live(key)
        return None if live is None else live.answered_at

    def close_live(self, key: str, now: float) -> None:
        """End the live subscription of `key`, if it is open."""
        self.subscriptions.close_all(key, now, is_page=False)

    def close_doubtful(self) -> None:
        """Close once more what may still be open at the relay, since it limits the rate of messages.

        All of it only where its limit of subscriptions demands it: a CLOSE is one more message.
        """
        self._requests.close_doubtful()

    def pages_wait_until(self, now: float) -> float | None:
        """Return until when no page may be asked for, as the relay limits the rate of requests; None if one may."""
        return self._pace.wait_until(now)

    def take_torn(self) -> list[str]:
        """Return the keys of the live subscriptions that may have missed something; see `Requests.tear`."""
        return self._requests.take_torn()

    def open_page(
        self, key: str, page: Filter | Sequence[Filter], now: float, *, patience: float = 1.0,
        watched: frozenset[bytes] = frozenset(),
    ) -> None:  # fmt: skip
        """Ask for stored events; ends in one `PageEnded` with this `key`. A key has one page open at most.

        Several filters are for ids only: of others nobody can tell which of them a page was cut by.

        `patience` multiplies how long is waited for an answer; `watched`: ids that the outcome names if they come.
        """
        filters = (page,) if isinstance(page, Filter) else page
        if self._answers.awaits_repetition(now):
            # A former connection was waited for with patience.
            patience = 1.0
        self._pace.on_opened(now)
        self._requests.open_page(key, filters, now, patience, watched)

    def cancel_page(self, key: str, now: float) -> None:
        """Give up the page of `key` without an outcome."""
        self.subscriptions.close_all(key, now, is_page=True)

    def note_event(self, subscription_id: str, event: Event, now: float) -> bool:
        """Count an event, of whatever validity, towards the subscription that it names; returns if that asks for it."""
        subscription = self.subscriptions.get(subscription_id)
        if subscription is None:
            self._on_stray(subscription_id, now)
            return False
        if not subscription.note_event(event, now):
            self.unasked += 1
            return False
        self._note_live(subscription, event.created_at)
        self._on_event(subscription, event.id, now)
        return True

    def _note_live(self, subscription: Subscription, created_at: int | None) -> None:
        if not subscription.is_page and created_at is not None:
            self.newest_live = max(self.newest_live, created_at)

    def record_event_time(
        self, subscription_id: str, created_at: int | None, now: float, event_id: bytes | None = None
    ) -> None:
        """Count an event of which no more is known than its time and id, if that: it is had, or never will be."""
        subscription = self.subscriptions.get(subscription_id)
        if subscription is None:
            self._on_stray(subscription_id, now)
        else:
            subscription.note_time(created_at, now, event_id)
            self._note_live(subscription, created_at)
            self._on_event(subscription, event_id, now)

    def note_malformed(self, subscription_id: str, created_at: int | None, now: float, event_id: bytes | None) -> None:
        """Count an event that is malformed towards the subscription that it names."""
        subscription = self.subscriptions.get(subscription_id)
        if subscription is None:
            self._on_stray(subscription_id, now)
        else:
            subscription.note_malformed(created_at, now, event_id)
            self._on_event(subscription, event_id, now)

    def note_skipped(self, event: Sighting, now: float) -> str | None:
        """Count an event that was too long to be read towards the page that it came in.

        Where it does not show which, it belongs to the page that was answered last. Returns the key of the live
        subscription if it came in one instead; "" if in none that is open.
        """
        pages = self.subscriptions.pages
        if event.subscription is not None:
            pages = [each for each in pages if each.id == event.subscription]
        if pages:
            max(pages, key=lambda page: page.last_at).note_skipped(event.created_at, now, event.event_id)
            return None
        live = self.subscriptions.get(event.subscription)
        if live is None:
            return ""
        live.hear(now)
        return live.key

    def receive(self, message: RelayMessage, now: float) -> Iterator[SessionEvent]:
        """Take a message other than EVENT and yield what it means for the owner."""
        match message:
            case Eose(subscription=subscription_id):
                yield from self._on_eose(subscription_id, now)
            case NegMessage(subscription=subscription_id, payload=payload):
                yield from _if_any(self.reconciliation.on_message(subscription_id, payload))
            case NegError(subscription=subscription_id, reason=reason):
                yield from _if_any(self.reconciliation.on_error(subscription_id, reason))
            case Closed(subscription=subscription_id, reason=reason, prefix=prefix):
                yield from _if_any(self.reconciliation.on_error(subscription_id, reason))
                yield from self._on_closed(subscription_id, reason, prefix, now)
            case Notice(text=text):
                yield from self._refusals.on_notice(text, now)
            case AuthChallenge(challenge=challenge):
                yield from self._auth.on_challenge(challenge, now)
            case Ok(event_id=event_id, accepted=accepted, reason=reason):
                yield from self._auth.on_ok(event_id, reason, now, accepted=accepted)
            case _:
                pass

    def on_timeout(self, now: float) -> Iterator[SessionEvent]:
        """End pages whose relay has fallen silent, and repeat what it may not have heard."""
        self._requests.repeat_one(now)
        self.subscriptions.close_overdue(now)
        yield from self._refusals.on_timeout(now)
        self._ask_for_one(now)
        for each in [each for each in self.subscriptions.asked if each.is_page and each.deadline <= now]:
            self.subscriptions.close(each, now)
            self._refusals.doubts.on_page_ended(each.key)
            self.learn(self._answers.after_silence(self.limits, each, now))
            yield each.refused(RelayRefusal.TIMEOUT, "no answer")
        yield from _if_any(self.reconciliation.on_timeout(now))
        yield from self._auth.on_timeout(now)

    def next_deadline(self) -> float | None:
        """When `on_timeout` will have something to do; `None` while no answer is due."""
        times = [
            self._auth.deadline, self.reconciliation.deadline, self._requests.outset.repeat_at,
            self._refusals.doubts.until, self.subscriptions.deadline,
            *(each.deadline for each in self.subscriptions.asked if each.is_page),
            *(each.deadline for each in self._without_answer()),
        ]  # fmt: skip
        return min((at for at in times if at is not None), default=None)

    @property
    def auth(self) -> AuthState:
        """How the relay and we stand on AUTH."""
        return self._auth.state

    def authenticate(self, event: Event, now: float) -> None:
        """Send `event` in answer to the challenge that was last asked for."""
        self._auth.send(event, now)

    def _on_stray(self, subscription_id: str, now: float) -> None:
        if self.subscriptions.is_late(subscription_id, now):
            self.late += 1
        else:
            self.unasked += 1

    def _on_event(self, subscription: Subscription, event_id: bytes | None, now: float) -> None:
        """Take an event for an answer, and find out whether the relay takes `limit: 0` for no limit."""
        if subscription.copies is not None and event_id is not None and subscription.copies.is_copy(event_id):
            self._requests.on_copy(subscription, now)
        if not self._requests.outset.is_over:
            self._requests.on_answer(subscription, now)
        if not subscription.is_page and event_id is not None:
            for page in self.subscriptions.pages:
                page.note_live(event_id)
        if subscription.is_page or subscription.is_complete or self.limits.zero_is_all:
            return
        if subscription.count > MAX_UNASKED_STORED:
            self.learn(replace(self.limits, zero_is_all=True))

    def resume(self, now: float) -> None:
        """Start waiting anew for every answer, after a pause in which nothing was read."""
        for each in self.subscriptions:
            each.last_at = max(each.last_at, now)
        self._auth.postpone(now)
        self.reconciliation.postpone(now)
        self._requests.outset.postpone(now)

    def _on_eose(self, subscription_id: str, now: float) -> Iterator[SessionEvent]:
        subscription = self.subscriptions.get(subscription_id)
        if subscription is None or subscription.hold is not None:
            return
        self._answers.note(subscription, now)
        subscription.is_complete = True
        subscription.hear(now)
        self.subscriptions.on_end_of_answer(subscription)
        if subscription.is_page:
            self._pace.on_answered()
        self._requests.on_answer(subscription, now)
        self.subscriptions.close_followed_by(subscription_id, now)
        self._answers.proven = max(self._answers.proven, sum(each.answered for each in self.subscriptions))
        if subscription.is_page and not self._auth.holds_ended(subscription):
            self.subscriptions.close(subscription, now)
            self._refusals.doubts.on_page_ended(subscription.key)
            yield subscription.ended()

    def _on_closed(self, subscription_id: str, reason: str, prefix: str, now: float) -> Iterator[SessionEvent]:
        subscription = self.subscriptions.get(subscription_id)
        if subscription is None or subscription.hold is not None:
            return
        if not reason and subscription.is_page and subscription.filters[0].ids is not None:
            # chorus ends each request by ids so.
            subscription.is_over = True
            yield from self._on_eose(subscription_id, now)
            return
        yield from self._refusals.on_closed(subscription, reason, prefix, now)

    def _ask_for_one(self, now: float) -> None:
        """Let live subscriptions ask for a stored event where `limit: 0` has no answer, while later pages have one.

        Some relays send no EOSE then, and others do not subscribe. Which it is does not show, so nothing is learned.
        """
        for each in [each for each in self._without_answer() if each.deadline <= now]:
            self.open_live(each.key, [replace(one, limit=1) for one in each.filters], now)
            # Most likely nothing came of it so far.
            self._requests.tear(each.key)

    def _without_answer(self) -> list[Subscription]:
        """Return the live subscriptions with `limit: 0` that have no answer, while later pages have one."""
        if not self._answers.pages:
            return []
        none = [each for each in self.subscriptions.asked if each.asks_for_none and not each.answered]
        return [each for each in none if self._answers.passed_by(each) and not self.subscriptions.is_retiring(each)]


def _if_any(outcome: NegMessageReceived | NegFinished | None) -> Iterator[SessionEvent]:
    if outcome is not None:
        yield outcome
