"""One connection's subscriptions, as a state machine without I/O or clock (NIP-01, section "Communication").

The owner opens live subscriptions and pages, sends what `outgoing` holds, feeds every message in, and acts on what
comes back: a page ends complete, at its EOSE and only then, or incomplete with the reason. What a relay refuses until
we have authenticated (NIP-42) is held meanwhile and asked for again. Times are monotonic seconds.

What is open under which id stands in `open_subscriptions.py`; what silences teach in `answers.py`, refusals in
`lessons.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import (
    AuthChallenge,
    Closed,
    Eose,
    NegError,
    NegMessage,
    Notice,
    NoticeType,
    Ok,
    RelayMessage,
    classify_notice,
    encode_auth,
)
from pipeline.relay.answers import Answers
from pipeline.relay.authentication import Authentication, AuthResult, AuthState
from pipeline.relay.doubts import Doubts
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limit_inference import after_refusal, meant, taken_for
from pipeline.relay.limits import RelayLimits
from pipeline.relay.negentropy_session import NegentropyExchange, NegFinished, NegMessageReceived
from pipeline.relay.open_subscriptions import OpenSubscriptions
from pipeline.relay.page_pace import PagePace
from pipeline.relay.refusals import Complaint, RelayRefusal, is_withheld, read
from pipeline.relay.sighting import Sighting
from pipeline.relay.silence import Outset, Silences
from pipeline.relay.subscription import LIVE_PREFIX, PAGE_PREFIX, LiveEnded, PageEnded, PendingAuth, Subscription
from pipeline.relay.succession import RecentIds

# More stored events than this before the EOSE of `limit: 0`, and the relay takes 0 for no limit.
MAX_UNASKED_STORED = 500


@dataclass(frozen=True, slots=True)
class AuthWanted:
    """The relay wants this challenge answered (NIP-42), by a call of `Session.authenticate` at once.

    `address`: which of the relay's addresses the answer names.
    """

    challenge: str
    address: int = 0


Outcome = PageEnded | LiveEnded | AuthWanted | NegMessageReceived | NegFinished


class Session:
    """The subscriptions of one connection. Owned by one thread."""

    __slots__ = (
        "_answers", "_auth", "_doubts", "_limits", "_outset", "_pace", "_torn", "comparison", "holds_pages", "late",
        "newest_live", "outgoing", "subscriptions", "unasked",
    )  # fmt: skip

    def __init__(
        self, limits: LearnedLimits, *, can_authenticate: bool = False, auth_addresses: int = 1,
        silences: Silences | None = None,
    ) -> None:  # fmt: skip
        """`can_authenticate`: the owner has a key to answer challenges with, and so many addresses to name in it;
        `silences`: those of the relay on former connections.
        """
        self._limits = limits
        self.subscriptions = OpenSubscriptions()
        self.outgoing = self.subscriptions.outgoing
        self.comparison = NegentropyExchange(self.outgoing)
        self.unasked = 0
        self.late = 0
        """Events that came under ids that had long been closed."""
        self.holds_pages = False
        """Whether no page may be asked for but one that is to have no other beside it."""
        self.newest_live = 0
        """The latest time (Unix seconds) of any event that came in a live subscription."""
        self._answers = Answers(silences or Silences())
        self._auth = Authentication(is_possible=can_authenticate, addresses=auth_addresses)
        self._doubts = Doubts()
        self._outset = Outset()
        self._pace = PagePace()
        self._torn: list[str] = []

    @property
    def limits(self) -> RelayLimits:
        """What the relay allows, as far as is known now."""
        return self._limits.now

    def learn(self, limits: RelayLimits) -> None:
        """Go by `limits` from now on, on later connections too."""
        self._limits.learn(limits)

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
        return len(self.subscriptions) + self.comparison.is_open < self.limits.max_subscriptions

    def has_room_for_live(self, key: str) -> bool:
        """Whether the live subscription `key` may be opened, or is open and may be replaced."""
        return self.has_room() or self.subscriptions.live(key) is not None

    def has_room_for_page(self) -> bool:
        """Whether another page may be asked for now."""
        return self.room_for_pages() > 0

    def room_for_pages(self) -> int:
        """Return how many more pages may be asked for now."""
        most = 1 if self._doubts.asks_alone else self.limits.max_pages
        if self.holds_pages:
            return 0
        beside = self.comparison.is_open
        return max(0, min(self.limits.max_subscriptions - len(self.subscriptions), most - self.pages) - beside)

    def open_live(self, key: str, filters: Sequence[Filter], now: float) -> None:
        """Subscribe to what is new under `key`; an open subscription of that key is replaced.

        Nothing falls between, or `take_torn` tells of it.
        """
        current = self.subscriptions.live(key)
        if current is None:
            self._open(self._new_id(LIVE_PREFIX), key, filters, now)
        elif self.limits.adds_requests:
            self._succeed(current, filters, now)
        else:
            self._open(current.id, key, filters, now).copies = RecentIds()

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
        is_full = self.subscriptions.at_relay >= self.limits.max_subscriptions
        self.subscriptions.close_doubtful(self.subscriptions.at_relay if is_full else 1)

    def pages_wait_until(self, now: float) -> float | None:
        """Return until when no page may be asked for, as the relay limits the rate of requests; None if one may."""
        return self._pace.wait_until(now)

    def take_torn(self) -> list[str]:
        """Return the keys of the live subscriptions that were closed before their successors were asked for."""
        torn, self._torn = self._torn, []
        return torn

    def _succeed(self, old: Subscription, filters: Sequence[Filter], now: float) -> None:
        """Ask for `filters` under a new id, beside the old one as long as there is room."""
        if not self.has_room():
            self.subscriptions.close_followed_by(old.id, now)
        if not self.has_room():
            self.subscriptions.close(old, now)
            self._torn.append(old.key)
        successor = self._open(self._new_id(LIVE_PREFIX), old.key, filters, now)
        if old.id in self.subscriptions:
            self.subscriptions.retire(old, successor, now)

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
        self._open(self._new_id(PAGE_PREFIX), key, filters, now, patience, watched)

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
        """Count an event of which no more is known than its time and id, if that: one known before, or malformed."""
        subscription = self.subscriptions.get(subscription_id)
        if subscription is None:
            self._on_stray(subscription_id, now)
        else:
            subscription.note_time(created_at, now, event_id)
            self._note_live(subscription, created_at)
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

    def receive(self, message: RelayMessage, now: float) -> Iterator[Outcome]:
        """Take a message other than EVENT and yield what it means for the owner."""
        match message:
            case Eose(subscription=subscription_id):
                yield from self._on_eose(subscription_id, now)
            case NegMessage(subscription=subscription_id, payload=payload):
                yield from _if_any(self.comparison.on_message(subscription_id, payload))
            case NegError(subscription=subscription_id, reason=reason):
                yield from _if_any(self.comparison.on_error(subscription_id, reason))
            case Closed(subscription=subscription_id, reason=reason, prefix=prefix):
                yield from _if_any(self.comparison.on_error(subscription_id, reason))
                yield from self._on_closed(subscription_id, reason, prefix, now)
            case Notice(text=text):
                yield from self._on_notice(text, now)
            case AuthChallenge(challenge=challenge):
                yield from self._on_challenge(challenge, now)
            case Ok(event_id=event_id, accepted=accepted, reason=reason):
                yield from self._end_auth(self._auth.on_ok(event_id, accepted=accepted), reason, now)
                yield from self._answer_challenge()
            case _:
                pass

    def on_timeout(self, now: float) -> Iterator[Outcome]:
        """End pages whose relay has fallen silent, and repeat what it may not have heard."""
        self._repeat_one(now)
        self.subscriptions.close_overdue(now)
        for each, refusal, text in self._doubts.take_due(self.subscriptions.asked, now):
            if self.subscriptions.end_by_us(each, now):
                self.learn(after_refusal(self.limits, Complaint(refusal), (each,), self.subscriptions.at_relay))
                yield each.refused(refusal, text)
        self._ask_for_one(now)
        for each in [each for each in self.subscriptions.asked if each.is_page and each.deadline <= now]:
            self.subscriptions.close(each, now)
            self._doubts.on_page_ended(each.key)
            self.learn(self._answers.after_silence(self.limits, each, now))
            yield each.refused(RelayRefusal.TIMEOUT, "no answer")
        yield from _if_any(self.comparison.on_timeout(now))
        yield from self._end_auth(self._auth.on_timeout(now), "no challenge to answer", now)

    def next_deadline(self) -> float | None:
        """When `on_timeout` will have something to do; `None` while no answer is due."""
        times = [
            self._auth.deadline, self.comparison.deadline, self._outset.repeat_at, self._doubts.until,
            self.subscriptions.deadline,
            *(each.deadline for each in self.subscriptions.asked if each.is_page),
        ]  # fmt: skip
        return min((at for at in times if at is not None), default=None)

    @property
    def auth(self) -> AuthState:
        """How the relay and we stand on AUTH."""
        return self._auth.state

    def authenticate(self, event: Event, now: float) -> None:
        """Send `event` in answer to the challenge that was last asked for."""
        self._auth.on_answered(event.id, now)
        self.outgoing.append(encode_auth(event))

    def _on_stray(self, subscription_id: str, now: float) -> None:
        if self.subscriptions.is_late(subscription_id, now):
            self.late += 1
        else:
            self.unasked += 1

    def _on_event(self, subscription: Subscription, event_id: bytes | None, now: float) -> None:
        """Take an event for an answer, and find out whether the relay takes `limit: 0` for no limit."""
        if subscription.copies is not None and event_id is not None and subscription.copies.is_copy(event_id):
            self.learn(replace(self.limits, adds_requests=True))
            subscription.copies = None
            self._succeed(subscription, subscription.filters, now)
        if not self._outset.is_over:
            self._on_answer(subscription, now)
        if subscription.is_page or subscription.is_complete or self.limits.zero_is_all:
            return
        if subscription.count > MAX_UNASKED_STORED:
            self.learn(replace(self.limits, zero_is_all=True))

    def resume(self, now: float) -> None:
        """Start waiting anew for every answer, after a pause in which nothing was read."""
        for each in self.subscriptions:
            each.last_at = max(each.last_at, now)
        self._auth.postpone(now)
        self.comparison.postpone(now)
        self._outset.postpone(now)

    def _new_id(self, prefix: str) -> str:
        return self.subscriptions.new_id(prefix, self.limits.max_id_length)

    def _open(
        self, subscription_id: str, key: str, filters: Sequence[Filter], now: float, patience: float = 1.0,
        watched: frozenset[bytes] = frozenset(),
    ) -> Subscription:  # fmt: skip
        is_early = not self._outset.is_over
        self._outset.on_request(now)
        return self.subscriptions.open(
            subscription_id, key, filters, now, patience=patience, watched=watched, is_early=is_early
        )

    def _ask_again(self, old: Subscription, now: float) -> Subscription | None:
        """Ask for the same under another id; None if a successor asks for it already."""
        is_early = not self._outset.is_over
        return self.subscriptions.ask_again(old, now, self.limits.max_id_length, is_early=is_early)

    def _on_eose(self, subscription_id: str, now: float) -> Iterator[Outcome]:
        subscription = self.subscriptions.get(subscription_id)
        if subscription is None or subscription.hold is not None:
            return
        self._answers.note(subscription)
        subscription.is_complete = True
        subscription.hear(now)
        self.subscriptions.on_end_of_answer(subscription)
        if subscription.is_page:
            self._pace.on_answered()
        self._on_answer(subscription, now)
        self.subscriptions.close_followed_by(subscription_id, now)
        self._answers.proven = max(self._answers.proven, sum(each.answered for each in self.subscriptions))
        if subscription.is_page and self._auth.is_under_way and not subscription.was_held:
            subscription.hold = PendingAuth.ENDED
        elif subscription.is_page:
            self.subscriptions.close(subscription, now)
            self._doubts.on_page_ended(subscription.key)
            yield subscription.ended()

    def _on_closed(self, subscription_id: str, reason: str, prefix: str, now: float) -> Iterator[Outcome]:
        subscription = self.subscriptions.get(subscription_id)
        if subscription is None or subscription.hold is not None:
            return
        if not reason and subscription.is_page and subscription.filters[0].ids is not None:
            # chorus ends each request by ids so.
            subscription.is_over = True
            yield from self._on_eose(subscription_id, now)
            return
        self.subscriptions.note_answered(subscription)
        self.subscriptions.on_end_of_answer(subscription)
        complaint = read(reason, prefix)
        refusal = complaint.refusal
        if refusal is RelayRefusal.RATE_LIMITED:
            self._pace.on_limited(now)
        self._on_answer(subscription, now)
        if refusal is RelayRefusal.AUTH_REQUIRED:
            self.learn(replace(self.limits, demands_auth=True))
            is_for_some = bool(subscription.count) or is_withheld(reason)
            subscription.is_withheld = subscription.selects_confidential and is_for_some
            if not subscription.was_held and self._auth.on_auth_required(now):
                subscription.hold = PendingAuth.REFUSED
                yield from self._answer_challenge()
                return
            if subscription.is_withheld:
                refusal = RelayRefusal.WITHHELD
        elif refusal is RelayRefusal.RESTRICTED and prefix == "restricted" and self._auth.state is AuthState.ACCEPTED:
            refusal = RelayRefusal.FORBIDDEN
        if subscription.asks_for_none and not subscription.answered and refusal is RelayRefusal.UNSUPPORTED:
            refusal = RelayRefusal.ZERO_LIMIT
        if not self.subscriptions.end(subscription, now):
            return
        refusal = taken_for(replace(complaint, refusal=refusal), (subscription,))
        complaint = replace(complaint, refusal=refusal)
        self.learn(after_refusal(self.limits, complaint, (subscription,), self.subscriptions.at_relay))
        self._doubts.on_page_ended(subscription.key)
        yield subscription.refused(refusal, reason)

    def _on_challenge(self, challenge: str, now: float) -> Iterator[Outcome]:
        self._auth.on_challenge(challenge)
        # A relay known to want it may give less, rather than refuse, before it has it.
        if self._auth.is_under_way or (self.limits.demands_auth and self._auth.on_auth_required(now)):
            yield from self._answer_challenge()

    def _answer_challenge(self) -> Iterator[Outcome]:
        challenge = self._auth.pending_challenge()
        if challenge is not None:
            yield AuthWanted(challenge, self._auth.address)

    def _end_auth(self, verdict: AuthResult | None, reason: str, now: float) -> Iterator[Outcome]:
        """Ask for what was held once more; what was refused before an AUTH that failed stays refused."""
        if verdict is None:
            return
        for each in [each for each in self.subscriptions if each.hold is not None]:
            if verdict is AuthResult.REFUSED and each.hold is PendingAuth.REFUSED:
                if not self.subscriptions.end(each, now):
                    continue
                refusal = RelayRefusal.WITHHELD if each.is_withheld else RelayRefusal.AUTH_REQUIRED
                self.learn(after_refusal(self.limits, Complaint(refusal), (each,), self.subscriptions.at_relay))
                yield each.refused(refusal, reason)
                continue
            if (again := self._ask_again(each, now)) is not None:
                again.was_held = True

    def _on_notice(self, text: str, now: float) -> Iterator[Outcome]:
        """A NOTICE names no subscription: it is a refusal only where it can be told whose.

        An EOSE that follows it for that one is no answer: it is closed by then.
        """
        complaint = read(text)
        refusal = complaint.refusal
        if refusal is RelayRefusal.RATE_LIMITED:
            self.subscriptions.on_dropped()
            self._pace.on_limited(now)
        ended = self.comparison.on_notice(text)
        yield from _if_any(ended)
        if ended is not None and refusal is not RelayRefusal.RATE_LIMITED:
            return
        if refusal is RelayRefusal.ERROR and classify_notice(text) in (NoticeType.EMPTY, NoticeType.UNKNOWN):
            return
        self._outset.on_refusal()
        dead = meant(complaint, text, self.subscriptions.asked)
        if not dead and (refusal.may_be_of_size or refusal.asks_for_less):
            pages = [each for each in self.subscriptions.asked if each.is_page and not each.answered]
            self._doubts.begin(pages, refusal, text, now)
        if not dead and refusal is RelayRefusal.UNSUPPORTED:
            self._doubts.begin_live([each for each in self.subscriptions.asked if each.asks_for_none], text, now)
        if not dead:
            return
        refusal = taken_for(complaint, dead)
        told = []
        for each in dead:
            is_restored = refusal is RelayRefusal.RATE_LIMITED and self.subscriptions.restore(each)
            if is_restored or self.subscriptions.end_by_us(each, now):
                told.append(each)
            self._doubts.on_page_ended(each.key)
        self.learn(after_refusal(self.limits, replace(complaint, refusal=refusal), dead, self.subscriptions.at_relay))
        for each in told:
            yield each.refused(refusal, text)

    # Silence.

    def _on_answer(self, subscription: Subscription, now: float) -> None:
        """Repeat what was sent before the relay heard anything, once that is known."""
        if not self._outset.on_answer(subscription):
            return
        earlier = [each for each in self.subscriptions.asked if each.number < subscription.number]
        for each in [each for each in earlier if not each.answered]:
            self._ask_again(each, now)

    def _repeat_one(self, now: float) -> None:
        if self._outset.repeat_at is None or now < self._outset.repeat_at:
            return
        page = next((each for each in self.subscriptions.asked if each.is_page and not each.answered), None)
        self._outset.on_repeated(None if page is None else self._ask_again(page, now))

    def _ask_for_one(self, now: float) -> None:
        """Let live subscriptions ask for a stored event where `limit: 0` has no answer, while later pages have one.

        Some relays send no EOSE then, and others do not subscribe. Which it is does not show, so nothing is learned.
        """
        if not self._answers.pages:
            return
        none = [each for each in self.subscriptions.asked if each.asks_for_none and not each.answered]
        for each in [each for each in none if each.deadline <= now]:
            if self._answers.passed_by(each) and not self.subscriptions.is_retiring(each):
                self.open_live(each.key, [replace(one, limit=1) for one in each.filters], now)


def _if_any(outcome: NegMessageReceived | NegFinished | None) -> Iterator[Outcome]:
    if outcome is not None:
        yield outcome
