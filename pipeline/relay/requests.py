"""What is asked for on one connection, within what the relay allows. Pure; times are monotonic seconds.

A live subscription that is replaced stays until its successor is open (`succession.py`); what was sent before the relay
listened is repeated (`silence.py`); which of them are open under which id stands in `open_subscriptions.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.nostr.filter import Filter
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.negentropy_session import NegentropyExchange
from pipeline.relay.open_subscriptions import OpenSubscriptions
from pipeline.relay.silence import Outset
from pipeline.relay.subscription import LIVE_PREFIX, PAGE_PREFIX, Subscription
from pipeline.relay.succession import RecentIds


class Requests:
    """The requests of one connection: opened where there is room, repeated and replaced without a loss."""

    __slots__ = ("_limits", "_torn", "exchange", "outset", "subscriptions")

    def __init__(self, limits: LearnedLimits) -> None:
        self._limits = limits
        self.subscriptions = OpenSubscriptions()
        self.exchange = NegentropyExchange(self.subscriptions.outgoing)
        self.outset = Outset()
        # Keys of live subscriptions that were closed, or brought nothing, before their successors were asked for.
        self._torn: list[str] = []

    @property
    def limits(self) -> RelayLimits:
        """What the relay allows, as far as is known now."""
        return self._limits.now

    def learn(self, limits: RelayLimits) -> None:
        """Go by `limits` from now on, on later connections too."""
        self._limits.learn(limits)

    def has_room(self) -> bool:
        """Return True if the relay's limit leaves room for another subscription."""
        return len(self.subscriptions) + self.exchange.is_open < self.limits.max_subscriptions

    def room_for_pages(self, most: int) -> int:
        """Return how many more pages may be asked for now, of `most` at once."""
        pages = len(self.subscriptions.pages)
        room = min(self.limits.max_subscriptions - len(self.subscriptions), most - pages)
        return max(0, room - self.exchange.is_open)

    # Opening.

    def open_live(self, key: str, filters: Sequence[Filter], now: float) -> None:
        """Subscribe to what is new under `key`; an open subscription of that key is replaced.

        Nothing falls between, or `take_torn` reports it.
        """
        current = self.subscriptions.live(key)
        if current is None:
            self._open(self._new_id(LIVE_PREFIX), key, filters, now)
        elif self.limits.adds_requests:
            self._succeed(current, filters, now)
        else:
            self._open(current.id, key, filters, now).copies = RecentIds()

    def open_page(
        self, key: str, filters: Sequence[Filter], now: float, patience: float, watched: frozenset[bytes]
    ) -> None:
        """Ask for stored events under `key`."""
        self._open(self._new_id(PAGE_PREFIX), key, filters, now, patience, watched)

    def take_torn(self) -> list[str]:
        """Return the keys of the live subscriptions that may have missed something: see `tear`."""
        torn, self._torn = self._torn, []
        return torn

    def tear(self, key: str) -> None:
        """Note that the live subscription of `key` may have missed something before its successor was asked for."""
        self._torn.append(key)

    def _succeed(self, old: Subscription, filters: Sequence[Filter], now: float) -> None:
        """Ask for `filters` under a new id, beside the old one as long as there is room."""
        if not self.has_room():
            self.subscriptions.close_followed_by(old.id, now)
        if not self.has_room():
            self.subscriptions.close(old, now)
            self.tear(old.key)
        successor = self._open(self._new_id(LIVE_PREFIX), old.key, filters, now)
        if old.id in self.subscriptions:
            self.subscriptions.retire(old, successor, now)

    def _open(
        self, subscription_id: str, key: str, filters: Sequence[Filter], now: float, patience: float = 1.0,
        watched: frozenset[bytes] = frozenset(),
    ) -> Subscription:  # fmt: skip
        is_early = not self.outset.is_over
        self.outset.on_request(now)
        return self.subscriptions.open(
            subscription_id, key, filters, now, patience=patience, watched=watched, is_early=is_early
        )

    def _new_id(self, prefix: str) -> str:
        return self.subscriptions.new_id(prefix, self.limits.max_id_length)

    def close_doubtful(self) -> None:
        """Close once more what may still be open at the relay, since it limits the rate of messages.

        All of it only where its limit of subscriptions demands it: a CLOSE is one more message.
        """
        is_full = self.subscriptions.at_relay >= self.limits.max_subscriptions
        self.subscriptions.close_doubtful(self.subscriptions.at_relay if is_full else 1)

    # Repeating.

    def ask_again(self, old: Subscription, now: float) -> Subscription | None:
        """Ask for the same under another id; None if a successor asks for it already."""
        is_early = not self.outset.is_over
        return self.subscriptions.ask_again(old, now, self.limits.max_id_length, is_early=is_early)

    def on_copy(self, subscription: Subscription, now: float) -> None:
        """Note that a relay sends an event twice: it serves a replaced request beside the one that replaced it."""
        self.learn(replace(self.limits, adds_requests=True))
        subscription.copies = None
        self._succeed(subscription, subscription.filters, now)

    def on_answer(self, subscription: Subscription, now: float) -> None:
        """Repeat what was sent before the relay heard anything, once that is known."""
        if not self.outset.on_answer(subscription):
            return
        earlier = [each for each in self.subscriptions.asked if each.number < subscription.number]
        for each in [each for each in earlier if not each.answered]:
            self.ask_again(each, now)

    def repeat_one(self, now: float) -> None:
        """Ask for one page again where nothing was answered since the connection began."""
        if self.outset.repeat_at is None or now < self.outset.repeat_at:
            return
        page = next((each for each in self.subscriptions.asked if each.is_page and not each.answered), None)
        self.outset.on_repeated(None if page is None else self.ask_again(page, now))
